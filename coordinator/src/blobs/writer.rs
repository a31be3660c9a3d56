//! Storing a blob whose bytes arrive in pieces.
//!
//! The sender says the name first, so that the bytes go straight to their place: a small blob in one put, a large one as a
//! multipart upload. Both appear whole or not at all, in a folder (a rename at the end) as in a cloud store (where a rename
//! would be a copy, and S3 copies at most 5 GiB in one request). An upload whose bytes do not hash to the name is given up
//! before anybody can see it.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use gavel_core::ids::Digest;
use object_store::{ObjectStoreExt as _, WriteMultipart};
use sha2::Digest as _;

use super::quota::{Quota, Room};
use super::{BlobError, Blobs, PART_BYTES, place};

/// Parts of one blob on their way at a time: enough to keep a long road busy, and a bound for the coordinator's memory.
const PARTS_UNDER_WAY: usize = 2;

/// A blob that is being written. Dropping an unfinished writer leaves nothing that can be read.
///
/// A blob that is there already is written again: that costs little, since it is rare, and repairs a copy whose bytes changed.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    name: Digest,
    hash: sha2::Sha256,
    size: u64,
    /// What is not in the upload, if there is one.
    buffer: BytesMut,
    upload: Option<WriteMultipart>,
    /// Where there is a quota.
    room: Option<Room>,
}

impl BlobWriter {
    pub(super) fn new(blobs: Blobs, name: Digest) -> Self {
        Self {
            room: blobs.quota.as_ref().map(Quota::room),
            blobs,
            name,
            hash: sha2::Sha256::new(),
            size: 0,
            buffer: BytesMut::new(),
            upload: None,
        }
    }

    /// How many bytes have come so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] beyond the store's bound, [`BlobError::OverQuota`] beyond that of all blobs; otherwise as for any write.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.size += bytes.len() as u64;
        if self.size > self.blobs.blob_bytes_max {
            self.give_up().await;
            return Err(BlobError::TooLarge {
                blob_bytes_max: self.blobs.blob_bytes_max,
            });
        }
        if let Err(full) = self.take_room(bytes.len() as u64).await {
            self.give_up().await;
            return Err(full);
        }
        self.hash.update(&bytes);
        if self.upload.is_none() {
            self.buffer.extend_from_slice(&bytes);
            if self.buffer.len() <= PART_BYTES {
                return Ok(());
            }
            let upload = self.blobs.store.put_multipart(&place(&self.name)).await;
            let upload = upload.map_err(|source| self.failed(source))?;
            let upload = self
                .upload
                .insert(WriteMultipart::new_with_chunk_size(upload, PART_BYTES));
            upload.put(self.buffer.split().freeze());
        } else if let Some(upload) = &mut self.upload {
            upload.put(bytes);
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let sent = upload.wait_for_capacity(PARTS_UNDER_WAY).await;
        sent.map_err(|source| self.failed(source))
    }

    /// Makes the blob readable under its name. Returns its size in bytes.
    ///
    /// # Errors
    /// [`BlobError::Misnamed`] when the bytes have another hash; otherwise as for any write.
    pub async fn finish(mut self) -> Result<u64, BlobError> {
        let found = Digest(self.hash.clone().finalize().into());
        if found != self.name {
            self.give_up().await;
            return Err(BlobError::Misnamed {
                digest: self.name,
                found,
            });
        }
        let before = self.blobs.counted(&self.name).await?;
        let stored = match self.upload.take() {
            Some(upload) => upload.finish().await,
            None => {
                let bytes = self.buffer.split().freeze();
                self.blobs.store.put(&place(&self.name), bytes.into()).await
            }
        };
        stored.map_err(|source| self.failed(source))?;
        if let Some(room) = self.room.take() {
            room.keep(before);
        }
        Ok(self.size)
    }

    /// Room for more, where there is a quota: what was allotted in vain gives way.
    async fn take_room(&mut self, bytes: u64) -> Result<(), BlobError> {
        let Some(room) = &mut self.room else { return Ok(()) };
        match room.grow(bytes) {
            Err(BlobError::OverQuota { .. }) if self.blobs.settle_expired(Instant::now()).await? => room.grow(bytes),
            grown => grown,
        }
    }

    /// Cloud stores keep, and charge for, the parts of an upload that nobody gives up.
    async fn give_up(&mut self) {
        if let Some(upload) = self.upload.take() {
            abort(upload, self.name).await;
        }
    }

    fn failed(&self, source: object_store::Error) -> BlobError {
        BlobError::from_store(&self.blobs.location, "write to", source)
    }
}

/// A caller that went away in the middle.
impl Drop for BlobWriter {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(abort(upload, self.name));
        }
    }
}

async fn abort(upload: WriteMultipart, digest: Digest) {
    if let Err(error) = upload.abort().await {
        tracing::warn!(%digest, %error, "the parts of an unfinished blob could not be removed");
    }
}
