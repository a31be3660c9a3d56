//! Deleting what nobody needs.

use std::collections::BTreeSet;
use std::time::SystemTime;

use futures::TryStreamExt as _;
use gavel_core::ids::Digest;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use super::{BlobError, Blobs, CORRUPT, blob_at, place};

/// What a sweep deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Blobs {
    /// Deletes a blob; one that is not there is no error.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub async fn delete(&self, digest: &Digest) -> Result<(), BlobError> {
        match self.store.delete(&place(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(BlobError::from_store(&self.location, "delete from", source)),
        }
    }

    /// Deletes what was last written before `before` and is none of `retained`: blobs of results that never counted, corrupt
    /// blobs that were moved aside. Objects that are not laid out as blobs are left alone.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store cannot be listed.
    pub async fn sweep(&self, retained: &BTreeSet<Digest>, before: SystemTime) -> Result<Swept, BlobError> {
        let failed = |source| BlobError::from_store(&self.location, "sweep", source);
        let mut swept = Swept::default();
        let mut objects = self.store.list(None);
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            let ours = match blob_at(&object.location) {
                Some(digest) => !retained.contains(&digest),
                None => object.location.prefix_matches(&StorePath::from(CORRUPT)),
            };
            if !ours || SystemTime::from(object.last_modified) >= before {
                continue;
            }
            match self.store.delete(&object.location).await {
                Ok(()) => {
                    swept.objects += 1;
                    swept.bytes += object.size;
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(swept)
    }
}
