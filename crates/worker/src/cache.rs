//! Blobs kept in memory, the least recently used given up first.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use gavel_core::ids::Digest;

/// A least-recently-used cache, bounded by bytes.
#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: usize,
    bytes: usize,
    /// Counts uses; the key of `order`.
    clock: u64,
    entries: HashMap<Digest, (u64, Bytes)>,
    order: BTreeMap<u64, Digest>,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            clock: 0,
            entries: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&mut self, digest: &Digest) -> Option<Bytes> {
        let (used, bytes) = self.entries.get_mut(digest)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, *digest);
        Some(bytes.clone())
    }

    /// The bytes, without a use of them being noted.
    pub(crate) fn peek(&self, digest: &Digest) -> Option<Bytes> {
        self.entries.get(digest).map(|(_, bytes)| bytes.clone())
    }

    /// What is kept.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Digest, &Bytes)> {
        self.entries.iter().map(|(digest, (_, bytes))| (digest, bytes))
    }

    /// Keeps `bytes`, unless they alone are more than the cache may hold. Returns what was given up for them.
    pub(crate) fn insert(&mut self, digest: Digest, bytes: Bytes) -> Vec<Digest> {
        let mut evicted = Vec::new();
        if bytes.len() > self.bytes_max || self.entries.contains_key(&digest) {
            return evicted;
        }
        while self.bytes + bytes.len() > self.bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some((_, given_up)) = self.entries.remove(&oldest) {
                self.bytes -= given_up.len();
                evicted.push(oldest);
            }
        }
        self.clock += 1;
        self.bytes += bytes.len();
        self.order.insert(self.clock, digest);
        self.entries.insert(digest, (self.clock, bytes));
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(byte: u8, size: usize) -> (Digest, Bytes) {
        let bytes = vec![byte; size];
        (Digest::of(&bytes), bytes.into())
    }

    #[test]
    fn the_least_recently_used_blob_goes_first_and_the_bound_holds() {
        let mut cache = Cache::new(100);
        let (first, second, third) = (blob(1, 40), blob(2, 40), blob(3, 40));
        assert!(cache.insert(first.0, first.1.clone()).is_empty());
        assert!(cache.insert(second.0, second.1).is_empty());
        assert_eq!(cache.get(&first.0), Some(first.1));
        assert_eq!(cache.peek(&second.0), Some(vec![2; 40].into()), "which is no use of it");
        assert_eq!(cache.insert(third.0, third.1), [second.0]);
        assert_eq!(cache.get(&second.0), None);
        assert!(cache.get(&first.0).is_some() && cache.get(&third.0).is_some());
        assert_eq!(cache.bytes, 80);
    }

    #[test]
    fn a_blob_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() {
        let mut cache = Cache::new(100);
        let (small, large) = (blob(1, 60), blob(2, 101));
        assert!(cache.insert(small.0, small.1).is_empty());
        assert!(cache.insert(large.0, large.1).is_empty());
        assert_eq!(cache.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), [small.0]);
        assert!(cache.get(&small.0).is_some());
        assert!(cache.get(&large.0).is_none());
    }
}
