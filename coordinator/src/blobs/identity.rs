//! The object by which a store knows its ledger.

use bytes::Bytes;
use futures::TryStreamExt as _;
use gavel_core::blob_store::IDENTITY;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use super::{BlobError, Blobs, blob_at};

impl Blobs {
    /// What a coordinator wrote down here of its ledger.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub(crate) async fn identity(&self) -> Result<Option<Bytes>, BlobError> {
        let read = match self.store.get(&StorePath::from(IDENTITY)).await {
            Ok(found) => found.bytes().await.map(Some),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(source),
        };
        read.map_err(|source| BlobError::from_store(&self.location, "read from", source))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// As for any write.
    pub(crate) async fn set_identity(&self, identity: Bytes) -> Result<(), BlobError> {
        let put = self.store.put(&StorePath::from(IDENTITY), identity.into()).await;
        put.map(drop)
            .map_err(|source| BlobError::from_store(&self.location, "write to", source))
    }

    /// Whether the store holds a blob at all.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub(crate) async fn is_empty(&self) -> Result<bool, BlobError> {
        let mut objects = self.store.list(None);
        while let Some(object) = objects
            .try_next()
            .await
            .map_err(|source| BlobError::from_store(&self.location, "look into", source))?
        {
            if blob_at(&object.location).is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
