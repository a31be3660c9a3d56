//! One simulated worker.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gavel_core::forecast::rehearsal;
use gavel_core::ids::{Digest, WorkerId};
use gavel_core::work::{Assignment, Role};
use gavel_proto::v1;
use gavel_proto::v1::fleet_client::FleetClient;
use gavel_proto::{LeaseKey, Malformed};
use tokio::time::{Instant as TokioInstant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::error::Error;
use crate::ready::ReadySince;
use crate::synthetic::SyntheticRun;
use crate::tally::Counts;

/// How long the coordinator may hold a request for work; the same that real workers allow.
const WAIT_FOR_WORK: Duration = Duration::from_secs(20);
/// How long an answer may take that the coordinator does not hold back on purpose. Longer than real workers allow, so that
/// an overloaded coordinator shows as latency.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The pause after a failed call.
const PAUSE: Duration = Duration::from_millis(500);

/// What the workers of a fleet share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) run: SyntheticRun,
    pub(crate) work: Duration,
    pub(crate) counts: Counts,
    pub(crate) ready: ReadySince,
}

/// One simulated worker.
#[derive(Debug)]
pub(crate) struct Worker {
    id: WorkerId,
    role: Role,
    number: u32,
    heartbeat: Duration,
    coordinator: FleetClient<Channel>,
    shared: Arc<Shared>,
    held: Mutex<Option<v1::LeaseKey>>,
}

impl Worker {
    /// Registers the fleet's worker of this number. The roles take turns, since a synthetic run has as many units of each.
    pub(crate) async fn register(number: u32, channel: Channel, shared: Arc<Shared>) -> Result<Self, Error> {
        let role = [Role::Sampler, Role::Judge, Role::Trainer][number as usize % 3];
        let mut coordinator = FleetClient::new(channel);
        let registered = introduce(&mut coordinator, role, None)
            .await
            .map_err(|status| Error::Refused {
                what: "a worker",
                status: Box::new(status),
            })?;
        Ok(Self {
            id: WorkerId(registered.worker_id),
            role,
            number,
            heartbeat: Duration::from_millis(registered.heartbeat_interval_ms.max(1)),
            coordinator,
            shared,
            held: Mutex::new(None),
        })
    }

