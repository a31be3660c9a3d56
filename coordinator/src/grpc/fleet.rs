//! `gavel.v1.Fleet`: how workers get work and hand it in.

use std::sync::Arc;
use std::time::Duration;

use gavel_core::bounds::{self, Bound, cut};
use gavel_core::ids::{Digest, WorkerId};
use gavel_core::run::{Event, Refusal};
use gavel_core::work::rally::Presence;
use gavel_core::work::{KeptAnswer, LeaseKey, Role};
use gavel_proto::{Malformed, v1};
use gavel_telemetry::span;
use http::uri::Authority;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::caller::{self, Caller};
use super::status;
use super::trace::LeaseTraces;
use crate::driver::{DriverError, DriverHandle};
use crate::ledger::{Ledger, write};
use crate::sharing::{Shares, Terms};
use crate::state::{Grant, LeaseAnswer};
use crate::worker::Introduction;

/// The longest that a request for work is held.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The longest that a call for gradient sums waits for the trainers that hold them.
const RALLY_MAX: Duration = Duration::from_secs(3600);

pub(super) struct Fleet {
    driver: DriverHandle,
    ledger: Arc<dyn Ledger>,
    heartbeat: Duration,
    traces: LeaseTraces,
}

impl Fleet {
    pub(super) fn new(driver: DriverHandle, ledger: Arc<dyn Ledger>, heartbeat: Duration) -> Self {
        Self {
            driver,
            ledger,
            heartbeat,
            traces: LeaseTraces::new(),
        }
    }

    fn write_lease(&self, grant: Grant, worker: &WorkerId) -> v1::Lease {
        let key = LeaseKey {
            run: grant.run,
            unit: grant.unit,
            fence: grant.fence,
        };
        let trace = self.traces.of(&key);
        span::unit(&key, worker, Some(&trace)).in_scope(|| tracing::debug!("unit leased"));
        v1::Lease {
            key: Some(key.into()),
            deadline_unix_ms: grant.deadline.0,
            spec_sha256: grant.spec.to_string(),
            assignment: Some(grant.assignment.into()),
            traceparent: trace.to_string(),
        }
    }

    /// Verdicts are kept by judges that are registered, and shown to them.
    async fn check_judge(&self, caller: Caller) -> Result<(), Status> {
        if caller.role != Role::Judge {
            return Err(Status::permission_denied("verdicts are kept by judges, and for judges"));
        }
        let registered = self.driver.check_registered(caller.worker).await;
        registered.map_err(|error| status::of_driver(&error))
    }

