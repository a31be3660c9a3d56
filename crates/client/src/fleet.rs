//! What workers ask of a coordinator: to be known, to get work, to hand it in.

use std::time::Duration;

use gavel_core::ids::Digest;
use gavel_core::work::rally::{Group, Presence, RallyOutcome};
use gavel_core::work::{
    Assignment, DeviceUse, KeptAnswer, KeptRubric, LeaseKey, Outcome, PictureAnswer, SharingKey, Unusable,
    VerdictRecord,
};
use gavel_proto::v1::fleet_client::FleetClient;
use gavel_proto::{MESSAGE_BYTES_MAX, Malformed, PROTOCOL_VERSION, SECRET_METADATA, v1};
use gavel_telemetry::TraceContext;
use tonic::{Request, Response, Status};

use crate::connection::Connection;
use crate::error::CallError;
use crate::failover::Failover;
use crate::identity::Identity;
use crate::sharing::Shares;

/// How long an answer may take that the coordinator does not hold back on purpose, unless the caller says otherwise.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The fleet of a coordinator, as its workers see it.
#[derive(Debug, Clone)]
pub struct Fleet {
    connection: Connection,
    answer_within: Duration,
}

/// How a worker introduces itself.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The machine's name, for people.
    pub host: String,
    /// "cpu", "cuda:0", ...: shown to people, not interpreted.
    pub device: String,
    /// Where it serves the large blobs that it has to other workers; `None` where it does not.
    pub shares: Option<Shares>,
}

/// What a worker is told when it registers.
#[derive(Debug, Clone)]
pub struct Registered {
    /// How often it is to send a heartbeat.
    pub heartbeat: Duration,
    /// By what a worker that shares blobs knows those whom the coordinator sends; `None` for any other, and from a coordinator that sends nobody.
    pub sharing: Option<SharingTerms>,
}

/// By what a worker that shares blobs knows those whom the coordinator sends.
#[derive(Debug, Clone)]
pub struct SharingTerms {
    /// What both know.
    pub key: SharingKey,
    /// The coordinator's time, by its own count of milliseconds.
    pub now_ms: u64,
}

/// A unit that a worker was given, or a commit of somebody else that it brings its gradient sums to.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its name.
    pub key: LeaseKey,
    /// Fingerprint of the run's spec.
    pub spec: Digest,
    /// What is to be done.
    pub assignment: Assignment,
    /// For somebody else's commit: whose, and where to meet.
    pub group: Option<Group>,
    /// The trace that everything done for this lease belongs to.
    pub trace: TraceContext,
}

/// What a request for work brought.
#[derive(Debug, Clone)]
pub enum LeaseAnswer {
    /// Work.
    Leased(Box<Lease>),
    /// Nothing in the time that was given: ask again.
    Nothing,
    /// The worker was told to leave: finish what is leased, and leave.
    Drain,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// Leases that are no longer this worker's.
    pub lost: Vec<LeaseKey>,
    /// Whether the worker was told to leave.
    pub drain: bool,
}

