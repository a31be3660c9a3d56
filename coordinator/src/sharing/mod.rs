//! Workers that fetch a large blob from each other: a tree that grows with each one that has it.
//!
//! Whoever asks for a blob gets a [`Turn`]: the hand of a worker that holds it, or one of the coordinator's own. Where no hand is free it waits, first come,
//! first served; when it has waited as long as the blob could take, it gets the bytes from the coordinator as if nobody shared. Soft state:
//! after a restart workers register again and say what they hold.

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gavel_core::blob_store::direct_within;
use gavel_core::bounds;
use gavel_core::ids::{Digest, WorkerId};
use gavel_core::work::{Pass, SharingKey};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use sources::{Source, Sources};

/// How long a pass opens its blob: it is used at once.
const PASS_VALID: Duration = Duration::from_secs(60);
/// How long the coordinator's hand stays taken for a worker that was sent a blob and will share it: in the next moment it says that it holds it, and
/// those who wait had better go there.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// Where a worker serves the large blobs that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares {
    /// HOST:PORT, as other workers dial it.
    pub(crate) address: String,
    /// The SHA-256 of its certificate.
    pub(crate) certificate: Digest,
}

/// What a worker that shares is told.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) key: SharingKey,
    /// The time, as passes count it.
    pub(crate) now_ms: u64,
}

/// Who shares which blob, and who waits for one. Clones are the same.
#[derive(Clone)]
pub(crate) struct Sharing(Arc<Shared>);

struct Shared {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sources: Sources,
    /// By blob, in the order in which they came.
    waiting: BTreeMap<Digest, BTreeMap<Ticket, Waiter>>,
    last: Ticket,
    /// Blobs that the coordinator has sent to those who will share them under this certificate, and whose hand is still taken.
    settling: BTreeSet<(Digest, Digest)>,
}

/// A place in the queue.
type Ticket = u64;

struct Waiter {
    /// The certificate under which it shares itself.
    asker: Option<Digest>,
    reply: oneshot::Sender<Turn>,
}

/// The right to fetch one blob from one source; given back when it is dropped.
pub(crate) struct Turn {
    sharing: Sharing,
    blob: Digest,
    asker: Option<Digest>,
    source: Source,
}

/// A worker that gives a blob to whoever has this.
#[derive(Debug)]
pub(crate) struct PeerSite {
    pub(crate) shares: Shares,
    pub(crate) pass: Pass,
}

/// Leaves the queue when it is dropped.
struct Place<'a> {
    sharing: &'a Sharing,
    blob: Digest,
    ticket: Ticket,
}

impl Default for Sharing {
    fn default() -> Self {
        Self(Arc::new(Shared {
            began: Instant::now(),
            state: Mutex::default(),
        }))
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sharing")
    }
}

impl Sharing {
    /// A worker shares from now on, and holds nothing for all that is known. One that names the certificate of another that shares does not.
    pub(crate) fn join(&self, worker: WorkerId, shares: Shares) {
        let mut key = [0; SharingKey::BYTES];
        for half in key.chunks_exact_mut(16) {
            half.copy_from_slice(Uuid::new_v4().as_bytes());
        }
        self.leave(&worker);
        let joined = self.lock().sources.join(worker.clone(), shares, SharingKey::new(key));
        if !joined {
            tracing::warn!(%worker, "a worker shares no blobs: it names the certificate of another one");
        }
    }

    /// Whether anybody shares.
    pub(crate) fn is_used(&self) -> bool {
        !self.lock().sources.is_empty()
    }

    /// A worker is gone. Those who wait need not any more where it was the last one that shared.
    pub(crate) fn leave(&self, worker: &WorkerId) {
        let mut state = self.lock();
        let Some(certificate) = state.sources.leave(worker) else {
            return;
        };
        let settling = state.settling.iter().filter(|(_, of)| *of == certificate);
        let settling: Vec<Digest> = settling.map(|(blob, _)| *blob).collect();
        for blob in settling {
            state.settle(blob, certificate);
        }
        let dismissed = match state.sources.is_empty() {
            true => std::mem::take(&mut state.waiting),
            false => BTreeMap::new(),
        };
        self.serve(state);
        drop(dismissed);
    }

