//! Deleting in two steps. What nobody needs any more is first listed in the trash and stays where it is, readable as before; what
//! a list names is deleted when the list is old enough.
//!
//! A list is one object below `trash/`, with the names of its blobs, one a line, and the store's own time of its writing. Nothing
//! is moved: on S3 that would be a copy. Storing a blob again takes it out of the trash, since it is then younger than the list.

use std::collections::BTreeSet;
use std::time::SystemTime;

use futures::TryStreamExt as _;
use gavel_core::ids::Digest;
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _};

use super::{BlobError, Blobs, Swept, place};

const TRASH: &str = "trash";

/// Blobs that were put into the trash together.
#[derive(Debug)]
pub struct Discarded {
    list: ObjectMeta,
    /// The blobs.
    pub blobs: BTreeSet<Digest>,
}

impl Blobs {
    /// Puts blobs into the trash. They can still be read.
    ///
    /// # Errors
    /// As for any write.
    pub async fn discard(&self, blobs: &BTreeSet<Digest>) -> Result<(), BlobError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let list = StorePath::from(TRASH).join(format!("{}.txt", uuid::Uuid::new_v4().simple()));
        let names: String = blobs.iter().map(|digest| format!("{digest}\n")).collect();
        self.store
            .put(&list, names.into_bytes().into())
            .await
            .map_err(|source| BlobError::from_store(&self.location, "write to", source))?;
        Ok(())
    }

    /// What was put into the trash before `before`.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store cannot be listed or read.
    pub async fn discarded(&self, before: SystemTime) -> Result<Vec<Discarded>, BlobError> {
        let failed = |source| BlobError::from_store(&self.location, "read from", source);
        let lists: Vec<ObjectMeta> = self
            .store
            .list(Some(&StorePath::from(TRASH)))
            .try_collect()
            .await
            .map_err(failed)?;
        let mut discarded = Vec::new();
        for list in lists {
            if SystemTime::from(list.last_modified) >= before {
                continue;
            }
            let names = self.store.get(&list.location).await.map_err(failed)?;
            let names = names.bytes().await.map_err(failed)?;
            let names = String::from_utf8_lossy(&names);
            let blobs = names.lines().filter_map(|name| name.parse().ok()).collect();
            discarded.push(Discarded { list, blobs });
        }
        Ok(discarded)
    }

    /// Deletes what was put into the trash together, but for `needed` and for what has been stored again since.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer; what is left stays in the trash.
    pub async fn empty(&self, discarded: &Discarded, needed: &BTreeSet<Digest>) -> Result<Swept, BlobError> {
        let failed = |source| BlobError::from_store(&self.location, "delete from", source);
        let mut swept = Swept::default();
        for digest in discarded.blobs.difference(needed) {
            let blob = match self.store.head(&place(digest)).await {
                // Some stores tell time by the second: what is of the same one stays.
                Ok(blob) if blob.last_modified < discarded.list.last_modified => blob,
                Ok(_) | Err(object_store::Error::NotFound { .. }) => continue,
                Err(source) => return Err(failed(source)),
            };
            self.delete(digest).await?;
            swept.objects += 1;
            swept.bytes += blob.size;
        }
        match self.store.delete(&discarded.list.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(swept),
            Err(source) => Err(failed(source)),
        }
    }
}
