//! One simulated worker.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gavel_client::{CallError, Code, Connection, Identity, Introduction, LeaseAnswer};
use gavel_core::forecast::rehearsal;
use gavel_core::ids::Digest;
use gavel_core::work::{Assignment, LeaseKey, Role};
use tokio::time::{Instant as TokioInstant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

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
    identity: Identity,
    number: u32,
    heartbeat: Duration,
    coordinator: gavel_client::Fleet,
    shared: Arc<Shared>,
    held: Mutex<Option<LeaseKey>>,
}

impl Worker {
    /// Registers the fleet's worker of this number. The roles take turns, since a synthetic run has as many units of each.
    pub(crate) async fn register(number: u32, connection: &Connection, shared: Arc<Shared>) -> Result<Self, Error> {
        let role = [Role::Sampler, Role::Judge, Role::Trainer][number as usize % 3];
        let coordinator = connection.fleet().within(ANSWER_WITHIN);
        let identity = Identity::random(role);
        let registered = coordinator.register(&identity, &introduction()).await;
        let registered = registered.map_err(|source| Error::Refused {
            what: "a worker",
            source,
        })?;
        Ok(Self {
            identity,
            number,
            heartbeat: registered.heartbeat,
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
            match self.coordinator.lease(&self.identity, WAIT_FOR_WORK).await {
                Ok(LeaseAnswer::Leased(lease)) => {
                    let (key, assignment) = (lease.key, lease.assignment);
                    let since = self
                        .shared
                        .ready
                        .granted(key.unit)
                        .map_or(asked, |ready| ready.max(asked));
                    self.shared.counts.granted(since.elapsed());
                    self.hold(Some(key.clone()));
                    return (key, assignment);
                }
                Ok(LeaseAnswer::Nothing | LeaseAnswer::Drain) => self.shared.counts.empty(),
                Err(error) => self.recover("lease", &error).await,
            }
        }
    }

    async fn complete(&self, key: LeaseKey, assignment: &Assignment) {
        let SyntheticRun { spec, assets } = &self.shared.run;
        // Every pair is decided: a shard without a decided pair would need no trainer.
        let outcome = rehearsal::decided(rehearsal::work(spec, assets.rubric.digest, assignment));
        let sent = Instant::now();
        self.shared.ready.sent(key.unit, sent);
        match self.coordinator.complete(&self.identity, &key, outcome).await {
            Ok(repeated) => self.shared.counts.completed(sent.elapsed(), repeated),
            Err(error) => self.recover("complete", &error).await,
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
            let held = self.held();
            let sent = Instant::now();
            match self.coordinator.heartbeat(&self.identity, held.as_slice(), None).await {
                Ok(_) => self.shared.counts.heartbeat(sent.elapsed()),
                Err(error) => self.recover("heartbeat", &error).await,
            }
        }
    }

    /// Counts a failed call, registers again where the coordinator has forgotten this worker, and pauses.
    async fn recover(&self, call: &str, error: &CallError) {
        self.shared.counts.failed(call, error.code(), error.message());
        if error.code() == Code::NotFound
            && let Err(error) = self.coordinator.register(&self.identity, &introduction()).await
        {
            self.shared.counts.failed("register", error.code(), error.message());
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

    fn held(&self) -> Option<LeaseKey> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, key: Option<LeaseKey>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

pub(crate) fn introduction() -> Introduction {
    Introduction {
        host: "simulated".to_owned(),
        device: "none".to_owned(),
        shares: None,
    }
}

/// A number in [0, 1) that follows from the worker and its unit, so that two loads of the same kind are alike.
fn unit_interval(worker: u32, unit: u64) -> f64 {
    let digest = Digest::of(format!("{worker} {unit}").as_bytes()).0;
    let bits = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    f64::from(bits) / 2_f64.powi(32)
}
