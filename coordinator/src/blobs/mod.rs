//! Content-addressed bytes: trajectories, images, adapters, gradients, optimizer states.
//!
//! A blob's name is its SHA-256, its place is `ab/cdef...` (two hexadecimal digits, then the rest), and it appears there in
//! one move, whole or not at all. Every read checks the bytes against the name; others are moved to `corrupt/`, where
//! somebody can look at them, and the blob counts as missing. The store behind is an [`object_store::ObjectStore`]: a folder,
//! or a cloud store ([`Blobs::open`]).

mod allotments;
#[cfg(feature = "cloud")]
mod cloud;
mod direct;
mod error;
mod identity;
mod open;
mod quota;
mod sweep;
mod trash;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use gavel_core::blob_store;
use gavel_core::ids::Digest;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sha2::Digest as _;

use allotments::Allotments;
pub use direct::{Reach, Signer, Site};
pub use error::BlobError;
use quota::Quota;
pub use sweep::Swept;
pub use trash::Discarded;
pub use writer::BlobWriter;

/// The size in which large blobs are written, so that a coordinator's memory does not grow with a model's size. S3 wants parts of
/// 5 MiB at least, and 10,000 of them at most: this reaches to 78 GiB.
const PART_BYTES: usize = 8 << 20;

/// Where blobs are moved whose bytes are no longer theirs.
const CORRUPT: &str = "corrupt";

/// A store of blobs. Clones share it.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// What people know this store by: the folder, or the address.
    location: Arc<str>,
    blob_bytes_max: u64,
    /// Nobody but one coordinator stores blobs here.
    exclusive: bool,
    /// The folder, where it is one: for what no store lists.
    folder: Option<PathBuf>,
    /// What all blobs together may take; `None` for whatever the store takes.
    quota: Option<Quota>,
    /// Blobs that others may write straight to the store, and that the quota counts.
    allotments: Arc<Allotments>,
    /// Where the store makes addresses.
    signer: Option<Arc<dyn Signer>>,
    hands_out_addresses: bool,
}

