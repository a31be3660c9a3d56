//! Room that is held for blobs which others may write straight to the store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gavel_core::bounds;
use gavel_core::ids::Digest;

use super::quota::{Quota, Room};

/// How long a blob counts that was allotted and does not come. An address is good for five minutes, and an upload that began by then may
/// take its time.
pub(super) const ALLOTTED: Duration = Duration::from_secs(900);

/// Blobs that were allotted and not seen since. There are none without a quota.
#[derive(Debug, Default)]
pub(super) struct Allotments(Mutex<BTreeMap<Digest, Allotment>>);

#[derive(Debug)]
struct Allotment {
    room: Room,
    until: Instant,
}

impl Allotments {
    /// Holds room for a blob of so many bytes; one that has room keeps it anew. Whether there is room.
    pub(super) fn take(&self, quota: &Quota, digest: Digest, size: u64, now: Instant) -> bool {
        let mut allotments = self.lock();
        let is_full = !bounds::ALLOTTED.admits(allotments.len() as u64 + 1);
        match allotments.entry(digest) {
            Entry::Occupied(mut known) => {
                known.get_mut().until = now + ALLOTTED;
                true
            }
            Entry::Vacant(_) if is_full => false,
            Entry::Vacant(new) => {
                let mut room = quota.room();
                let fits = room.grow(size).is_ok();
                if fits {
                    let until = now + ALLOTTED;
                    new.insert(Allotment { room, until });
                }
                fits
            }
        }
    }

    /// The room of a blob, which it has no longer here.
    pub(super) fn remove(&self, digest: &Digest) -> Option<Room> {
        self.lock().remove(digest).map(|allotment| allotment.room)
    }

    /// At most so many whose time has passed.
    pub(super) fn expired(&self, now: Instant, most: usize) -> Vec<Digest> {
        let allotments = self.lock();
        let expired = allotments.iter().filter(|(_, allotment)| allotment.until <= now);
        expired.map(|(digest, _)| *digest).take(most).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Allotment>> {
        // Every entry is whole whoever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_has_room_once_until_its_time_has_passed() {
        let quota = Quota::new(10, 0);
        let allotments = Allotments::default();
        let [one, other] = [b"one", b"two"].map(|name| Digest::of(name));
        let start = Instant::now();
        assert!(allotments.take(&quota, one, 6, start));
        assert!(!allotments.take(&quota, other, 6, start), "12 of 10");
        assert!(
            allotments.take(&quota, one, 6, start + ALLOTTED / 2),
            "not counted twice"
        );
        assert_eq!(
            allotments.expired(start + ALLOTTED, 9),
            [],
            "asked for again, it stays as long again"
        );
        assert_eq!(allotments.expired(start + ALLOTTED * 2, 9), [one]);
        drop(allotments.remove(&one));
        assert!(allotments.remove(&one).is_none());
        assert!(allotments.take(&quota, other, 10, start), "all of it is free again");
    }
}
