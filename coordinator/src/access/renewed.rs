//! What was read from files and is read again while it is in use.

use std::sync::{Arc, PoisonError, RwLock};

/// A value that may be replaced by a newer one at any time. Clones share it.
#[derive(Debug)]
pub(crate) struct Renewed<T>(Arc<RwLock<Arc<T>>>);

impl<T> Renewed<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The latest.
    pub(crate) fn present(&self) -> Arc<T> {
        // Nothing that could panic is done under the lock.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a newer one; whoever holds the one before keeps it.
    pub(crate) fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T> Clone for Renewed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