impl Blobs {
    /// Opens a store in `folder`, creating it where it is missing, and proves that it can be written to.
    ///
    /// # Errors
    /// [`BlobError::Unwritable`] and [`BlobError::NoSpace`].
    pub async fn open_folder(folder: &Path, blob_bytes_max: u64) -> Result<Self, BlobError> {
        let location: Arc<str> = folder.display().to_string().into();
        std::fs::create_dir_all(folder).map_err(|source| BlobError::Unwritable {
            location: location.to_string(),
            source: source.into(),
        })?;
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| BlobError::from_store(&location, "open", source))?
            // The ledger may only name blobs that outlive a power cut, so a blob is on disk before its name is told.
            .with_fsync(true);
        let blobs = Self {
            folder: Some(folder.to_owned()),
            ..Self::over(Arc::new(store), &location, blob_bytes_max)
        };
        blobs.check_writable().await?;
        Ok(blobs)
    }

    /// A store over any object store; `location` is its name for people.
    pub fn over(store: Arc<dyn ObjectStore>, location: &str, blob_bytes_max: u64) -> Self {
        Self {
            store,
            location: location.into(),
            blob_bytes_max,
            exclusive: false,
            folder: None,
            quota: None,
            allotments: Arc::default(),
            signer: None,
            hands_out_addresses: false,
        }
    }

    /// Says that nobody but the coordinator of one ledger uses this store, so that whatever that ledger does not need may be
    /// swept away.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// Bounds what all blobs together may take, those that are there included.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store cannot be listed.
    pub async fn with_quota(mut self, most: u64) -> Result<Self, BlobError> {
        let blobs = self.store.list(None);
        let blobs = blobs.try_filter(|object| std::future::ready(blob_at(&object.location).is_some()));
        let taken = blobs
            .try_fold(0_u64, async |sum, blob| Ok(sum.saturating_add(blob.size)))
            .await;
        let taken = taken.map_err(|source| BlobError::from_store(&self.location, "look into", source))?;
        self.quota = Some(Quota::new(most, taken));
        Ok(self)
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// What people know this store by.
    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    /// Writes and deletes a probe.
    ///
    /// # Errors
    /// As for any write.
    pub async fn check_writable(&self) -> Result<(), BlobError> {
        let probe = StorePath::from(format!("probe-{}", uuid::Uuid::new_v4()));
        let failed = |source| BlobError::from_store(&self.location, "write to", source);
        self.store
            .put(&probe, Bytes::from_static(b"probe").into())
            .await
            .map_err(failed)?;
        self.store.delete(&probe).await.map_err(failed)
    }

    /// Begins to store the blob of this name, whose bytes arrive in pieces.
    pub fn writer(&self, name: Digest) -> BlobWriter {
        BlobWriter::new(self.clone(), name)
    }

    /// Stores `bytes`. Storing them again is harmless, and repairs a copy whose bytes changed.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], [`BlobError::NoSpace`], [`BlobError::Unwritable`], [`BlobError::Denied`],
    /// [`BlobError::Store`].
    pub async fn put(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        let name = Digest::of(&bytes);
        let mut writer = self.writer(name);
        writer.write(bytes).await?;
        writer.finish().await?;
        Ok(name)
    }

    /// The size in bytes, or `None` when there is no such blob.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match self.store.head(&place(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(BlobError::from_store(&self.location, "look into", source)),
        }
    }

    /// Reads a whole blob.
    ///
    /// # Errors
    /// [`BlobError::Missing`]; [`BlobError::Corrupt`] when the bytes no longer have the name's hash.
    pub async fn get(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let bytes = self.read(digest).await?;
        self.check(digest, Digest::of(&bytes)).await?;
        Ok(bytes)
    }

    /// As [`Blobs::get`], for those who only look: corrupt bytes stay where they are.
    ///
    /// # Errors
    /// As [`Blobs::get`].
    pub async fn peek(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let bytes = self.read(digest).await?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(self.corrupt(digest, found)),
        }
    }

    async fn read(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        match self.store.get(&place(digest)).await {
            Ok(found) => found.bytes().await,
            Err(source) => Err(source),
        }
        .map_err(|source| self.read_failed(digest, source))
    }

    /// Reads a blob in pieces of at most `piece_bytes`, each when it is asked for. The hash is known only with the last piece: a
    /// stream that ends without an error gave the right bytes, one that ends with [`BlobError::Corrupt`] did not.
    ///
    /// # Errors
    /// [`BlobError::Missing`] at once; later ones come in the stream.
    pub async fn stream(
        &self,
        digest: &Digest,
        piece_bytes: usize,
    ) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        let size = self.size(digest).await?.ok_or_else(|| self.missing(digest))?;
        if size <= piece_bytes as u64 {
            let bytes = self.get(digest).await?;
            return Ok(stream::once(async { Ok(bytes) }).boxed());
        }
        let state = Reading {
            blobs: self.clone(),
            digest: *digest,
            size,
            piece_bytes: piece_bytes as u64,
            offset: 0,
            hash: sha2::Sha256::new(),
        };
        Ok(stream::try_unfold(state, Reading::next).boxed())
    }

    /// Refuses bytes that are not the blob's, and moves them out of its place, so that the blob can be stored again.
    async fn check(&self, digest: &Digest, found: Digest) -> Result<(), BlobError> {
        if found == *digest {
            return Ok(());
        }
        let aside = StorePath::from(format!("{CORRUPT}/{digest}"));
        let counted = self.counted(digest).await?;
        match self.store.rename(&place(digest), &aside).await {
            Ok(()) => self.uncount(counted),
            Err(error) => tracing::error!(%digest, %error, "a corrupt blob could not be moved aside"),
        }
        Err(self.corrupt(digest, found))
    }

    /// The bytes that the quota counts for a blob; 0 without a quota, where nobody asks the store for them.
    async fn counted(&self, digest: &Digest) -> Result<u64, BlobError> {
        match self.quota {
            Some(_) => Ok(self.settle(digest).await?.unwrap_or_default()),
            None => Ok(0),
        }
    }

    /// Notes that so many bytes are gone from where they count.
    fn uncount(&self, bytes: u64) {
        if let Some(quota) = &self.quota {
            quota.free(bytes);
        }
    }

    fn corrupt(&self, digest: &Digest, found: Digest) -> BlobError {
        BlobError::Corrupt {
            location: self.location.to_string(),
            digest: *digest,
            found,
        }
    }

    fn missing(&self, digest: &Digest) -> BlobError {
        BlobError::Missing {
            location: self.location.to_string(),
            digest: *digest,
        }
    }

    fn read_failed(&self, digest: &Digest, source: object_store::Error) -> BlobError {
        match source {
            object_store::Error::NotFound { .. } => self.missing(digest),
            source => BlobError::from_store(&self.location, "read from", source),
        }
    }
}

/// A blob that is being read in pieces.
struct Reading {
    blobs: Blobs,
    digest: Digest,
    size: u64,
    piece_bytes: u64,
    offset: u64,
    hash: sha2::Sha256,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BlobError> {
        if self.offset == self.size {
            return Ok(None);
        }
        let end = self.size.min(self.offset + self.piece_bytes);
        let piece = self
            .blobs
            .store
            .get_range(&place(&self.digest), self.offset..end)
            .await
            .map_err(|source| self.blobs.read_failed(&self.digest, source))?;
        self.hash.update(&piece);
        self.offset = end;
        if self.offset == self.size {
            // The last piece is only handed on when the whole is right.
            let found = Digest(self.hash.clone().finalize().into());
            self.blobs.check(&self.digest, found).await?;
        }
        Ok(Some((piece, self)))
    }
}

/// The blob that lies at this place, if one does.
fn blob_at(path: &StorePath) -> Option<Digest> {
    let name: String = path.parts().map(|part| part.as_ref().to_owned()).collect();
    let digest = name.parse().ok()?;
    (place(&digest) == *path).then_some(digest)
}

/// Where a blob lies within its store.
fn place(digest: &Digest) -> StorePath {
    StorePath::from(blob_store::path(digest))
}
