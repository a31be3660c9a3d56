//! What a unit of work may use.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gavel_client::{CallError, Code};
use gavel_core::ids::{Digest, WorkerId};
use gavel_core::work::rally::{Presence, RallyOutcome};
use gavel_core::work::{KeptRubric, LeaseKey, PictureAnswer, Unusable, VerdictRecord};
use gavel_telemetry::TraceContext;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::session::Session;
use crate::work::WorkError;

/// What a unit of work may use: blobs, and word of its cancellation. For code that runs outside of tokio.
#[derive(Debug)]
pub struct WorkContext {
    blobs: Blobs,
    runtime: Runtime,
    cancelled: CancellationToken,
    uploads: Mutex<JoinSet<Result<(), WorkError>>>,
    /// Under which lease, and as whom; `None` without a coordinator.
    fleet: Option<(Session, LeaseKey)>,
    /// The unit's trace: the work's own thread has to be told.
    trace: Option<TraceContext>,
}

#[derive(Debug)]
enum Runtime {
    Shared(Handle),
    Own(tokio::runtime::Runtime),
}

impl WorkContext {
    /// To be called in the task that sees to the unit, whose trace it takes over.
    pub(crate) fn new(blobs: Blobs, cancelled: CancellationToken, session: Session, key: LeaseKey) -> Self {
        Self {
            blobs,
            runtime: Runtime::Shared(Handle::current()),
            cancelled,
            uploads: Mutex::default(),
            fleet: Some((session, key)),
            trace: TraceContext::current(),
        }
    }

