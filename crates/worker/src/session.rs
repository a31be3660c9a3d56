//! The conversation with the coordinator, as one worker: what is asked again when nobody answers, and for how long.

use std::time::{Duration, Instant};

use gavel_client::{
    CallError, Code, Connection, Failure, Fleet, Heartbeat, Identity, Introduction, LeaseAnswer, Registered, persist,
};
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Digest, WorkerId};
use gavel_core::work::rally::{Presence, RallyOutcome};
use gavel_core::work::{DeviceUse, KeptRubric, LeaseKey, Outcome, PictureAnswer, Role, VerdictRecord};

use crate::error::Error;
use crate::options::WorkerOptions;
use crate::sharer::KeptSharer;

/// How long the coordinator may hold a request for work.
const WAIT_FOR_WORK: Duration = Duration::from_secs(20);
/// How much longer than it may hold a request the coordinator's answer may take.
const HELD_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long the answer may take to a worker that has joined a group: longer than anybody waits for the others.
const JOINED_ANSWER_WITHIN: Duration = Duration::from_secs(180);
/// The least time that an answer to a heartbeat, and to what a worker says that it shares, may take.
const HEARTBEAT_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a worker that leaves waits for somebody to hear it.
const FAREWELL_WITHIN: Duration = Duration::from_secs(3);

/// A registered worker. Clones are the same worker.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    fleet: Fleet,
    identity: Identity,
    introduction: Introduction,
    /// What this worker shares, and from where.
    sharer: Option<KeptSharer>,
    pub(crate) heartbeat: Duration,
}

impl Session {
    /// Registers a worker of this role, which has looked for the coordinator since `began`, and does so as long as the options say.
    pub(crate) async fn register(
        connection: &Connection,
        role: Role,
        options: &WorkerOptions,
        sharer: Option<KeptSharer>,
        began: Instant,
    ) -> Result<Self, Error> {
        let fleet = connection.fleet();
        let identity = Identity::random(role);
        let introduction = Introduction {
            host: host_name(),
            device: options.device.clone(),
            shares: sharer.as_ref().map(KeptSharer::shares),
        };
        let attempts = persist("register", || {
            introduce(&fleet, &identity, &introduction, sharer.as_ref())
        });
        let answer = match options.connect_within {
            None => attempts.await,
            Some(waited) => {
                let answer = tokio::time::timeout(waited.saturating_sub(began.elapsed()), attempts).await;
                answer.map_err(|_| Error::Unreachable {
                    addresses: fleet.addresses().to_owned(),
                    waited,
                })?
            }
        };
        let registered = answer.map_err(|error| Error::Refused {
            addresses: fleet.addresses().to_owned(),
            reason: error.message().to_owned(),
            remedy: error.hint(),
        })?;
        tracing::info!(worker = %identity.worker(), address = fleet.addresses(), "registered");
        Ok(Self {
            fleet,
            identity,
            introduction,
            sharer,
            heartbeat: registered.heartbeat,
        })
    }

    /// Says what this worker shares and what it does not any more, until it is dropped.
    pub(crate) async fn tell_what_is_kept(self) {
        let Some(sharer) = &self.sharer else { return };
        // A registration waits for the answer.
        let fleet = &self.fleet.within(self.heartbeat.max(HEARTBEAT_ANSWER_WITHIN));
        let identity = &self.identity;
        let hold = |held: Vec<Digest>, gone: Vec<Digest>| async move { fleet.hold(identity, &held, &gone).await };
        loop {
            // Untold, it is not asked for what it has, or asked in vain: it costs somebody a try.
            if let Err(error) = sharer.tell(hold).await {
                tracing::debug!(
                    message = error.message(),
                    "the coordinator did not hear which blobs are shared"
                );
                tokio::time::sleep(self.heartbeat).await;
            }
        }
    }

    /// The worker's name.
    pub(crate) fn worker(&self) -> &WorkerId {
        self.identity.worker()
    }

    /// The coordinators' addresses, for people.
    pub(crate) fn addresses(&self) -> &str {
        self.fleet.addresses()
    }

    /// Registers again under the same name, after the coordinator restarted or gave this worker up.
    pub(crate) async fn register_again(&self) -> Result<(), CallError> {
        introduce(&self.fleet, &self.identity, &self.introduction, self.sharer.as_ref()).await?;
        tracing::info!(worker = %self.worker(), "registered again");
        Ok(())
    }

    /// Asks once for work.
    pub(crate) async fn lease(&self) -> Result<LeaseAnswer, CallError> {
        let fleet = self.fleet.within(HELD_ANSWER_WITHIN);
        fleet.lease(&self.identity, WAIT_FOR_WORK).await
    }