    /// Reports what became of a unit, in the unit's span. The trace is the request's.
    async fn report(&self, key: LeaseKey, worker: WorkerId, event: Event) -> Result<(), DriverError> {
        let span = span::unit(&key, &worker, None);
        let what = crate::state::kind(&event);
        let report = async {
            let answer = self.driver.report(key.run, event).await;
            match &answer {
                Ok(()) => tracing::debug!("{what}: accepted"),
                Err(error) => tracing::info!(%error, "{what}: refused"),
            }
            answer
        };
        report.instrument(span).await
    }
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Fleet {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        if request.protocol_version != gavel_proto::PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "the worker (Gavel {}) speaks protocol {}, this coordinator (Gavel {}) speaks protocol {}: install the same version on both",
                request.version,
                request.protocol_version,
                env!("CARGO_PKG_VERSION"),
                gavel_proto::PROTOCOL_VERSION,
            )));
        }
        let role = v1::Role::try_from(request.role).map_err(status::malformed)?;
        let role = Role::try_from(role).map_err(status::malformed)?;
        caller::check_role(&extensions, role)?;
        for (at, text) in [
            ("host", &request.host),
            ("device", &request.device),
            ("version", &request.version),
        ] {
            bounds::name(at, text).map_err(status::malformed)?;
        }
        let introduction = Introduction {
            id: caller::secret(&metadata)?.name(role),
            role,
            host: request.host,
            pid: request.pid,
            device: request.device,
            version: request.version,
            shares: request.shares.map(read_shares).transpose()?,
        };
        let worker = self
            .driver
            .register(introduction)
            .await
            .map_err(|error| status::of_driver(&error))?;
        let heartbeat_interval_ms = u64::try_from(self.heartbeat.as_millis()).unwrap_or(u64::MAX);
        let terms = self.driver.sharing().terms(&worker);
        Ok(Response::new(v1::RegisterResponse {
            worker_id: worker.0,
            heartbeat_interval_ms,
            sharing: terms.map(write_terms),
        }))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let (caller, request) = caller::read(request)?;
        let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let worker = caller.worker;
        let answer = self.driver.lease(worker.clone(), wait).await;
        let mut response = v1::LeaseResponse::default();
        match answer.map_err(|error| status::of_driver(&error))? {
            None => {}
            Some(LeaseAnswer::Drain) => response.drain = true,
            Some(LeaseAnswer::Granted(grant)) => response.lease = Some(self.write_lease(*grant, &worker)),
            Some(LeaseAnswer::Called(commit, group)) => {
                response.call = Some(v1::Call {
                    commit: Some(self.write_lease(*commit, &worker)),
                    group: Some(group.into()),
                });
            }
        }
        Ok(Response::new(response))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let (caller, request) = caller::read(request)?;
        let leases = request.leases.into_iter().map(read_key).collect::<Result<_, _>>()?;
        let used = request.used.map(TryInto::try_into).transpose();
        let used = used.map_err(|error: Malformed| status::malformed(error))?;
        let answer = self.driver.heartbeat(caller.worker, leases, used).await;
        let answer = answer.map_err(|error| status::of_driver(&error))?;
        let lost = answer.lost.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::HeartbeatResponse {
            lost,
            drain: answer.drain,
        }))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Result<Response<v1::CompleteResponse>, Status> {
        let (Caller { worker, .. }, request) = caller::read(request)?;
        let key = read_key(status::required(request.key, "key")?)?;
        let outcome = status::required(request.outcome, "outcome")?;
        let outcome = outcome
            .try_into()
            .map_err(|error: Malformed| status::malformed(error))?;
        let event = Event::Completed {
            unit: key.unit,
            worker: worker.clone(),
            fence: key.fence,
            outcome,
        };
        match self.report(key, worker, event).await {
            Ok(()) => Ok(Response::new(v1::CompleteResponse { repeated: false })),
            Err(DriverError::Refused(Refusal::Repeated { .. })) => {
                Ok(Response::new(v1::CompleteResponse { repeated: true }))
            }
            Err(error) => Err(status::of_driver(&error)),
        }
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailResponse>, Status> {
        let (Caller { worker, .. }, request) = caller::read(request)?;
        let key = read_key(status::required(request.key, "key")?)?;
        let unusable = request.unusable.into_iter().map(TryInto::try_into);
        let unusable = unusable.collect::<Result<_, Malformed>>().map_err(status::malformed)?;
        let reason = cut(request.reason);
        span::unit(&key, &worker, None).in_scope(|| {
            tracing::warn!(fatal = request.fatal, reason, "unit failed");
        });
        let event = Event::Failed {
            unit: key.unit,
            worker: worker.clone(),
            fence: key.fence,
            reason,
            fatal: request.fatal,
            unusable,
        };
        self.report(key, worker, event)
            .await
            .map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::FailResponse {}))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (Caller { worker, .. }, request) = caller::read(request)?;
        let reason = request.reason.map(cut);
        for key in request.keys {
            let key = read_key(key)?;
            let event = Event::Released {
                unit: key.unit,
                worker: worker.clone(),
                fence: key.fence,
                reason: reason.clone(),
            };
            match self.report(key, worker.clone(), event).await {
                // What is not the worker's any more need not be given back.
                Ok(()) | Err(DriverError::Refused(_)) => {}
                Err(error) => return Err(status::of_driver(&error)),
            }
        }
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn rally(&self, request: Request<v1::RallyRequest>) -> Result<Response<v1::RallyResponse>, Status> {
        let (Caller { worker, .. }, request) = caller::read(request)?;
        let key = read_key(status::required(request.key, "key")?)?;
        let wait = Duration::from_millis(request.wait_ms).min(RALLY_MAX);
        few(bounds::PATH, "rendezvous", request.rendezvous.len())?;
        let outcome = self
            .driver
            .rally(worker, key, request.rendezvous, request.kept, wait)
            .await;
        let outcome = outcome.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(outcome.into()))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let (Caller { worker, .. }, request) = caller::read(request)?;
        let key = read_key(status::required(request.key, "key")?)?;
        let lost = request.lost.iter().map(|sum| {
            let sum = sum.as_slice().try_into().map(Digest);
            sum.map_err(|_| status::malformed("`lost` must hold SHA-256 digests of 32 bytes"))
        });
        let lost = lost.collect::<Result<Vec<_>, _>>()?;
        // Sums that are lost come first: they are made again whatever becomes of the group.
        let presence = match (lost.is_empty(), request.not_kept) {
            (true, false) => Presence::Ready,
            (true, true) => Presence::WithoutGroup,
            (false, _) => Presence::WithoutSums(lost),
        };
        let joined = self.driver.join(worker, key, presence).await;
        joined.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::JoinResponse {}))
    }

    async fn recall_verdicts(
        &self,
        request: Request<v1::RecallVerdictsRequest>,
    ) -> Result<Response<v1::RecallVerdictsResponse>, Status> {
        let (caller, request) = caller::read(request)?;
        self.check_judge(caller).await?;
        few(bounds::KEPT, "keys", request.keys.len())?;
        let keys: Vec<Digest> = request
            .keys
            .iter()
            .map(|key| read_digest("a verdict's key", key))
            .collect::<Result<_, _>>()?;
        let found = self.ledger.verdicts(&keys).await;
        let found = found.map_err(|error| status::of_ledger(&error))?;
        let verdicts = keys.iter().zip(found).filter_map(|(key, text)| {
            // A row that cannot be read is as good as none.
            let answer: KeptAnswer = serde_json::from_str(&text?).ok()?;
            Some((*key, answer).into())
        });
        Ok(Response::new(v1::RecallVerdictsResponse {
            verdicts: verdicts.collect(),
        }))
    }

    async fn keep_verdicts(
        &self,
        request: Request<v1::KeepVerdictsRequest>,
    ) -> Result<Response<v1::KeepVerdictsResponse>, Status> {
        let (caller, request) = caller::read(request)?;
        self.check_judge(caller).await?;
        few(bounds::KEPT, "verdicts", request.verdicts.len())?;
        let mut texts = Vec::new();
        for kept in request.verdicts {
            let kept = kept.try_into();
            let (key, answer): (Digest, KeptAnswer) = kept.map_err(|error: Malformed| status::malformed(error))?;
            let is_worth_keeping = match &answer {
                KeptAnswer::Verdict(record) if !record.is_numeric() => {
                    return Err(status::malformed("a verdict holds a number that is none"));
                }
                KeptAnswer::Verdict(record) => record.is_judged(),
                KeptAnswer::Rubric(_) => true,
                KeptAnswer::Picture(answer) => answer.is_answered(),
            };
            if is_worth_keeping {
                let written = write(&answer).map_err(status::malformed)?;
                texts.push((key, written.text));
            }
        }
        let kept = self.ledger.keep_verdicts(&texts).await;
        kept.map_err(|error| status::of_ledger(&error))?;
        Ok(Response::new(v1::KeepVerdictsResponse {}))
    }

    async fn hold(&self, request: Request<v1::HoldRequest>) -> Result<Response<v1::HoldResponse>, Status> {
        let (caller, request) = caller::read(request)?;
        few(bounds::HELD, "held", request.held.len())?;
        few(bounds::HELD, "gone", request.gone.len())?;
        let names = |blobs: Vec<Vec<u8>>| -> Result<Vec<Digest>, Status> {
            blobs.iter().map(|blob| read_digest("a blob's name", blob)).collect()
        };
        let (held, gone) = (names(request.held)?, names(request.gone)?);
        let terms = self.driver.sharing().hold(&caller.worker, &held, &gone);
        let terms = terms.ok_or_else(|| Status::not_found("this worker is not known to share blobs"))?;
        Ok(Response::new(v1::HoldResponse {
            sharing: Some(write_terms(terms)),
        }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let (caller, _) = caller::read(request)?;
        self.driver
            .deregister(caller.worker)
            .await
            .map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::DeregisterResponse {}))
    }
}

