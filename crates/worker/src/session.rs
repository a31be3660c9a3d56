//! The conversation with the coordinator, as one worker.

use std::time::Duration;

use gavel_core::ids::{Digest, WorkerId};
use gavel_core::work::VerdictRecord;
use gavel_core::work::rally::{Group, RallyOutcome};
use gavel_core::work::{Outcome, Role, Unusable};
use gavel_proto::{LeaseKey, Malformed, v1};
use tonic::{Code, Status};

use crate::connection::{Connection, persist, prompt, within};
use crate::error::Error;
use crate::lease::Lease;
use crate::options::WorkerOptions;

/// How long the coordinator may hold a request for work.
const WAIT_FOR_WORK: Duration = Duration::from_secs(20);

/// A registered worker. Clones are the same worker.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) worker: WorkerId,
    pub(crate) heartbeat: Duration,
    role: Role,
    device: String,
}

/// What a request for work brought.
pub(crate) enum Answer {
    Leased(Box<Lease>),
    Nothing,
    Drain,
}

impl Session {
    /// Registers, looking for the coordinator as long as the options say.
    pub(crate) async fn register(connection: Connection, options: &WorkerOptions) -> Result<Self, Error> {
        let address = connection.address.clone();
        let introduction = introduction(options.role, &options.device, None);
        let attempts = persist("register", || introduce(&connection, introduction.clone()));
        let registered = match options.connect_within {
            None => attempts.await,
            Some(limit) => match tokio::time::timeout(limit, attempts).await {
                Ok(registered) => registered,
                Err(_) => Err(Status::deadline_exceeded("nobody answered")),
            },
        };
        let response = registered.map_err(|status| match (status.code(), options.connect_within) {
            (Code::DeadlineExceeded, Some(waited)) => Error::Unreachable {
                address: address.clone(),
                waited,
                source: Box::new(status),
            },
            _ => Error::Refused {
                address: address.clone(),
                reason: status.message().to_owned(),
            },
        })?;
        let heartbeat = Duration::from_millis(response.heartbeat_interval_ms.max(1));
        tracing::info!(worker = response.worker_id, address, "registered");
        Ok(Self {
            connection,
            worker: WorkerId(response.worker_id),
            heartbeat,
            role: options.role,
            device: options.device.clone(),
        })
    }

    /// Registers again under the same name, after the coordinator restarted or gave this worker up.
    pub(crate) async fn register_again(&self) -> Result<(), Status> {
        let introduction = introduction(self.role, &self.device, Some(self.worker.0.clone()));
        introduce(&self.connection, introduction).await?;
        tracing::info!(worker = %self.worker, "registered again");
        Ok(())
    }

    /// Asks once for work.
    pub(crate) async fn lease(&self) -> Result<Answer, Status> {
        let message = v1::LeaseRequest {
            worker_id: self.worker.0.clone(),
            wait_ms: u64::try_from(WAIT_FOR_WORK.as_millis()).unwrap_or(u64::MAX),
        };
        let request = within(message, WAIT_FOR_WORK + Duration::from_secs(10));
        let response = self.connection.fleet().lease(request).await?.into_inner();
        match (response.lease, response.call) {
            (Some(lease), _) => Ok(Answer::Leased(Box::new(read_lease(lease, None)?))),
            (None, Some(call)) => {
                let missing = |field| unreadable(&Malformed::Missing { field });
                let commit = call.commit.ok_or_else(|| missing("Call.commit"))?;
                let group = call.group.ok_or_else(|| missing("Call.group"))?;
                Ok(Answer::Leased(Box::new(read_lease(commit, Some(group.into()))?)))
            }
            (None, None) if response.drain => Ok(Answer::Drain),
            (None, None) => Ok(Answer::Nothing),
        }
    }