    /// Calls the holders of gradient sums together, and waits for them at most `wait`. Asks once: what was lost with an answer
    /// is a group that somebody has joined already.
    pub(crate) async fn rally(
        &self,
        key: &LeaseKey,
        rendezvous: Vec<u8>,
        kept: bool,
        wait: Duration,
    ) -> Result<RallyOutcome, CallError> {
        let fleet = self.fleet.within(HELD_ANSWER_WITHIN);
        fleet.rally(&self.identity, key, rendezvous, kept, wait).await
    }

    /// Answers a call; where this worker comes, waits until all have joined.
    pub(crate) async fn join(&self, key: &LeaseKey, presence: &Presence) -> Result<(), CallError> {
        let fleet = self.fleet.within(JOINED_ANSWER_WITHIN);
        persist("join", || fleet.join(&self.identity, key, presence)).await
    }

    /// Says that this worker lives, and what it uses.
    pub(crate) async fn heartbeat(&self, held: &[LeaseKey], used: Option<DeviceUse>) -> Result<Heartbeat, CallError> {
        let fleet = self.fleet.within(self.heartbeat.max(HEARTBEAT_ANSWER_WITHIN));
        fleet.heartbeat(&self.identity, held, used).await
    }

    /// Hands a result in, over restarts of the coordinator.
    pub(crate) async fn complete(&self, key: &LeaseKey, outcome: &Outcome) -> Result<(), CallError> {
        // Whether it had been accepted before makes no difference here.
        let complete = || self.fleet.complete(&self.identity, key, outcome.clone());
        persist("complete", complete).await.map(drop)
    }

    /// Says that an attempt did not work, over restarts of the coordinator.
    pub(crate) async fn fail(&self, key: &LeaseKey, failure: &Failure) -> Result<(), CallError> {
        persist("fail", || self.fleet.fail(&self.identity, key, failure)).await
    }

    /// Asks for verdicts that were given before; those that there are, by their keys.
    pub(crate) async fn recall_verdicts(&self, keys: &[Digest]) -> Result<Vec<(Digest, VerdictRecord)>, CallError> {
        self.registered(|| self.fleet.recall_verdicts(&self.identity, keys))
            .await
    }

    /// Keeps verdicts for whoever asks the same again.
    pub(crate) async fn keep_verdicts(&self, verdicts: &[(Digest, VerdictRecord)]) -> Result<(), CallError> {
        self.registered(|| self.fleet.keep_verdicts(&self.identity, verdicts))
            .await
    }

    /// Asks for answers about pictures that were given before; those that there are, by their keys.
    pub(crate) async fn recall_answers(&self, keys: &[Digest]) -> Result<Vec<(Digest, PictureAnswer)>, CallError> {
        self.registered(|| self.fleet.recall_answers(&self.identity, keys))
            .await
    }

    /// Keeps answers about pictures for whoever asks the same again.
    pub(crate) async fn keep_answers(&self, answers: &[(Digest, PictureAnswer)]) -> Result<(), CallError> {
        self.registered(|| self.fleet.keep_answers(&self.identity, answers))
            .await
    }

    /// Asks for what was written for a prompt before.
    pub(crate) async fn recall_rubric(&self, key: &Digest) -> Result<Option<KeptRubric>, CallError> {
        self.registered(|| self.fleet.recall_rubric(&self.identity, key)).await
    }

    /// Keeps what became of the rubric of a prompt.
    pub(crate) async fn keep_rubric(&self, key: &Digest, rubric: &KeptRubric) -> Result<(), CallError> {
        self.registered(|| self.fleet.keep_rubric(&self.identity, key, rubric))
            .await
    }

    /// Makes a call that the coordinator takes from registered workers only: once more where it had forgotten this one.
    async fn registered<T, F>(&self, call: impl Fn() -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        match call().await {
            Err(error) if error.code() == Code::NotFound => {
                self.register_again().await?;
                call().await
            }
            answer => answer,
        }
    }

    /// Gives leases back, if the coordinator is there to hear it; otherwise they expire. `reason` says what they need and this
    /// worker could not get, if it was that.
    pub(crate) async fn release(&self, keys: &[LeaseKey], reason: Option<&str>) -> Result<(), CallError> {
        let fleet = self.fleet.within(FAREWELL_WITHIN);
        fleet.release(&self.identity, keys, reason).await
    }

    /// Leaves the fleet, if the coordinator is there to hear it.
    pub(crate) async fn deregister(&self) -> Result<(), CallError> {
        let fleet = self.fleet.within(FAREWELL_WITHIN);
        fleet.deregister(&self.identity).await
    }
}

async fn introduce(
    fleet: &Fleet,
    identity: &Identity,
    introduction: &Introduction,
    sharer: Option<&KeptSharer>,
) -> Result<Registered, CallError> {
    let call = fleet.register(identity, introduction);
    match sharer {
        Some(sharer) => sharer.register(call).await,
        None => call.await,
    }
}

/// The machine's name, for people; Linux tells it in a file.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
