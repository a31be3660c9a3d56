//! Storing a blob whose bytes arrive in pieces.

use bytes::{Bytes, BytesMut};
use gavel_core::ids::Digest;
use object_store::path::Path as StorePath;
use object_store::{MultipartUpload, ObjectStoreExt as _};
use sha2::Digest as _;

use super::{BlobError, Blobs, PART_BYTES, STAGING, place};

/// A blob that is being written. Its name is known at the end, so a large one is written to `staging/` first and then moved.
/// Dropping an unfinished writer leaves nothing behind in a folder store.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    hash: sha2::Sha256,
    size: u64,
    buffer: BytesMut,
    staged: Option<Staged>,
}

#[derive(Debug)]
struct Staged {
    path: StorePath,
    upload: Box<dyn MultipartUpload>,
}

impl BlobWriter {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            hash: sha2::Sha256::new(),
            size: 0,
            buffer: BytesMut::new(),
            staged: None,
        }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] beyond the store's bound; otherwise as for any write.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.size += bytes.len() as u64;
        if self.size > self.blobs.blob_bytes_max {
            return Err(BlobError::TooLarge {
                blob_bytes_max: self.blobs.blob_bytes_max,
            });
        }
        self.hash.update(&bytes);
        self.buffer.extend_from_slice(&bytes);
        while self.buffer.len() > 2 * PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.stage(part).await?;
        }
        Ok(())
    }

    /// Makes the blob readable under its name. Returns the name and the size in bytes.
    ///
    /// # Errors
    /// As for any write.
    pub async fn finish(mut self) -> Result<(Digest, u64), BlobError> {
        let digest = Digest(self.hash.clone().finalize().into());
        let exists = self.blobs.is_intact(&digest, self.size).await?;
        let rest = self.buffer.split().freeze();
        match (exists, self.staged.is_some()) {
            (true, false) => {}
            (true, true) => self.abort().await,
            (false, false) => {
                let stored = self.blobs.store.put(&place(&digest), rest.into()).await;
                stored.map_err(|source| self.failed(source))?;
            }
            (false, true) => {
                self.stage(rest).await?;
                self.publish(&digest).await?;
            }
        }
        Ok((digest, self.size))
    }

    async fn stage(&mut self, part: Bytes) -> Result<(), BlobError> {
        if self.staged.is_none() {
            let path = StorePath::from(format!("{STAGING}/{}", uuid::Uuid::new_v4()));
            let upload = self
                .blobs
                .store
                .put_multipart(&path)
                .await
                .map_err(|source| self.failed(source))?;
            self.staged = Some(Staged { path, upload });
        }
        let Some(staged) = &mut self.staged else { return Ok(()) };
        let sent = staged.upload.put_part(part.into()).await;
        sent.map_err(|source| self.failed(source))
    }

    async fn publish(&mut self, digest: &Digest) -> Result<(), BlobError> {
        let Some(mut staged) = self.staged.take() else {
            return Ok(());
        };
        staged.upload.complete().await.map_err(|source| self.failed(source))?;
        let moved = self.blobs.store.rename(&staged.path, &place(digest)).await;
        moved.map_err(|source| self.failed(source))
    }

    async fn abort(&mut self) {
        if let Some(mut staged) = self.staged.take()
            && let Err(error) = staged.upload.abort().await
        {
            tracing::warn!(path = %staged.path, %error, "a staged blob could not be removed");
        }
    }

    fn failed(&self, source: object_store::Error) -> BlobError {
        BlobError::from_store(&self.blobs.location, "write to", source)
    }
}