fn few(bound: Bound, at: &str, found: usize) -> Result<(), Status> {
    bound.check(at, found).map_err(status::malformed)
}

fn read_digest(what: &str, bytes: &[u8]) -> Result<Digest, Status> {
    let digest = bytes.try_into().map(Digest);
    digest.map_err(|_| status::malformed(format!("{what} must be a SHA-256 digest of 32 bytes")))
}

/// Where a worker shares its blobs. Whoever is sent there dials nothing that is not a host and a port.
fn read_shares(shares: v1::Shares) -> Result<Shares, Status> {
    let v1::Shares { address, certificate } = shares;
    bounds::name("shares.address", &address).map_err(status::malformed)?;
    let is_dialled = address.parse::<Authority>().is_ok_and(|authority| {
        let is_plain = !authority.host().is_empty() && !authority.as_str().contains('@');
        is_plain && authority.port_u16().is_some()
    });
    if !is_dialled {
        return Err(status::malformed("`shares.address` must be HOST:PORT"));
    }
    let certificate = read_digest("`shares.certificate`", &certificate)?;
    Ok(Shares { address, certificate })
}

fn write_terms(terms: Terms) -> v1::SharingTerms {
    v1::SharingTerms {
        key: terms.key.bytes().into(),
        now_ms: terms.now_ms,
    }
}

fn read_key(key: v1::LeaseKey) -> Result<LeaseKey, Status> {
    key.try_into().map_err(|error: Malformed| status::malformed(error))
}
