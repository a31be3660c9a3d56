//! The leases that a worker holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gavel_core::work::LeaseKey;
use tokio_util::sync::CancellationToken;

/// The open leases, each with the token that ends the work on it. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(Arc<Mutex<BTreeMap<LeaseKey, CancellationToken>>>);

impl Held {
    pub(crate) fn add(&self, key: &LeaseKey) -> CancellationToken {
        let token = CancellationToken::new();
        self.locked().insert(key.clone(), token.clone());
        token
    }

    pub(crate) fn remove(&self, key: &LeaseKey) {
        self.locked().remove(key);
    }

    pub(crate) fn keys(&self) -> Vec<LeaseKey> {
        self.locked().keys().cloned().collect()
    }

    /// Ends the work on a lease that belongs to somebody else now.
    pub(crate) fn lose(&self, key: &LeaseKey) {
        if let Some(token) = self.locked().remove(key) {
            tracing::warn!(run = %key.run, unit = %key.unit, fence = key.fence.0, "lease lost");
            token.cancel();
        }
    }

    /// Ends all work; the leases stay until they are given back.
    pub(crate) fn cancel_all(&self) {
        for token in self.locked().values() {
            token.cancel();
        }
    }

    /// Whether this is still the worker's.
    pub(crate) fn holds(&self, key: &LeaseKey) -> bool {
        self.locked().contains_key(key)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeaseKey, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