    /// A context without a coordinator: blobs live in memory, nothing is ever cancelled. For tests and offline work; must not
    /// be called from within tokio.
    ///
    /// # Errors
    /// When the system gives no runtime.
    pub fn in_memory() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self {
            blobs: Blobs::memory(),
            runtime: Runtime::Own(runtime),
            cancelled: CancellationToken::new(),
            uploads: Mutex::default(),
            fleet: None,
            trace: None,
        })
    }

    /// Whether the result is no longer wanted: return [`WorkError::Cancelled`] soon.
    pub fn cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Fetches a blob (from memory when it was used lately) and checks its hash.
    ///
    /// # Errors
    /// [`WorkError::Unusable`] when the coordinator has lost it, [`WorkError::Cancelled`]. A coordinator that is away is waited
    /// for.
    pub fn get(&self, digest: &Digest) -> Result<Bytes, WorkError> {
        self.block_on(self.blobs.get(digest))?
    }

    /// Fetches several blobs at once, in order.
    ///
    /// # Errors
    /// As [`WorkContext::get`].
    pub fn get_many(&self, digests: &[Digest]) -> Result<Vec<Bytes>, WorkError> {
        let fetched = futures::future::join_all(digests.iter().map(|digest| self.blobs.get(digest)));
        let mut bytes = Vec::with_capacity(digests.len());
        let mut lost = Vec::new();
        for fetched in self.block_on(fetched)? {
            match fetched {
                Ok(blob) => bytes.push(blob),
                Err(WorkError::Unusable { inputs, reason }) => lost.push((inputs, reason)),
                Err(error) => return Err(error),
            }
        }
        match lost.first() {
            None => Ok(bytes),
            // All of them at once, or each would cost an attempt of its own.
            Some((_, reason)) => Err(WorkError::Unusable {
                reason: reason.clone(),
                inputs: lost.into_iter().flat_map(|(inputs, _)| inputs).collect(),
            }),
        }
    }

    /// Fetches blobs two at a time and hands them over in order, so that few of many large ones are in memory.
    ///
    /// # Errors
    /// As [`WorkContext::get_many`], which names all blobs that cannot be had; and those of `take`.
    pub fn each(
        &self,
        digests: &[Digest],
        mut take: impl FnMut(&Digest, Bytes) -> Result<(), WorkError>,
    ) -> Result<(), WorkError> {
        const TOGETHER: usize = 2;
        let mut lost: Option<(Vec<Unusable>, String)> = None;
        for digests in digests.chunks(TOGETHER) {
            match (self.get_many(digests), &mut lost) {
                (Ok(blobs), None) => {
                    for (digest, blob) in digests.iter().zip(blobs) {
                        take(digest, blob)?;
                    }
                }
                (Ok(_), Some(_)) => {}
                (Err(WorkError::Unusable { inputs, .. }), Some((all, _))) => all.extend(inputs),
                (Err(WorkError::Unusable { inputs, reason }), None) => lost = Some((inputs, reason)),
                (Err(error), _) => return Err(error),
            }
        }
        match lost {
            None => Ok(()),
            Some((inputs, reason)) => Err(WorkError::Unusable { inputs, reason }),
        }
    }

    /// Names `bytes` and begins to store them beside the work. The unit counts as done only when all its blobs are stored.
    pub fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.put_named(digest, bytes);
        digest
    }

    /// As [`WorkContext::put`], of bytes whose name is known. Nothing is stored under a name that is not theirs: the coordinator
    /// hashes what it is sent.
    pub fn put_named(&self, digest: Digest, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let blobs = self.blobs.clone();
        let upload = in_trace(self.trace, async move { blobs.put(digest, bytes).await });
        match &self.runtime {
            Runtime::Shared(handle) => {
                self.uploads
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .spawn_on(upload, handle);
            }
            Runtime::Own(runtime) => {
                if let Err(error) = runtime.block_on(upload) {
                    tracing::error!(%digest, %error, "a blob could not be kept");
                }
            }
        }
    }

    /// Verdicts that the coordinator has kept under these keys, in order. What cannot be had is as good as none: the judge asks
    /// its model.
    pub fn recall_verdicts(&self, keys: &[Digest]) -> Vec<Option<VerdictRecord>> {
        let Some((session, _)) = &self.fleet else {
            return vec![None; keys.len()];
        };
        let mut kept: BTreeMap<Digest, VerdictRecord> = match self.block_on(session.recall_verdicts(keys)) {
            Ok(Ok(kept)) => kept.into_iter().collect(),
            Ok(Err(error)) => {
                tracing::warn!(message = error.message(), "no verdicts are recalled");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        keys.iter().map(|key| kept.remove(key)).collect()
    }

    /// Has the coordinator keep verdicts for whoever asks the same again.
    pub fn keep_verdicts(&self, verdicts: &[(Digest, VerdictRecord)]) {
        if let Some((session, _)) = &self.fleet
            && let Ok(Err(error)) = self.block_on(session.keep_verdicts(verdicts))
        {
            tracing::warn!(message = error.message(), "verdicts are not kept");
        }
    }

    /// Answers about pictures that the coordinator has kept under these keys, in order. What cannot be had is as good as none: the model is
    /// asked.
    pub fn recall_answers(&self, keys: &[Digest]) -> Vec<Option<PictureAnswer>> {
        let Some((session, _)) = &self.fleet else {
            return vec![None; keys.len()];
        };
        let kept: BTreeMap<Digest, PictureAnswer> = match self.block_on(session.recall_answers(keys)) {
            Ok(Ok(kept)) => kept.into_iter().collect(),
            Ok(Err(error)) => {
                tracing::warn!(message = error.message(), "no answers are recalled");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        keys.iter().map(|key| kept.get(key).cloned()).collect()
    }

    /// Has the coordinator keep answers about pictures, for whatever run asks the same again.
    pub fn keep_answers(&self, answers: &[(Digest, PictureAnswer)]) {
        if let Some((session, _)) = &self.fleet
            && let Ok(Err(error)) = self.block_on(session.keep_answers(answers))
        {
            tracing::warn!(message = error.message(), "answers are not kept");
        }
    }

    /// What the coordinator has kept of a prompt's rubric under this key. What cannot be had is as good as none: it is written.
    pub fn recall_rubric(&self, key: &Digest) -> Option<KeptRubric> {
        let (session, _) = self.fleet.as_ref()?;
        match self.block_on(session.recall_rubric(key)) {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                tracing::warn!(message = error.message(), "no rubric is recalled");
                None
            }
            Err(_) => None,
        }
    }

    /// Has the coordinator keep what became of a prompt's rubric, for whatever run asks for it again.
    pub fn keep_rubric(&self, key: &Digest, rubric: &KeptRubric) {
        if let Some((session, _)) = &self.fleet
            && let Ok(Err(error)) = self.block_on(session.keep_rubric(key, rubric))
        {
            tracing::warn!(message = error.message(), "a rubric is not kept");
        }
    }

    /// This worker's name in the fleet; `None` without a coordinator.
    pub fn worker(&self) -> Option<&WorkerId> {
        self.fleet.as_ref().map(|(session, _)| session.worker())
    }

    /// Calls the other holders of gradient sums to exchange them for the commit at work, and waits for them at most `wait`.
    /// `kept` says that this worker has kept the group that met at this rendezvous.
    ///
    /// # Errors
    /// [`WorkError::Cancelled`] when the lease was lost, or somebody else has called this worker first: it follows that call
    /// when it has given its own lease back. [`WorkError::Retry`] when the coordinator is away.
    pub fn rally(&self, rendezvous: Vec<u8>, kept: bool, wait: Duration) -> Result<RallyOutcome, WorkError> {
        let (session, key) = self.in_fleet()?;
        self.block_on(session.rally(key, rendezvous, kept, wait))?
            .map_err(|error| call_failed("call for gradient sums", &error))
    }

    /// Follows the call to somebody else's commit and waits until everybody does, or answers it with what this worker does not
    /// have; then it must not take part.
    ///
    /// # Errors
    /// [`WorkError::Cancelled`] when the group does not wait for this worker any more.
    pub fn join(&self, presence: &Presence) -> Result<(), WorkError> {
        let (session, key) = self.in_fleet()?;
        self.block_on(session.join(key, presence))?
            .map_err(|error| call_failed("follow a call for gradient sums", &error))
    }

    fn in_fleet(&self) -> Result<&(Session, LeaseKey), WorkError> {
        self.fleet
            .as_ref()
            .ok_or_else(|| WorkError::Retry("there is no fleet to exchange gradient sums with".into()))
    }

    /// Waits until every blob is stored.
    pub(crate) async fn stored(&self) -> Result<(), WorkError> {
        let mut uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        loop {
            let upload = tokio::select! {
                () = self.cancelled.cancelled() => return Err(WorkError::Cancelled),
                upload = uploads.join_next() => upload,
            };
            match upload {
                None => return Ok(()),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => return Err(WorkError::Retry(format!("an upload ended early: {error}"))),
            }
        }
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, WorkError> {
        let bounded = in_trace(self.trace, async {
            tokio::select! {
                () = self.cancelled.cancelled() => Err(WorkError::Cancelled),
                value = future => Ok(value),
            }
        });
        match &self.runtime {
            Runtime::Shared(handle) => handle.block_on(bounded),
            Runtime::Own(runtime) => runtime.block_on(bounded),
        }
    }
}

/// Does `work` in this trace, where there is one.
async fn in_trace<T>(trace: Option<TraceContext>, work: impl Future<Output = T>) -> T {
    match trace {
        Some(trace) => trace.scope(work).await,
        None => work.await,
    }
}

fn call_failed(action: &str, error: &CallError) -> WorkError {
    match error.code() {
        Code::FailedPrecondition => {
            tracing::info!(message = error.message(), "cannot {action}");
            WorkError::Cancelled
        }
        _ => WorkError::Retry(format!("cannot {action}: {}", error.message())),
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::work::Fault;

    use super::*;

    #[test]
    fn blobs_come_back_by_their_hash_and_all_missing_ones_are_named() {
        let context = WorkContext::in_memory().expect("a runtime");
        let digest = context.put(vec![1, 2, 3]);
        assert_eq!(digest, Digest::of(&[1, 2, 3]));
        assert_eq!(
            context.get_many(&[digest, digest]).expect("stored"),
            vec![Bytes::from_static(&[1, 2, 3]); 2]
        );
        let lost = [Digest::of(b"one"), Digest::of(b"other")];
        let Err(WorkError::Unusable { inputs, .. }) = context.get_many(&[lost[0], digest, lost[1]]) else {
            panic!("the blobs are not there")
        };
        let named = inputs.iter().map(|input| (input.blob, input.fault));
        assert!(named.eq(lost.map(|blob| (blob, Fault::Storage))));
    }

    #[test]
    fn blobs_are_handed_over_in_order_and_none_after_one_that_is_missing() {
        let context = WorkContext::in_memory().expect("a runtime");
        let stored = [1_u8, 2, 3].map(|byte| context.put(vec![byte]));
        let fetch = |digests: &[Digest]| {
            let mut taken = Vec::new();
            let fetched = context.each(digests, |digest, blob| {
                taken.push((*digest, blob));
                Ok(())
            });
            (fetched, taken)
        };
        let (fetched, taken) = fetch(&stored);
        assert!(fetched.is_ok());
        let expected = (1..).map(|byte| Bytes::from(vec![byte]));
        assert!(taken.into_iter().eq(stored.into_iter().zip(expected)));

        let lost = [Digest::of(b"one"), Digest::of(b"other")];
        let (fetched, taken) = fetch(&[stored[0], stored[1], lost[0], stored[2], lost[1]]);
        let Err(WorkError::Unusable { inputs, .. }) = fetched else {
            panic!("two blobs are not there")
        };
        assert!(inputs.iter().map(|input| input.blob).eq(lost), "each is named");
        assert_eq!(taken.len(), 2);
    }
}
