//! Blobs as a worker sees them: fetched once, checked, cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use gavel_core::ids::Digest;
use gavel_proto::v1::{GetRequest, PutRequest};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::cache::Cache;
use crate::connection::{Connection, persist};

/// Large enough to be cheap, far below any message bound.
const CHUNK_BYTES: usize = 1 << 20;
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
    connection: Connection,
    cache: Mutex<Cache>,
    transfers: Semaphore,
}

impl Blobs {
    pub(crate) fn remote(connection: Connection, cache_bytes: usize) -> Self {
        let cache = Mutex::new(Cache::new(cache_bytes));
        Self::Remote(Arc::new(Remote {
            connection,
            cache,
            transfers: Semaphore::new(TRANSFERS),
        }))
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Fetches a blob, waiting out a coordinator that is away.
    pub(crate) async fn get(&self, digest: &Digest) -> Result<Bytes, Status> {
        match self {
            Self::Remote(remote) => remote.get(digest).await,
            Self::Memory(blobs) => {
                let found = blobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(digest)
                    .cloned();
                found.ok_or_else(|| Status::not_found(format!("no blob {digest}")))
            }
        }
    }

    /// Stores a blob under its hash, waiting out a coordinator that is away.
    pub(crate) async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), Status> {
        match self {
            Self::Remote(remote) => remote.put(digest, bytes).await,
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
    async fn get(&self, digest: &Digest) -> Result<Bytes, Status> {
        if let Some(bytes) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(bytes);
        }
        let _transfer = self.transfers.acquire().await;
        let bytes = persist("get a blob", || self.fetch(*digest)).await?;
        self.keep(*digest, &bytes);
        Ok(bytes)
    }

    async fn fetch(&self, digest: Digest) -> Result<Bytes, Status> {
        let request = GetRequest {
            sha256: digest.to_string(),
        };
        let mut stream = self.connection.blobs().get(request).await?.into_inner();
        let mut bytes = BytesMut::new();
        while let Some(message) = stream.message().await? {
            bytes.extend_from_slice(&message.chunk);
        }
        let found = Digest::of(&bytes);
        if found != digest {
            // The coordinator checks what it reads, so these bytes changed on their way: worth another attempt.
            return Err(Status::aborted(format!("blob {digest} arrived as {found}")));
        }
        Ok(bytes.freeze())
    }

    async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), Status> {
        // What this worker stores it often reads next: the policy it committed, the images it sampled.
        self.keep(digest, &bytes);
        let _transfer = self.transfers.acquire().await;
        persist("put a blob", || self.send(digest, bytes.clone())).await
    }

    async fn send(&self, digest: Digest, bytes: Bytes) -> Result<(), Status> {
        let chunks = (0..bytes.len().div_ceil(CHUNK_BYTES).max(1)).map(move |index| {
            let start = index * CHUNK_BYTES;
            let end = bytes.len().min(start + CHUNK_BYTES);
            let name = (index == 0).then(|| digest.to_string());
            PutRequest {
                chunk: bytes.slice(start..end).into(),
                sha256: name.unwrap_or_default(),
            }
        });
        let stored = self
            .connection
            .blobs()
            .put(tokio_stream::iter(chunks))
            .await?
            .into_inner();
        if stored.sha256 != digest.to_string() {
            return Err(Status::aborted(format!(
                "blob {digest} was stored as {}",
                stored.sha256
            )));
        }
        Ok(())
    }

    fn keep(&self, digest: Digest, bytes: &Bytes) {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, bytes.clone());
    }
}
