//! Blobs as a worker sees them: fetched once, checked, cached.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use gavel_client::{CallError, Code, Connection, persist};
use gavel_core::ids::Digest;
use gavel_core::work::{Fault, Unusable};
use tokio::sync::Semaphore;

use crate::kept::Kept;
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
    kept: Arc<Kept>,
    /// What is being fetched, and by whoever asked first: others wait for the same bytes.
    downloads: Mutex<HashMap<Digest, WeakShared<Download>>>,
    transfers: Semaphore,
}

type Download = BoxFuture<'static, Result<Bytes, CallError>>;

impl Blobs {
    /// The coordinator's, with the store's folder where this machine has it, and with the certificate under which this worker shares what it keeps.
    pub(crate) fn remote(
        connection: &Connection,
        kept: Arc<Kept>,
        folder: Option<&Path>,
        certificate: Option<Digest>,
    ) -> Self {
        Self::Remote(Arc::new(Remote {
            coordinator: connection.blobs().directly_as(folder, certificate),
            kept,
            downloads: Mutex::default(),
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
    async fn get(self: &Arc<Self>, digest: &Digest) -> Result<Bytes, CallError> {
        if let Some(bytes) = self.kept.get(digest) {
            return Ok(bytes);
        }
        let remote = Arc::clone(self);
        let digest = *digest;
        once(&self.downloads, digest, || {
            async move { remote.fetch(digest).await }.boxed()
        })
        .await
    }

    async fn fetch(&self, digest: Digest) -> Result<Bytes, CallError> {
        let _transfer = self.transfers.acquire().await;
        let bytes = persist("get a blob", || self.coordinator.get(digest)).await?;
        self.kept.keep(digest, &bytes);
        self.kept.share(digest, &bytes);
        Ok(bytes)
    }

    async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), CallError> {
        self.kept.keep_stored(digest, &bytes);
        let _transfer = self.transfers.acquire().await;
        persist("put a blob", || self.coordinator.put(digest, bytes.clone())).await?;
        // Nobody is sent here for it before the coordinator has it.
        self.kept.share(digest, &bytes);
        Ok(())
    }
}

/// The download of this blob that is under way, or else one that begins. It ends early when nobody waits for it any more.
fn once(
    downloads: &Mutex<HashMap<Digest, WeakShared<Download>>>,
    digest: Digest,
    begin: impl FnOnce() -> Download,
) -> Shared<Download> {
    let mut downloads = downloads.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(download) = downloads.get(&digest).and_then(WeakShared::upgrade) {
        return download;
    }
    // Those that nobody waits for.
    downloads.retain(|_, download| download.upgrade().is_some());
    let download = begin().shared();
    if let Some(weak) = download.downgrade() {
        downloads.insert(digest, weak);
    }
    download
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_blob_that_several_ask_for_at_once_is_fetched_once_also_when_the_first_gives_up() {
        let downloads = Mutex::default();
        let begun = AtomicUsize::new(0);
        let bytes = Bytes::from_static(b"abc");
        let digest = Digest::of(&bytes);
        let (send, arrives) = oneshot::channel();
        let first = once(&downloads, digest, || {
            begun.fetch_add(1, Ordering::Relaxed);
            async move { Ok(arrives.await.unwrap_or_default()) }.boxed()
        });
        let none = || -> Download { panic!("it is under way") };
        let (second, third) = (once(&downloads, digest, none), once(&downloads, digest, none));
        drop(first);
        send.send(bytes.clone()).unwrap();
        assert_eq!((second.await, third.await), (Ok(bytes.clone()), Ok(bytes)));
        assert_eq!(begun.load(Ordering::Relaxed), 1);

        let again = once(&downloads, digest, || async { Ok(Bytes::new()) }.boxed());
        assert_eq!(again.await, Ok(Bytes::new()), "nothing is kept here");
        let other = once(&downloads, Digest::of(b"other"), || async { Ok(Bytes::new()) }.boxed());
        assert_eq!(downloads.lock().unwrap().len(), 1, "what has ended is forgotten");
        drop(other);
    }
}
