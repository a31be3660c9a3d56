//! A store's folder that this machine has, too: on the same disk, or mounted.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gavel_core::blob_store::{self, IDENTITY, StoreMark};
use gavel_core::ids::Digest;
use object_store::ObjectStoreExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;

use super::{Arrived, Arriving, Keep, Problem};

/// Pieces in which a file is read and hashed, while they are in the processor's cache.
const PIECE_BYTES: usize = 256 << 10;
/// The largest mark of a store that is read: its identity, and some hundred bytes for each run.
const MARK_BYTES_MAX: u64 = 64 << 20;

/// A folder that may be the store's. Clones share what is known of it.
#[derive(Debug, Clone)]
pub(super) struct SharedFolder {
    folder: PathBuf,
    /// The store that it was found to be.
    store: Arc<Mutex<Option<String>>>,
}

impl SharedFolder {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            store: Arc::default(),
        }
    }

    /// Reads a blob, if this is the folder of `store`.
    pub(super) async fn read(&self, store: &str, size: u64, digest: Digest, keep: Keep) -> Result<Arrived, Problem> {
        let (folder, store) = (self.clone(), store.to_owned());
        blocking(move || {
            folder.prove(&store)?;
            let file = folder.folder.join(blob_store::path(&digest));
            folder.blob(&file, size, digest, keep)
        })
        .await
    }

    /// Writes a blob, if this is the folder of `store`: beside its place, to the disk, and then to its place in one move, as the coordinator
    /// writes it.
    pub(super) async fn write(&self, store: &str, digest: Digest, bytes: Bytes) -> Result<(), Problem> {
        let (folder, store) = (self.clone(), store.to_owned());
        let files = blocking(move || {
            folder.prove(&store)?;
            LocalFileSystem::new_with_prefix(&folder.folder).map_err(|source| folder.failed(source))
        });
        let files = files.await?.with_fsync(true);
        let place = StorePath::from(blob_store::path(&digest));
        let written = files.put(&place, bytes.into()).await;
        written.map(drop).map_err(|source| self.failed(source))
    }

    /// Makes sure, once, that the folder is that of `store`.
    fn prove(&self, store: &str) -> Result<(), Problem> {
        let mut known = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() == Some(store) {
            return Ok(());
        }
        let other = |found: String| Problem::OtherStore {
            folder: self.folder.clone(),
            expected: store.to_owned(),
            found,
        };
        let file = match File::open(self.folder.join(IDENTITY)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(other(format!("it has no {IDENTITY}")));
            }
            Err(source) => return Err(self.failed(source)),
        };
        let mut mark = Vec::new();
        let read = file.take(MARK_BYTES_MAX).read_to_end(&mut mark);
        read.map_err(|source| self.failed(source))?;
        match serde_json::from_slice::<StoreMark>(&mark) {
            Ok(mark) if mark.ledger == store => {
                *known = Some(mark.ledger);
                Ok(())
            }
            Ok(mark) => Err(other(format!("it is that of {}", mark.ledger))),
            Err(_) => Err(other(format!("its {IDENTITY} cannot be read"))),
        }
    }

    fn blob(&self, file: &Path, expected: u64, digest: Digest, keep: Keep) -> Result<Arrived, Problem> {
        let mut file = File::open(file).map_err(|source| self.failed(source))?;
        let found = file.metadata().map_err(|source| self.failed(source))?.len();
        if found != expected {
            return Err(Problem::Size { expected, found });
        }
        let mut arriving = Arriving::new(keep, expected);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece).map_err(|source| self.failed(source))? {
                0 => return arriving.finish_as(digest, expected),
                length => arriving.add_within(&piece[..length], expected)?,
            }
        }
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Problem {
        Problem::Folder {
            folder: self.folder.clone(),
            source: source.into(),
        }
    }
}

/// Does this on a thread that may wait for a disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Problem::Location("the thread that was to go there has ended")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "5f0c9b0e-7a56-4f6c-9d0c-6d1d4d5a0001";

    fn folder_of(store: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mark = format!(r#"{{"ledger":"{store}","sole":true,"runs":{{}}}}"#);
        std::fs::write(folder.path().join(IDENTITY), mark).unwrap();
        folder
    }

    #[tokio::test]
    async fn a_blob_is_written_to_its_place_and_read_from_there_in_both_ways() {
        let folder = folder_of(STORE);
        let shared = SharedFolder::new(folder.path());
        let bytes: Bytes = (0..3 * PIECE_BYTES + 7).map(|index| (index >> 3) as u8).collect();
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        shared.write(STORE, digest, bytes.clone()).await.unwrap();
        let name = digest.to_string();
        let file = folder.path().join(&name[..2]).join(&name[2..]);
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
        assert_eq!(
            std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1,
            "nothing beside it"
        );

        let kept = shared.read(STORE, size, digest, Keep::All).await.unwrap();
        assert_eq!((kept.bytes, kept.size), (bytes, size));
        let counted = shared.read(STORE, size, digest, Keep::Nothing).await.unwrap();
        assert_eq!((counted.bytes.len(), counted.size, counted.found), (0, size, digest));
    }

    #[tokio::test]
    async fn what_is_not_the_blob_is_not_taken_for_it() {
        let folder = folder_of(STORE);
        let shared = SharedFolder::new(folder.path());
        let digest = Digest::of(b"right");
        let read = async |size| shared.read(STORE, size, digest, Keep::All).await.unwrap_err();
        assert!(matches!(read(5).await, Problem::Folder { .. }), "nothing there");
        let file = folder.path().join(blob_store::path(&digest));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "wrong").unwrap();
        assert!(matches!(read(5).await, Problem::Bytes { expected, .. } if expected == digest));
        assert!(matches!(read(4).await, Problem::Size { expected: 4, found: 5 }));
    }

    #[tokio::test]
    async fn the_folder_of_another_store_is_neither_read_nor_written() {
        let folder = folder_of("another");
        let unmarked = tempfile::tempdir().unwrap();
        let absent = unmarked.path().join("absent");
        for (path, why) in [
            (folder.path(), "it is that of another"),
            (unmarked.path(), "it has no identity.json"),
            (absent.as_path(), "it has no identity.json"),
        ] {
            let shared = SharedFolder::new(path);
            let refused = shared
                .write(STORE, Digest::of(b"abc"), Bytes::from_static(b"abc"))
                .await;
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(why) && refused.contains(STORE), "{refused}");
            let refused = shared.read(STORE, 3, Digest::of(b"abc"), Keep::All).await;
            assert!(matches!(refused, Err(Problem::OtherStore { .. })));
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing was written"
        );
        assert!(!absent.exists());
    }
}