    /// Works and sends heartbeats until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let both = async { tokio::join!(self.work(), self.beat()) };
        // Whatever is under way is dropped, as when a machine loses its power.
        stop.run_until_cancelled(both).await;
    }

    async fn work(&self) {
        for unit in 0.. {
            let asked = Instant::now();
            let (key, assignment) = self.lease(asked).await;
            let pause = self.work_time(unit);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            self.complete(key, &assignment).await;
        }
    }

    /// Asks for work until there is some. Only answers without a lease and failed calls repeat it, both slowly.
    async fn lease(&self, asked: Instant) -> (LeaseKey, Assignment) {
        loop {
            match self.lease_once().await {
                Ok(Some((key, assignment))) => {
                    let since = self
                        .shared
                        .ready
                        .granted(key.unit)
                        .map_or(asked, |ready| ready.max(asked));
                    self.shared.counts.granted(since.elapsed());
                    self.hold(Some(key.clone().into()));
                    return (key, assignment);
                }
                Ok(None) => self.shared.counts.empty(),
                Err(status) => self.recover("lease", &status).await,
            }
        }
    }

    async fn lease_once(&self) -> Result<Option<(LeaseKey, Assignment)>, Status> {
        let message = v1::LeaseRequest {
            worker_id: self.id.0.clone(),
            wait_ms: u64::try_from(WAIT_FOR_WORK.as_millis()).unwrap_or(u64::MAX),
        };
        let request = within(message, WAIT_FOR_WORK + ANSWER_WITHIN);
        let response = self.coordinator.clone().lease(request).await?.into_inner();
        response.lease.map(read_lease).transpose()
    }

    async fn complete(&self, key: LeaseKey, assignment: &Assignment) {
        let SyntheticRun { spec, assets } = &self.shared.run;
        // Every pair is decided: a shard without a decided pair would need no trainer.
        let outcome = rehearsal::decided(rehearsal::work(spec, assets.rubric.digest, assignment));
        let unit = key.unit;
        let message = v1::CompleteRequest {
            worker_id: self.id.0.clone(),
            key: Some(key.into()),
            outcome: Some(outcome.into()),
        };
        let sent = Instant::now();
        self.shared.ready.sent(unit, sent);
        match self.coordinator.clone().complete(within(message, ANSWER_WITHIN)).await {
            Ok(answer) => {
                let repeated = answer.into_inner().repeated;
                self.shared.counts.completed(sent.elapsed(), repeated);
            }
            Err(status) => self.recover("complete", &status).await,
        }
        self.hold(None);
    }

    async fn beat(&self) {
        // Spread over the interval, as the beats of a fleet that grew over time are.
        let first = TokioInstant::now() + self.heartbeat.mul_f64(unit_interval(self.number, u64::MAX));
        let mut beats = tokio::time::interval_at(first, self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            let message = v1::HeartbeatRequest {
                worker_id: self.id.0.clone(),
                leases: self.held().into_iter().collect(),
            };
            let sent = Instant::now();
            match self.coordinator.clone().heartbeat(within(message, ANSWER_WITHIN)).await {
                Ok(_) => self.shared.counts.heartbeat(sent.elapsed()),
                Err(status) => self.recover("heartbeat", &status).await,
            }
        }
    }

    /// Counts a failed call, registers again where the coordinator has forgotten this worker, and pauses.
    async fn recover(&self, call: &str, status: &Status) {
        self.shared.counts.failed(call, status);
        if status.code() == Code::NotFound
            && let Err(status) = introduce(&mut self.coordinator.clone(), self.role, Some(self.id.0.clone())).await
        {
            self.shared.counts.failed("register", &status);
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// Between half and one and a half of the mean; the first unit between nothing and twice the mean, so that workers that
    /// began together drift apart.
    fn work_time(&self, unit: u64) -> Duration {
        let share = unit_interval(self.number, unit);
        let factor = if unit == 0 { 2.0 * share } else { 0.5 + share };
        self.shared.work.mul_f64(factor)
    }

    fn held(&self) -> Option<v1::LeaseKey> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, key: Option<v1::LeaseKey>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

async fn introduce(
    coordinator: &mut FleetClient<Channel>,
    role: Role,
    worker_id: Option<String>,
) -> Result<v1::RegisterResponse, Status> {
    let introduction = v1::RegisterRequest {
        protocol_version: gavel_proto::PROTOCOL_VERSION,
        role: v1::Role::from(role).into(),
        host: "simulated".to_owned(),
        pid: std::process::id(),
        device: "none".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker_id,
    };
    Ok(coordinator
        .register(within(introduction, ANSWER_WITHIN))
        .await?
        .into_inner())
}

fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn read_lease(lease: v1::Lease) -> Result<(LeaseKey, Assignment), Status> {
    let unreadable = |malformed: Malformed| Status::failed_precondition(malformed.to_string());
    let missing = |field| unreadable(Malformed::Missing { field });
    let key = lease.key.ok_or_else(|| missing("Lease.key"))?;
    let assignment = lease.assignment.ok_or_else(|| missing("Lease.assignment"))?;
    Ok((
        key.try_into().map_err(unreadable)?,
        assignment.try_into().map_err(unreadable)?,
    ))
}

/// A number in [0, 1) that follows from the worker and its unit, so that two loads of the same kind are alike.
fn unit_interval(worker: u32, unit: u64) -> f64 {
    let digest = Digest::of(format!("{worker} {unit}").as_bytes()).0;
    let bits = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    f64::from(bits) / 2_f64.powi(32)
}
