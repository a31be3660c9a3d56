//! Blobs as a worker sees them: fetched once, checked, cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gavel_client::{CallError, Code, Connection, persist};
use gavel_core::ids::Digest;
use gavel_core::work::{Fault, Unusable};
use tokio::sync::Semaphore;

use crate::cache::Cache;
use crate::work::WorkError;

/// Uploads and downloads at a time, per worker.
const TRANSFERS: usize = 4;

/// The coordinator's blobs, or a map in memory for work that is done without a coordinator. Clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Blobs {
    Remote(Arc<Remote>),
    Memory(Arc<Mutex<HashMap<Digest, Bytes>>>),
}

#[derive(Debug)]
pub(crate) struct Remote {
    coordinator: gavel_client::Blobs,
    cache: Mutex<Cache>,
    transfers: Semaphore,
}

impl Blobs {
    pub(crate) fn remote(connection: &Connection, cache_bytes: usize) -> Self {
        Self::Remote(Arc::new(Remote {
            coordinator: connection.blobs(),
            cache: Mutex::new(Cache::new(cache_bytes)),
            transfers: Semaphore::new(TRANSFERS),
        }))
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Fetches a blob, waiting out a coordinator that is away.
    pub(crate) async fn get(&self, digest: &Digest) -> Result<Bytes, WorkError> {
        match self {
            Self::Remote(remote) => remote.get(digest).await.map_err(|error| not_read(digest, &error)),
            Self::Memory(blobs) => {
                let found = blobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(digest)
                    .cloned();
                found.ok_or_else(|| gone(digest, &format!("no blob {digest}")))
            }
        }
    }

    /// Stores a blob under its hash, waiting out a coordinator that is away.
    pub(crate) async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), WorkError> {
        match self {
            Self::Remote(remote) => remote.put(digest, bytes).await.map_err(|error| failed("store", &error)),
            Self::Memory(blobs) => {
                blobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(digest, bytes);
                Ok(())
            }
        }
    }
}

impl Remote {
    async fn get(&self, digest: &Digest) -> Result<Bytes, CallError> {
        if let Some(bytes) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(bytes);
        }
        let _transfer = self.transfers.acquire().await;
        let bytes = persist("get a blob", || self.coordinator.get(*digest)).await?;
        self.keep(*digest, &bytes);
        Ok(bytes)
    }

    async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), CallError> {
        // What this worker stores it often reads next: the policy it committed, the images it sampled.
        self.keep(digest, &bytes);
        let _transfer = self.transfers.acquire().await;
        persist("put a blob", || self.coordinator.put(digest, bytes.clone())).await
    }

    fn keep(&self, digest: Digest, bytes: &Bytes) {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, bytes.clone());
    }
}

fn not_read(digest: &Digest, error: &CallError) -> WorkError {
    match error.code() {
        Code::NotFound | Code::DataLoss => gone(digest, error.message()),
        _ => failed("read", error),
    }
}

/// The store has lost the blob, or has other bytes in its stead.
fn gone(digest: &Digest, message: &str) -> WorkError {
    WorkError::Unusable {
        inputs: vec![Unusable {
            blob: *digest,
            fault: Fault::Storage,
        }],
        reason: format!("an input cannot be read: {message}"),
    }
}

fn failed(action: &str, error: &CallError) -> WorkError {
    let message = format!("cannot {action} a blob: {}", error.message());
    match error.code() {
        // Too large for this coordinator: so it would be from another worker.
        Code::InvalidArgument => WorkError::Fatal(message),
        // The store is read-only or refuses the coordinator: no fault of the unit.
        Code::FailedPrecondition => WorkError::Unavailable(message),
        _ => WorkError::Retry(message),
    }
}