    /// What a worker that shares is told; `None` for any other.
    pub(crate) fn terms(&self, worker: &WorkerId) -> Option<Terms> {
        self.terms_in(&self.lock(), worker)
    }

    fn terms_in(&self, state: &State, worker: &WorkerId) -> Option<Terms> {
        Some(Terms {
            key: state.sources.key_of(worker)?.clone(),
            now_ms: self.now_ms(),
        })
    }

    /// Notes what a worker has and what it has no longer, and tells it the terms under which that was noted; `None` where it does not share at all.
    pub(crate) fn hold(&self, worker: &WorkerId, held: &[Digest], gone: &[Digest]) -> Option<Terms> {
        let mut state = self.lock();
        let certificate = state.sources.hold(worker, held, gone)?;
        let terms = self.terms_in(&state, worker);
        for blob in held.iter().chain(gone) {
            state.settle(*blob, certificate);
        }
        self.serve(state);
        terms
    }

    /// Somebody was sent to a worker for a blob, and did not get it there.
    pub(crate) fn failed(&self, blob: &Digest, certificate: &Digest, pass: &Pass) {
        if let Some(worker) = self.lock().sources.failed(blob, certificate, pass) {
            tracing::info!(%worker, %blob, "a worker did not get a blob from another one that shares it");
        }
    }

    /// A turn to fetch this blob of `size` bytes. `None` where nobody shares, where too many wait, and to whoever has waited as long as the blob could
    /// take: the coordinator sends it then, as if nobody shared. `asker` is the certificate under which the caller shares itself.
    pub(crate) async fn turn(&self, blob: Digest, size: u64, asker: Option<Digest>) -> Option<Turn> {
        self.turn_within(blob, asker, direct_within(size)).await
    }

    async fn turn_within(&self, blob: Digest, asker: Option<Digest>, patience: Duration) -> Option<Turn> {
        let (place, turn) = {
            let mut state = self.lock();
            if state.sources.is_empty() {
                return None;
            }
            let nobody_waits = !state.waiting.contains_key(&blob);
            if nobody_waits && let Some(source) = state.sources.take(&blob, asker.as_ref()) {
                return Some(self.give(blob, asker, source));
            }
            if state.waiters() >= bounds::WORKERS.most {
                return None;
            }
            let (reply, turn) = oneshot::channel();
            state.last += 1;
            let ticket = state.last;
            let queue = state.waiting.entry(blob).or_default();
            queue.insert(ticket, Waiter { asker, reply });
            let place = Place {
                sharing: self,
                blob,
                ticket,
            };
            (place, turn)
        };
        let turn = timeout(patience, turn).await;
        drop(place);
        turn.ok()?.ok()
    }

    fn give(&self, blob: Digest, asker: Option<Digest>, source: Source) -> Turn {
        Turn {
            sharing: self.clone(),
            blob,
            asker,
            source,
        }
    }

    /// Gives the hands that are free to those who wait.
    fn serve(&self, mut state: MutexGuard<'_, State>) {
        let mut served = Vec::new();
        let State { sources, waiting, .. } = &mut *state;
        for (blob, queue) in waiting.iter_mut() {
            while let Some(first) = queue.first_entry() {
                if first.get().reply.is_closed() {
                    first.remove();
                    continue;
                }
                let Some(source) = sources.take(blob, first.get().asker.as_ref()) else {
                    break;
                };
                let Waiter { asker, reply } = first.remove();
                served.push((reply, self.give(*blob, asker, source)));
            }
        }
        waiting.retain(|_, queue| !queue.is_empty());
        drop(state);
        for (reply, turn) in served {
            if let Err(mut turn) = reply.send(turn) {
                // Nobody takes it any more, nor will share the blob. It is given back by its drop, which serves the next one: not under the lock.
                turn.asker = None;
            }
        }
    }