impl Fleet {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            answer_within: ANSWER_WITHIN,
        }
    }

    /// The coordinators' addresses, separated by commas.
    pub fn addresses(&self) -> &str {
        self.connection.addresses()
    }

    /// The same fleet for a worker that waits this long for an answer, instead of 30 seconds.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self {
            answer_within: limit,
            ..self.clone()
        }
    }

    fn client(&self) -> FleetClient<Failover> {
        FleetClient::new(self.connection.transport())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn request<T>(&self, caller: &Identity, message: T) -> Request<T> {
        self.held_request(caller, message, Duration::ZERO)
    }

    /// A request that the coordinator may hold for `wait`.
    fn held_request<T>(&self, caller: &Identity, message: T, wait: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert_bin(SECRET_METADATA, caller.secret_for_the_wire());
        request.set_timeout(wait.saturating_add(self.answer_within));
        request
    }

    fn read<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, CallError> {
        answer
            .map(Response::into_inner)
            .map_err(|status| self.connection.failed(&status))
    }

    /// Introduces a worker. One that is known, or was to a coordinator before this one, keeps its name and what it holds.
    ///
    /// # Errors
    /// FAILED_PRECONDITION where the coordinator speaks another protocol version.
    pub async fn register(&self, caller: &Identity, introduction: &Introduction) -> Result<Registered, CallError> {
        let message = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            role: v1::Role::from(caller.role()).into(),
            host: introduction.host.clone(),
            pid: std::process::id(),
            device: introduction.device.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shares: introduction.shares.as_ref().map(|shares| v1::Shares {
                address: shares.address.clone(),
                certificate: shares.certificate.0.into(),
            }),
        };
        let answer = self.read(self.client().register(self.request(caller, message)).await)?;
        Ok(Registered {
            heartbeat: Duration::from_millis(answer.heartbeat_interval_ms.max(1)),
            sharing: answer.sharing.and_then(read_terms),
        })
    }

    /// Says which large blobs a worker shares, and which it has no longer or could not keep. By the answer it knows from now on those whom the
    /// coordinator sends.
    ///
    /// # Errors
    /// NOT_FOUND where the coordinator does not know that it shares any.
    pub async fn hold(
        &self,
        caller: &Identity,
        held: &[Digest],
        gone: &[Digest],
    ) -> Result<Option<SharingTerms>, CallError> {
        let names = |blobs: &[Digest]| blobs.iter().map(|blob| blob.0.into()).collect();
        let message = v1::HoldRequest {
            worker_id: caller.worker().0.clone(),
            held: names(held),
            gone: names(gone),
        };
        let answer = self.read(self.client().hold(self.request(caller, message)).await)?;
        Ok(answer.sharing.and_then(read_terms))
    }

    /// Asks for work once, and waits for it at most `wait`. A wait of nothing may end before the coordinator has looked.
    ///
    /// # Errors
    /// NOT_FOUND where the worker is not registered (any more), PERMISSION_DENIED where a run has put it into quarantine.
    pub async fn lease(&self, caller: &Identity, wait: Duration) -> Result<LeaseAnswer, CallError> {
        let message = v1::LeaseRequest {
            worker_id: caller.worker().0.clone(),
            wait_ms: milliseconds(wait),
        };
        let answer = self.read(self.client().lease(self.held_request(caller, message, wait)).await)?;
        let leased = |lease, group: Option<Group>| -> Result<LeaseAnswer, CallError> {
            let lease = read_lease(lease, group).map_err(|malformed| self.connection.unreadable(malformed))?;
            Ok(LeaseAnswer::Leased(Box::new(lease)))
        };
        match (answer.lease, answer.call) {
            (Some(lease), _) => leased(lease, None),
            (None, Some(call)) => {
                let missing = |field| self.connection.unreadable(Malformed::Missing { field });
                let commit = call.commit.ok_or_else(|| missing("Call.commit"))?;
                let group = call.group.ok_or_else(|| missing("Call.group"))?;
                leased(commit, Some(group.into()))
            }
            (None, None) if answer.drain => Ok(LeaseAnswer::Drain),
            (None, None) => Ok(LeaseAnswer::Nothing),
        }
    }

    /// Says that a worker lives and what it uses, and keeps the leases that it holds alive.
    ///
    /// # Errors
    /// NOT_FOUND where the worker is not registered (any more).
    pub async fn heartbeat(
        &self,
        caller: &Identity,
        held: &[LeaseKey],
        used: Option<DeviceUse>,
    ) -> Result<Heartbeat, CallError> {
        let message = v1::HeartbeatRequest {
            worker_id: caller.worker().0.clone(),
            leases: held.iter().cloned().map(Into::into).collect(),
            used: used.map(Into::into),
        };
        let answer = self.read(self.client().heartbeat(self.request(caller, message)).await)?;
        let lost = answer.lost.into_iter().map(LeaseKey::try_from);
        Ok(Heartbeat {
            lost: lost
                .collect::<Result<_, Malformed>>()
                .map_err(|malformed| self.connection.unreadable(malformed))?,
            drain: answer.drain,
        })
    }

    /// Hands in a result. Handing it in twice under the same fence is harmless: `true` says that it had been accepted before.
    ///
    /// # Errors
    /// FAILED_PRECONDITION under a stale fence, INVALID_ARGUMENT where the result contradicts its unit.
    pub async fn complete(&self, caller: &Identity, key: &LeaseKey, outcome: Outcome) -> Result<bool, CallError> {
        let message = v1::CompleteRequest {
            worker_id: caller.worker().0.clone(),
            key: Some(key.clone().into()),
            outcome: Some(outcome.into()),
        };
        let answer = self.read(self.client().complete(self.request(caller, message)).await)?;
        Ok(answer.repeated)
    }

    /// Says that an attempt did not work, and which inputs must be made again. With `fatal` the run stops.
    ///
    /// # Errors
    /// FAILED_PRECONDITION under a stale fence.
    pub async fn fail(&self, caller: &Identity, key: &LeaseKey, failure: &Failure) -> Result<(), CallError> {
        let message = v1::FailRequest {
            worker_id: caller.worker().0.clone(),
            key: Some(key.clone().into()),
            reason: failure.reason.clone(),
            fatal: failure.fatal,
            unusable: failure.unusable.iter().cloned().map(Into::into).collect(),
        };
        self.read(self.client().fail(self.request(caller, message)).await)
            .map(drop)
    }

    /// Gives leases back undone; `reason` says what they need and the worker could not get, if it was that.
    ///
    /// # Errors
    /// Whatever keeps the coordinator from an answer.
    pub async fn release(&self, caller: &Identity, keys: &[LeaseKey], reason: Option<&str>) -> Result<(), CallError> {
        let message = v1::ReleaseRequest {
            worker_id: caller.worker().0.clone(),
            keys: keys.iter().cloned().map(Into::into).collect(),
            reason: reason.map(str::to_owned),
        };
        self.read(self.client().release(self.request(caller, message)).await)
            .map(drop)
    }

    /// Calls the holders of a step's gradient sums together, for the holder of the step's commit, and waits for them at most
    /// `wait`. `kept` says that the caller has kept the group that met at this rendezvous.
    ///
    /// # Errors
    /// FAILED_PRECONDITION under another fence than the lease's, and where the caller is called itself.
    pub async fn rally(
        &self,
        caller: &Identity,
        key: &LeaseKey,
        rendezvous: Vec<u8>,
        kept: bool,
        wait: Duration,
    ) -> Result<RallyOutcome, CallError> {
        let message = v1::RallyRequest {
            worker_id: caller.worker().0.clone(),
            key: Some(key.clone().into()),
            rendezvous,
            wait_ms: milliseconds(wait),
            kept,
        };
        let answer = self.read(self.client().rally(self.held_request(caller, message, wait)).await)?;
        answer
            .try_into()
            .map_err(|malformed: Malformed| self.connection.unreadable(malformed))
    }

    /// Answers a call; where the worker comes, waits until all have joined.
    ///
    /// # Errors
    /// FAILED_PRECONDITION where the group is dissolved or the commit was leased again.
    pub async fn join(&self, caller: &Identity, key: &LeaseKey, presence: &Presence) -> Result<(), CallError> {
        let lost: &[Digest] = match presence {
            Presence::WithoutSums(lost) => lost,
            Presence::Ready | Presence::WithoutGroup => &[],
        };
        let message = v1::JoinRequest {
            worker_id: caller.worker().0.clone(),
            key: Some(key.clone().into()),
            lost: lost.iter().map(|sum| sum.0.to_vec()).collect(),
            not_kept: *presence == Presence::WithoutGroup,
        };
        self.read(self.client().join(self.request(caller, message)).await)
            .map(drop)
    }

    /// Asks for verdicts that were given before; those that there are, by their keys. One that cannot be read is as good as
    /// none.
    ///
    /// # Errors
    /// NOT_FOUND where the judge is not registered (any more), PERMISSION_DENIED for a worker of another role.
    pub async fn recall_verdicts(
        &self,
        caller: &Identity,
        keys: &[Digest],
    ) -> Result<Vec<(Digest, VerdictRecord)>, CallError> {
        let kept = self.recall(caller, keys).await?;
        let verdicts = kept.into_iter().filter_map(|(key, answer)| match answer {
            KeptAnswer::Verdict(record) => Some((key, record)),
            KeptAnswer::Rubric(_) | KeptAnswer::Picture(_) => None,
        });
        Ok(verdicts.collect())
    }

    /// Asks for answers about pictures that were given before; those that there are, by their keys.
    ///
    /// # Errors
    /// As [`recall_verdicts`](Self::recall_verdicts).
    pub async fn recall_answers(
        &self,
        caller: &Identity,
        keys: &[Digest],
    ) -> Result<Vec<(Digest, PictureAnswer)>, CallError> {
        let kept = self.recall(caller, keys).await?;
        let answers = kept.into_iter().filter_map(|(key, answer)| match answer {
            KeptAnswer::Picture(answer) => Some((key, answer)),
            KeptAnswer::Verdict(_) | KeptAnswer::Rubric(_) => None,
        });
        Ok(answers.collect())
    }

    /// Asks for what was written for a prompt before; `None` where nothing is kept that can be read.
    ///
    /// # Errors
    /// As [`recall_verdicts`](Self::recall_verdicts).
    pub async fn recall_rubric(&self, caller: &Identity, key: &Digest) -> Result<Option<KeptRubric>, CallError> {
        let kept = self.recall(caller, std::slice::from_ref(key)).await?;
        Ok(kept.into_iter().find_map(|(found, answer)| match answer {
            KeptAnswer::Rubric(rubric) if found == *key => Some(rubric),
            KeptAnswer::Rubric(_) | KeptAnswer::Verdict(_) | KeptAnswer::Picture(_) => None,
        }))
    }

    async fn recall(&self, caller: &Identity, keys: &[Digest]) -> Result<Vec<(Digest, KeptAnswer)>, CallError> {
        let message = v1::RecallVerdictsRequest {
            keys: keys.iter().map(|key| key.0.to_vec()).collect(),
            worker_id: caller.worker().0.clone(),
        };
        let answer = self.read(self.client().recall_verdicts(self.request(caller, message)).await)?;
        let kept = answer.verdicts.into_iter();
        Ok(kept.filter_map(|kept| kept.try_into().ok()).collect())
    }

    /// Keeps verdicts for whoever asks the same again.
    ///
    /// # Errors
    /// NOT_FOUND where the judge is not registered (any more), PERMISSION_DENIED for a worker of another role.
    pub async fn keep_verdicts(
        &self,
        caller: &Identity,
        verdicts: &[(Digest, VerdictRecord)],
    ) -> Result<(), CallError> {
        let kept = verdicts
            .iter()
            .map(|(key, record)| (*key, KeptAnswer::Verdict(record.clone())));
        self.keep(caller, kept).await
    }

    /// Keeps answers about pictures for whoever asks the same again.
    ///
    /// # Errors
    /// As [`keep_verdicts`](Self::keep_verdicts).
    pub async fn keep_answers(&self, caller: &Identity, answers: &[(Digest, PictureAnswer)]) -> Result<(), CallError> {
        let kept = answers
            .iter()
            .map(|(key, answer)| (*key, KeptAnswer::Picture(answer.clone())));
        self.keep(caller, kept).await
    }

    /// Keeps what became of the rubric of a prompt.
    ///
    /// # Errors
    /// As [`keep_verdicts`](Self::keep_verdicts).
    pub async fn keep_rubric(&self, caller: &Identity, key: &Digest, rubric: &KeptRubric) -> Result<(), CallError> {
        let kept = std::iter::once((*key, KeptAnswer::Rubric(rubric.clone())));
        self.keep(caller, kept).await
    }

    async fn keep(&self, caller: &Identity, kept: impl Iterator<Item = (Digest, KeptAnswer)>) -> Result<(), CallError> {
        let message = v1::KeepVerdictsRequest {
            verdicts: kept.map(Into::into).collect(),
            worker_id: caller.worker().0.clone(),
        };
        self.read(self.client().keep_verdicts(self.request(caller, message)).await)
            .map(drop)
    }

    /// Leaves the fleet. What the worker still holds goes to others.
    ///
    /// # Errors
    /// Whatever keeps the coordinator from an answer.
    pub async fn deregister(&self, caller: &Identity) -> Result<(), CallError> {
        let message = v1::DeregisterRequest {
            worker_id: caller.worker().0.clone(),
        };
        self.read(self.client().deregister(self.request(caller, message)).await)
            .map(drop)
    }
}

/// Why an attempt did not work.
#[derive(Debug, Clone)]
pub struct Failure {
    /// In words.
    pub reason: String,
    /// Whether trying again elsewhere cannot help: then the run stops.
    pub fatal: bool,
    /// Inputs that must be made again before anybody can do the unit.
    pub unusable: Vec<Unusable>,
}

/// Terms that cannot be read are none: the worker shares nothing, and works.
fn read_terms(terms: v1::SharingTerms) -> Option<SharingTerms> {
    let key = SharingKey::new(terms.key.try_into().ok()?);
    let now_ms = terms.now_ms;
    Some(SharingTerms { key, now_ms })
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn read_lease(lease: v1::Lease, group: Option<Group>) -> Result<Lease, Malformed> {
    let missing = |field| Malformed::Missing { field };
    Ok(Lease {
        key: lease.key.ok_or(missing("Lease.key"))?.try_into()?,
        spec: lease.spec_sha256.parse().map_err(|_| missing("Lease.spec_sha256"))?,
        assignment: lease.assignment.ok_or(missing("Lease.assignment"))?.try_into()?,
        group,
        trace: lease.traceparent.parse().map_err(|_| missing("Lease.traceparent"))?,
    })
}
