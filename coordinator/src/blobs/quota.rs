//! How many bytes all blobs of a store may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BlobError;

/// The bytes that blobs take, those that are being written included, and the most that they may take. Clones share it.
///
/// It is counted from a list of the store at the start, and on from there: a store that others write to is counted anew at the
/// next start.
#[derive(Debug, Clone)]
pub(super) struct Quota(Arc<Count>);

#[derive(Debug)]
struct Count {
    most: u64,
    taken: AtomicU64,
}

/// Room for a blob that arrives; free again when it is dropped without having been kept.
#[derive(Debug)]
pub(super) struct Room {
    quota: Quota,
    bytes: u64,
}

impl Quota {
    pub(super) fn new(most: u64, taken: u64) -> Self {
        Self(Arc::new(Count {
            most,
            taken: AtomicU64::new(taken),
        }))
    }

    /// Room for nothing yet.
    pub(super) fn room(&self) -> Room {
        Room {
            quota: self.clone(),
            bytes: 0,
        }
    }

    /// Notes that so many bytes are gone.
    pub(super) fn free(&self, bytes: u64) {
        // Never below nothing: others may have deleted what this one counted.
        let _ = self
            .0
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                Some(taken.saturating_sub(bytes))
            });
    }

    fn take(&self, bytes: u64) -> Result<(), BlobError> {
        let Count { most, taken } = &*self.0;
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| sum <= most);
        let taken = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken
            .map(drop)
            .map_err(|taken| BlobError::OverQuota { taken, most: *most })
    }
}

impl Room {
    /// Takes more.
    ///
    /// # Errors
    /// [`BlobError::OverQuota`].
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), BlobError> {
        self.quota.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// The blob is stored, in place of one of so many bytes: nothing of the room is free again.
    pub(super) fn keep(mut self, before: u64) {
        self.bytes = 0;
        self.quota.free(before);
    }

    /// The blob is stored, and turned out to take so many bytes.
    pub(super) fn hold(mut self, bytes: u64) {
        let allotted = std::mem::take(&mut self.bytes);
        // It is there, whatever the quota says of it.
        self.quota.0.taken.fetch_add(bytes, Ordering::Relaxed);
        self.quota.free(allotted);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.quota.free(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(quota: &Quota) -> u64 {
        quota.0.taken.load(Ordering::Relaxed)
    }

    #[test]
    fn room_is_free_again_unless_it_is_kept() {
        let quota = Quota::new(10, 3);
        let mut given_up = quota.room();
        given_up.grow(4).unwrap();
        assert_eq!(taken(&quota), 7);
        let refused = given_up.grow(4).unwrap_err();
        assert!(
            matches!(refused, BlobError::OverQuota { taken: 7, most: 10 }),
            "{refused}"
        );
        drop(given_up);
        assert_eq!(taken(&quota), 3);

        let mut kept = quota.room();
        kept.grow(5).unwrap();
        kept.keep(2);
        assert_eq!(taken(&quota), 6);
        let mut written_by_others = quota.room();
        written_by_others.grow(2).unwrap();
        written_by_others.hold(7);
        assert_eq!(taken(&quota), 13, "it is counted as large as it is");
        quota.free(100);
        assert_eq!(taken(&quota), 0);
        assert!(quota.room().grow(u64::MAX).is_err());
    }
}
