//! The blobs that a worker keeps in memory, and which of them it shares with others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gavel_client::{Sharer, Shares, Sharing, SharingError, SharingTerms};
use gavel_core::blob_store::DIRECT_BYTES_MIN;
use gavel_core::bounds;
use gavel_core::ids::Digest;
use tokio::sync::Notify;

use crate::cache::Cache;

/// Changes that wait to be told. With more the coordinator is away, and asks anew when it is back.
const CHANGES: usize = 4_096;

/// The blobs that a worker keeps in memory, and what of them the coordinator has not been told.
#[derive(Debug)]
pub(crate) struct Kept {
    cache: Mutex<Cache>,
    /// Whether what this worker stores is kept, and not what it fetches alone.
    stored_too: bool,
    /// Of large blobs whether they are kept.
    changes: Mutex<BTreeMap<Digest, bool>>,
    changed: Notify,
}

impl Kept {
    pub(crate) fn new(cache_bytes: usize, stored_too: bool) -> Self {
        Self {
            cache: Mutex::new(Cache::new(cache_bytes)),
            stored_too,
            changes: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Bytes> {
        lock(&self.cache).get(digest)
    }

    /// Keeps what this worker stores, where that is of use.
    pub(crate) fn keep_stored(&self, digest: Digest, bytes: &Bytes) {
        if self.stored_too {
            self.keep(digest, bytes);
        }
    }

    /// Keeps what this worker has fetched.
    pub(crate) fn keep(&self, digest: Digest, bytes: &Bytes) {
        let evicted = lock(&self.cache).insert(digest, bytes.clone());
        if !evicted.is_empty() {
            self.note(evicted.into_iter().map(|blob| (blob, false)));
        }
    }

    /// The coordinator has this blob too, so that others may be sent here for it.
    pub(crate) fn share(&self, digest: Digest, bytes: &Bytes) {
        if is_large(bytes) {
            // One that could not be kept is told of as well: somebody may wait for it.
            let is_kept = lock(&self.cache).peek(&digest).is_some();
            self.note([(digest, is_kept)]);
        }
    }

    /// Everything that is kept is to be told.
    fn tell_all(&self) {
        {
            // Both at once, or a change between them would be forgotten; nobody else holds both.
            let mut changes = lock(&self.changes);
            let cache = lock(&self.cache);
            let large = cache.iter().filter(|(_, bytes)| is_large(bytes));
            *changes = large.map(|(digest, _)| (*digest, true)).take(CHANGES).collect();
        }
        self.changed.notify_one();
    }

    fn note(&self, changed: impl IntoIterator<Item = (Digest, bool)>) {
        let mut changes = lock(&self.changes);
        for (blob, is_kept) in changed {
            if changes.len() < CHANGES || changes.contains_key(&blob) {
                changes.insert(blob, is_kept);
            }
        }
        drop(changes);
        self.changed.notify_one();
    }

    /// Waits for something to tell, and takes as much as is told at once: what is kept, and what is not any more.
    async fn changes(&self) -> (Vec<Digest>, Vec<Digest>) {
        loop {
            let changed = self.changed.notified();
            let (held, gone) = self.take_changes();
            if !held.is_empty() || !gone.is_empty() {
                return (held, gone);
            }
            changed.await;
        }
    }

    fn take_changes(&self) -> (Vec<Digest>, Vec<Digest>) {
        let (mut held, mut gone) = (Vec::new(), Vec::new());
        let mut changes = lock(&self.changes);
        while bounds::HELD.admits(held.len().max(gone.len()) as u64 + 1)
            && let Some((blob, is_kept)) = changes.pop_first()
        {
            if is_kept { &mut held } else { &mut gone }.push(blob);
        }
        (held, gone)
    }
}

/// A worker that shares what it keeps. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct KeptSharer {
    kept: Arc<Kept>,
    sharer: Arc<Sharer>,
}

impl KeptSharer {
    pub(crate) async fn open(sharing: &Sharing, coordinators: &str, kept: Arc<Kept>) -> Result<Self, SharingError> {
        let source = Arc::clone(&kept);
        let source = move |blob: &Digest| lock(&source.cache).peek(blob);
        let sharer = Arc::new(Sharer::open(sharing, coordinators, source).await?);
        let Shares { address, .. } = sharer.shares();
        tracing::info!(address, "large blobs are shared with other workers");
        Ok(Self { kept, sharer })
    }

    pub(crate) fn shares(&self) -> Shares {
        self.sharer.shares().clone()
    }

    /// The worker has registered: what it keeps is unknown there.
    pub(crate) fn admit(&self, terms: Option<SharingTerms>) {
        self.sharer.admit(terms);
        self.kept.tell_all();
    }

    /// As [`Kept::changes`].
    pub(crate) async fn changes(&self) -> (Vec<Digest>, Vec<Digest>) {
        self.kept.changes().await
    }
}

fn is_large(bytes: &Bytes) -> bool {
    bytes.len() as u64 >= DIRECT_BYTES_MIN
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one whole one.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = DIRECT_BYTES_MIN as usize;

    fn blob(byte: u8, size: usize) -> (Digest, Bytes) {
        let bytes: Bytes = vec![byte; size].into();
        (Digest::of(&bytes), bytes)
    }

    #[tokio::test]
    async fn what_is_kept_is_told_once_the_coordinator_has_it_and_what_had_to_go_too() {
        let kept = Kept::new(2 * LARGE, true);
        let [first, second, third] = [1, 2, 3].map(|byte| blob(byte, LARGE));
        let small = blob(4, LARGE - 1);
        let too_large = blob(5, 2 * LARGE + 1);
        for (digest, bytes) in [&first, &second] {
            kept.keep(*digest, bytes);
        }
        kept.share(first.0, &first.1);
        assert_eq!(
            kept.changes().await,
            (vec![first.0], vec![]),
            "the second is not stored yet"
        );
        kept.keep(third.0, &third.1);
        kept.share(third.0, &third.1);
        assert_eq!(kept.changes().await, (vec![third.0], vec![first.0]));
        kept.keep(too_large.0, &too_large.1);
        kept.share(too_large.0, &too_large.1);
        assert_eq!(
            kept.changes().await,
            (vec![], vec![too_large.0]),
            "it could not be kept"
        );
        kept.keep(small.0, &small.1);
        kept.share(small.0, &small.1);
        assert_eq!(
            kept.changes().await,
            (vec![], vec![second.0]),
            "of a small one nobody is told"
        );
        kept.tell_all();
        assert_eq!(kept.changes().await, (vec![third.0], vec![]));
    }

    #[test]
    fn what_nobody_reads_here_again_takes_no_room() {
        let (digest, bytes) = blob(1, 8);
        for stored_too in [false, true] {
            let kept = Kept::new(8, stored_too);
            kept.keep_stored(digest, &bytes);
            assert_eq!(kept.get(&digest).is_some(), stored_too);
            kept.keep(digest, &bytes);
            assert!(kept.get(&digest).is_some());
        }
    }
}
