//! Finding what nobody needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use futures::TryStreamExt as _;
use gavel_core::ids::Digest;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use super::{BlobError, Blobs, CORRUPT, blob_at, place};

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Swept {
    /// Counts what was deleted besides.
    pub(crate) fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

impl Blobs {
    /// Deletes a blob; one that is not there is no error.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub async fn delete(&self, digest: &Digest) -> Result<(), BlobError> {
        let counted = self.counted(digest).await?;
        match self.store.delete(&place(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {
                self.uncount(counted);
                Ok(())
            }
            Err(source) => Err(BlobError::from_store(&self.location, "delete from", source)),
        }
    }

    /// Blobs that were last written before `before` and are none of `retained`: those of results that never counted.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store cannot be listed.
    pub async fn orphans(
        &self,
        retained: &BTreeSet<Digest>,
        before: SystemTime,
    ) -> Result<BTreeSet<Digest>, BlobError> {
        let old = |modified| SystemTime::from(modified) < before;
        let blobs = self.store.list(None).try_filter_map(|object| {
            let blob = blob_at(&object.location).filter(|blob| old(object.last_modified) && !retained.contains(blob));
            std::future::ready(Ok(blob))
        });
        let blobs = blobs.try_collect().await;
        blobs.map_err(|source| BlobError::from_store(&self.location, "look into", source))
    }

    /// Deletes what is no blob and was last written before `before`: corrupt blobs that were moved aside, and the pieces of
    /// uploads to a folder that ended with their coordinator. Objects that this program does not write are left alone.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store cannot be listed.
    pub async fn sweep(&self, before: SystemTime) -> Result<Swept, BlobError> {
        let failed = |source| BlobError::from_store(&self.location, "sweep", source);
        let mut swept = Swept::default();
        let mut objects = self.store.list(Some(&StorePath::from(CORRUPT)));
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            if SystemTime::from(object.last_modified) >= before {
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
        if let Some(folder) = self.folder.clone() {
            let pieces = tokio::task::spawn_blocking(move || sweep_pieces(&folder, before)).await;
            swept.add(pieces.unwrap_or_default());
        }
        Ok(swept)
    }
}

/// Deletes unfinished uploads: object_store writes to `NAME#NUMBER`, which it does not list, and renames at the end. One that
/// cannot be deleted costs space, nothing else.
fn sweep_pieces(folder: &Path, before: SystemTime) -> Swept {
    let mut swept = Swept::default();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if metadata.is_dir() {
            swept.add(sweep_pieces(&entry.path(), before));
            continue;
        }
        let is_piece = name
            .rsplit_once('#')
            .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()));
        let is_old = metadata.modified().is_ok_and(|modified| modified < before);
        if is_piece && is_old && std::fs::remove_file(entry.path()).is_ok() {
            swept.objects += 1;
            swept.bytes += metadata.len();
        }
    }
    swept
}