    /// Ends a turn. The coordinator's hand stays taken for a moment where the blob is about to be shared.
    fn end(&self, blob: Digest, asker: Option<Digest>, source: Source) {
        let mut state = self.lock();
        if let (Source::Coordinator, Some(certificate), Ok(runtime)) = (source, asker, Handle::try_current())
            && state.sources.has(&certificate)
            && state.settling.insert((blob, certificate))
        {
            let sharing = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep(SETTLE_WITHIN).await;
                let mut state = sharing.lock();
                state.settle(blob, certificate);
                sharing.serve(state);
            });
            return;
        }
        state.sources.give_back(&blob, source);
        self.serve(state);
    }

    /// Milliseconds as passes count them: since this coordinator began, by a clock that nobody sets.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one whole one.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives back the coordinator's hand for a blob that is shared now under this certificate, or will not be.
    fn settle(&mut self, blob: Digest, certificate: Digest) {
        if self.settling.remove(&(blob, certificate)) {
            self.sources.give_back(&blob, Source::Coordinator);
        }
    }

    fn waiters(&self) -> u64 {
        self.waiting.values().map(|queue| queue.len() as u64).sum()
    }
}

impl Turn {
    /// Where the blob is to be fetched; `None` from the coordinator.
    pub(crate) fn site(&self) -> Option<PeerSite> {
        let Source::Sharer(id) = self.source else { return None };
        let state = self.sharing.lock();
        let sharer = state.sources.sharer(id)?;
        let valid = u64::try_from(PASS_VALID.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.sharing.now_ms().saturating_add(valid);
        Some(PeerSite {
            shares: sharer.shares.clone(),
            pass: sharer.key.pass(&self.blob, until_ms),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.sharing.end(self.blob, self.asker, self.source);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.sharing.lock();
        if let Some(queue) = state.waiting.get_mut(&self.blob) {
            queue.remove(&self.ticket);
            if queue.is_empty() {
                state.waiting.remove(&self.blob);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const BLOB: Digest = Digest([0xbb; 32]);
    const SIZE: u64 = 1 << 20;

    fn worker(number: u8) -> WorkerId {
        WorkerId(format!("sampler-{number}"))
    }

    fn certificate(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn join(sharing: &Sharing, number: u8) {
        let shares = Shares {
            address: format!("worker:{number}"),
            certificate: certificate(number),
        };
        sharing.join(worker(number), shares);
    }

    /// Has `asker` ask, and says from whom it fetches; `None` from the coordinator.
    async fn turn(sharing: &Sharing, asker: u8) -> (Turn, Option<u8>) {
        let turn = sharing
            .turn(BLOB, SIZE, Some(certificate(asker)))
            .await
            .expect("a turn");
        let from = turn.site().map(|site| site.shares.certificate.0[0]);
        (turn, from)
    }

    #[tokio::test]
    async fn nobody_waits_where_nobody_shares() {
        let sharing = Sharing::default();
        assert!(sharing.turn(BLOB, SIZE, None).await.is_none());
        join(&sharing, 1);
        let turns = [
            sharing.turn(BLOB, SIZE, None).await,
            sharing.turn(BLOB, SIZE, None).await,
        ];
        assert!(
            turns.iter().flatten().all(|turn| turn.site().is_none()),
            "the coordinator has it alone"
        );
        let mut third = std::pin::pin!(sharing.turn(BLOB, SIZE, None));
        assert!(third.as_mut().now_or_never().is_none(), "two are enough");
        sharing.leave(&worker(1));
        assert!(third.await.is_none(), "as if nobody shared");
    }

    /// Eight ask at once; in whatever order the fetches end, the coordinator sends to four at most.
    #[tokio::test]
    async fn the_coordinator_sends_to_few_in_any_order_in_which_fetches_end() {
        const FLEET: u8 = 8;
        for order in 0..64_usize {
            let sharing = Sharing::default();
            for number in 0..FLEET {
                join(&sharing, number);
            }
            let mut asking: Vec<_> = (0..FLEET)
                .map(|number| {
                    let sharing = sharing.clone();
                    (number, async move { turn(&sharing, number).await }.boxed())
                })
                .collect();
            let (mut fetching, mut own, mut done) = (Vec::new(), 0, 0);
            while done < FLEET {
                // Whoever polls without end is held off by the runtime until it lets others in.
                tokio::task::yield_now().await;
                asking = asking
                    .into_iter()
                    .filter_map(|(number, mut turn)| match turn.as_mut().now_or_never() {
                        Some((turn, from)) => {
                            own += u32::from(from.is_none());
                            fetching.push((number, turn));
                            None
                        }
                        None => Some((number, turn)),
                    })
                    .collect();
                let at = order.wrapping_mul(usize::from(done) + 7) % fetching.len();
                let (number, turn) = fetching.swap_remove(at);
                // The stream ends, and only then the worker says that it has the blob.
                drop(turn);
                assert!(sharing.hold(&worker(number), &[BLOB], &[]).is_some());
                done += 1;
            }
            assert!(
                (2..=4).contains(&own),
                "order {order}: the coordinator sent it {own} times"
            );
        }
    }

    #[tokio::test]
    async fn who_waits_goes_to_the_one_that_has_just_got_it_and_does_not_wait_for_ever() {
        let sharing = Sharing::default();
        for number in 0..4 {
            join(&sharing, number);
        }
        let (first, second) = (turn(&sharing, 0).await, turn(&sharing, 1).await);
        assert_eq!((first.1, second.1), (None, None));
        let mut third = std::pin::pin!(turn(&sharing, 2));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(
            third.as_mut().now_or_never().is_none(),
            "the first has not said yet that it has it"
        );
        sharing.hold(&worker(0), &[BLOB], &[]);
        assert_eq!(third.await.1, Some(0));

        // It leaves; the second one's hand is still taken, the first one's is free again.
        sharing.leave(&worker(0));
        let (own, from) = turn(&sharing, 3).await;
        assert_eq!(from, None);
        let impatient = sharing.turn_within(BLOB, None, Duration::from_millis(1));
        assert!(impatient.await.is_none(), "both are busy");
        assert!(sharing.lock().waiting.is_empty(), "whoever gave up waits no longer");
        drop((own, second));
    }

    #[tokio::test]
    async fn the_coordinators_hand_comes_free_when_a_worker_could_not_keep_the_blob_left_or_said_nothing() {
        let sharing = Sharing::default();
        for number in 0..3 {
            join(&sharing, number);
        }
        let own = |sharing: &Sharing| sharing.lock().sources.take(&BLOB, None).map(|_| ());
        let both = (turn(&sharing, 0).await.0, turn(&sharing, 1).await.0);
        drop(both);
        assert!(own(&sharing).is_none(), "both are about to have it");
        assert!(sharing.hold(&worker(0), &[], &[BLOB]).is_some(), "it could not keep it");
        assert!(own(&sharing).is_some());
        sharing.leave(&worker(1));
        assert!(own(&sharing).is_some());
        for _ in 0..2 {
            sharing.lock().sources.give_back(&BLOB, Source::Coordinator);
        }
        let silent = turn(&sharing, 2).await.0;
        let _busy = turn(&sharing, 0).await.0;
        drop(silent);
        assert!(own(&sharing).is_none());
        // What is done when its time has passed.
        sharing.lock().settle(BLOB, certificate(2));
        assert!(own(&sharing).is_some());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_goes_to_the_next() {
        let sharing = Sharing::default();
        join(&sharing, 0);
        let both = (turn(&sharing, 9).await, turn(&sharing, 9).await);
        let mut gives_up = Box::pin(sharing.turn(BLOB, SIZE, None));
        let mut stays = Box::pin(sharing.turn(BLOB, SIZE, None));
        assert!(gives_up.as_mut().now_or_never().is_none() && stays.as_mut().now_or_never().is_none());
        drop(gives_up);
        drop(both);
        assert!(stays.await.is_some());
        assert!(sharing.hold(&worker(9), &[BLOB], &[]).is_none(), "it does not share");
    }
}