    /// Calls the holders of gradient sums together, and waits for them at most `wait`. Asks once: what was lost with an answer
    /// is a group that somebody has joined already.
    pub(crate) async fn rally(
        &self,
        key: &LeaseKey,
        rendezvous: Vec<u8>,
        wait: Duration,
    ) -> Result<RallyOutcome, Status> {
        let message = v1::RallyRequest {
            worker_id: self.worker.0.clone(),
            key: Some(key.clone().into()),
            rendezvous,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let request = within(message, wait + Duration::from_secs(10));
        let response = self.connection.fleet().rally(request).await?.into_inner();
        response
            .try_into()
            .map_err(|malformed: Malformed| unreadable(&malformed))
    }

    /// Answers a call, with the sums that this worker was to bring and does not have.
    pub(crate) async fn join(&self, key: &LeaseKey, lost: &[Digest]) -> Result<(), Status> {
        let message = v1::JoinRequest {
            worker_id: self.worker.0.clone(),
            key: Some(key.clone().into()),
            lost: lost.iter().map(|sum| sum.0.to_vec()).collect(),
        };
        persist("join", || {
            let mut fleet = self.connection.fleet();
            let request = prompt(message.clone());
            async move { fleet.join(request).await }
        })
        .await?;
        Ok(())
    }

    /// Says that this worker lives. Returns the leases that it no longer has, and whether the fleet drains.
    pub(crate) async fn heartbeat(&self, held: &[LeaseKey]) -> Result<(Vec<LeaseKey>, bool), Status> {
        let message = v1::HeartbeatRequest {
            worker_id: self.worker.0.clone(),
            leases: held.iter().cloned().map(Into::into).collect(),
        };
        let response = self
            .connection
            .fleet()
            .heartbeat(within(message, self.heartbeat.max(Duration::from_secs(5))))
            .await?;
        let response = response.into_inner();
        let lost = response.lost.into_iter().map(read_key).collect::<Result<_, _>>()?;
        Ok((lost, response.drain))
    }

    /// Hands a result in, over restarts of the coordinator.
    pub(crate) async fn complete(&self, key: &LeaseKey, outcome: Outcome) -> Result<(), Status> {
        let message = v1::CompleteRequest {
            worker_id: self.worker.0.clone(),
            key: Some(key.clone().into()),
            outcome: Some(outcome.into()),
        };
        persist("complete", || {
            let mut fleet = self.connection.fleet();
            let request = prompt(message.clone());
            async move { fleet.complete(request).await }
        })
        .await?;
        Ok(())
    }

    /// Says that an attempt did not work, over restarts of the coordinator.
    pub(crate) async fn fail(
        &self,
        key: &LeaseKey,
        reason: String,
        fatal: bool,
        unusable: Vec<Unusable>,
    ) -> Result<(), Status> {
        let message = v1::FailRequest {
            worker_id: self.worker.0.clone(),
            key: Some(key.clone().into()),
            reason,
            fatal,
            unusable: unusable.into_iter().map(Into::into).collect(),
        };
        persist("fail", || {
            let mut fleet = self.connection.fleet();
            let request = prompt(message.clone());
            async move { fleet.fail(request).await }
        })
        .await?;
        Ok(())
    }

    /// Asks for verdicts that were given before; those that there are, by their keys.
    pub(crate) async fn recall_verdicts(&self, keys: &[Digest]) -> Result<Vec<(Digest, VerdictRecord)>, Status> {
        let message = v1::RecallVerdictsRequest {
            keys: keys.iter().map(|key| key.0.to_vec()).collect(),
        };
        let response = self.connection.fleet().recall_verdicts(prompt(message)).await?;
        let kept = response.into_inner().verdicts.into_iter().filter_map(|kept| {
            let key = Digest(kept.key.try_into().ok()?);
            Some((key, kept.record?.try_into().ok()?))
        });
        Ok(kept.collect())
    }

    /// Keeps verdicts for whoever asks the same again.
    pub(crate) async fn keep_verdicts(&self, verdicts: &[(Digest, VerdictRecord)]) -> Result<(), Status> {
        let kept = verdicts.iter().map(|(key, record)| v1::KeptVerdict {
            key: key.0.to_vec(),
            record: Some(record.clone().into()),
        });
        let message = v1::KeepVerdictsRequest {
            verdicts: kept.collect(),
        };
        self.connection.fleet().keep_verdicts(prompt(message)).await?;
        Ok(())
    }

    /// Gives a lease back, if the coordinator is there to hear it; otherwise it expires.
    pub(crate) async fn release(&self, keys: &[LeaseKey]) -> Result<(), Status> {
        let message = v1::ReleaseRequest {
            worker_id: self.worker.0.clone(),
            keys: keys.iter().cloned().map(Into::into).collect(),
        };
        self.connection
            .fleet()
            .release(within(message, Duration::from_secs(3)))
            .await?;
        Ok(())
    }

    /// Leaves the fleet, if the coordinator is there to hear it.
    pub(crate) async fn deregister(&self) -> Result<(), Status> {
        let message = v1::DeregisterRequest {
            worker_id: self.worker.0.clone(),
        };
        self.connection
            .fleet()
            .deregister(within(message, Duration::from_secs(3)))
            .await?;
        Ok(())
    }
}

fn introduction(role: Role, device: &str, worker_id: Option<String>) -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol_version: gavel_proto::PROTOCOL_VERSION,
        role: v1::Role::from(role).into(),
        host: host_name(),
        pid: std::process::id(),
        device: device.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker_id,
    }
}

/// The machine's name, for people; Linux tells it in a file.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

async fn introduce(connection: &Connection, introduction: v1::RegisterRequest) -> Result<v1::RegisterResponse, Status> {
    Ok(connection.fleet().register(prompt(introduction)).await?.into_inner())
}

fn read_key(key: v1::LeaseKey) -> Result<LeaseKey, Status> {
    key.try_into().map_err(|malformed: Malformed| unreadable(&malformed))
}

fn read_lease(lease: v1::Lease, group: Option<Group>) -> Result<Lease, Status> {
    let missing = |field| unreadable(&Malformed::Missing { field });
    let assignment = lease.assignment.ok_or_else(|| missing("Lease.assignment"))?;
    Ok(Lease {
        key: read_key(lease.key.ok_or_else(|| missing("Lease.key"))?)?,
        spec: lease.spec_sha256.parse().map_err(|_| missing("Lease.spec_sha256"))?,
        assignment: assignment
            .try_into()
            .map_err(|malformed: Malformed| unreadable(&malformed))?,
        group,
    })
}

/// An answer that breaks the protocol is final: asking again would bring the same.
fn unreadable(malformed: &Malformed) -> Status {
    Status::failed_precondition(format!("the coordinator's answer cannot be read: {malformed}"))
}
