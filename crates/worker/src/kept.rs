//! The blobs that a worker keeps in memory, and which of them it shares with others.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
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

    /// For somebody else: no use of it is noted.
    pub(crate) fn peek(&self, digest: &Digest) -> Option<Bytes> {
        lock(&self.cache).peek(digest)
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
            let is_kept = self.peek(&digest).is_some();
            self.note([(digest, is_kept)]);
        }
    }

    /// Everything that is kept is to be told.
    pub(crate) fn tell_all(&self) {
        {
            // Both at once, or a change between them would be forgotten; whoever holds both takes them in this order.
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

    /// What was not heard is to be told again, unless something newer is.
    pub(crate) fn put_back(&self, held: Vec<Digest>, gone: Vec<Digest>) {
        let mut changes = lock(&self.changes);
        let cache = lock(&self.cache);
        let held = held.into_iter().map(|blob| (blob, cache.peek(&blob).is_some()));
        for (blob, is_kept) in held.chain(gone.into_iter().map(|blob| (blob, false))) {
            if changes.len() < CHANGES {
                changes.entry(blob).or_insert(is_kept);
            }
        }
    }

    /// Waits for something to tell, and takes as much as is told at once: what is kept, and what is not any more.
    pub(crate) async fn changes(&self) -> (Vec<Digest>, Vec<Digest>) {
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

    #[tokio::test]
    async fn what_was_not_heard_is_told_again_as_far_as_it_still_holds() {
        let kept = Kept::new(2 * LARGE, true);
        let [first, second, third, fourth] = [1, 2, 3, 4].map(|byte| blob(byte, LARGE));
        let have = |(digest, bytes): &(Digest, Bytes)| {
            kept.keep(*digest, bytes);
            kept.share(*digest, bytes);
        };
        have(&first);
        have(&second);
        let untold = kept.take_changes();
        have(&third);
        kept.put_back(untold.0, untold.1);
        let mut held = vec![second.0, third.0];
        held.sort();
        let untold = kept.take_changes();
        assert_eq!(untold, (held, vec![first.0]), "the first had to go meanwhile");
        have(&first);
        kept.put_back(untold.0, untold.1);
        let (held, gone) = kept.take_changes();
        assert!(held.contains(&first.0) && gone == [second.0], "it is here again");

        let many = |from: usize| (from..from + CHANGES).map(|index| Digest::of(&index.to_le_bytes()));
        kept.put_back(Vec::new(), many(0).collect());
        kept.put_back(vec![fourth.0], many(CHANGES).collect());
        assert_eq!(lock(&kept.changes).len(), CHANGES);
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
