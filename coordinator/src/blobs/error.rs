//! Why a blob was not stored or read.

use std::error::Error;
use std::io;

use gavel_core::hint::Hint;
use gavel_core::ids::Digest;

/// Why a blob was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is none of this name.
    #[error("{location}: no blob {digest}")]
    Missing {
        /// The store.
        location: String,
        /// The name.
        digest: Digest,
    },
    /// The stored bytes are not those that were stored.
    #[error("{location}: blob {digest} is corrupt, its bytes hash to {found}")]
    Corrupt {
        /// The store.
        location: String,
        /// The name.
        digest: Digest,
        /// The hash of what is there.
        found: Digest,
    },
    /// The bytes that arrived are not those that the sender named.
    #[error("blob {digest} arrived as bytes that hash to {found}")]
    Misnamed {
        /// The name that was announced.
        digest: Digest,
        /// The hash of what arrived.
        found: Digest,
    },
    /// More bytes than this store accepts in one blob.
    #[error("a blob is larger than {blob_bytes_max} bytes, the most that this coordinator accepts")]
    TooLarge {
        /// The bound.
        blob_bytes_max: u64,
    },
    /// All blobs together would take more than they may.
    #[error("the blobs of this coordinator take {taken} bytes, and may take {most}: there is no room for more")]
    OverQuota {
        /// What they take.
        taken: u64,
        /// What they may take.
        most: u64,
    },
    /// The address is not one of a blob store.
    #[error("`{location}` is not the address of a blob store")]
    Url {
        /// What was given.
        location: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The environment does not say how to reach the store.
    #[error("{location}: the blob store cannot be reached with these settings")]
    Settings {
        /// The store.
        location: String,
        /// What is wrong with them.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The address is one of a cloud store, and this Gavel was built without the feature `cloud`.
    #[error("{location}: this gavel was built without cloud stores")]
    NotBuilt {
        /// What was given.
        location: String,
    },
    /// The store makes no addresses that could be handed out.
    #[error("{location}: the blob store signs no addresses")]
    Unsigned {
        /// The store.
        location: String,
    },
    /// The cloud store knows no such bucket, or does not let this user in.
    #[error("{location}: the blob store does not let the coordinator in")]
    Denied {
        /// The store.
        location: String,
        /// What the store said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The disk, or this user's share of it, is full.
    #[error("{location}: no space left for blobs")]
    NoSpace {
        /// The store.
        location: String,
    },
    /// The folder may not be written.
    #[error("{location}: cannot write blobs")]
    Unwritable {
        /// The store.
        location: String,
        /// What the system said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Any other failure of the store.
    #[error("{location}: cannot {action} the blob store")]
    Store {
        /// The store.
        location: String,
        /// What was tried.
        action: &'static str,
        /// What the store said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl BlobError {
    /// What a caller from outside is told: nothing of where the blobs are, and no words of the store.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Missing { digest, .. } => format!("no blob {digest}"),
            Self::Corrupt { digest, found, .. } => format!("blob {digest} is corrupt, its bytes hash to {found}"),
            Self::Misnamed { .. } | Self::TooLarge { .. } | Self::OverQuota { .. } => self.to_string(),
            Self::NoSpace { .. } => "no space left for blobs".to_owned(),
            Self::Unwritable { .. } => "blobs cannot be written".to_owned(),
            Self::Store { action, .. } => format!("cannot {action} the blob store"),
            _ => "the blob store cannot be used".to_owned(),
        }
    }

    /// Sorts a store's failure by what its reader can do about it.
    pub(super) fn from_store(location: &str, action: &'static str, source: object_store::Error) -> Self {
        let location = location.to_owned();
        if matches!(
            source,
            // A blob that is not there has been sorted out before; what is missing here is the bucket.
            object_store::Error::NotFound { .. }
                | object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
        ) && io_kind(&source).is_none()
        {
            let source = source.into();
            return Self::Denied { location, source };
        }
        match io_kind(&source) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Self::NoSpace { location },
            Some(
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory,
            ) => Self::Unwritable {
                location,
                source: source.into(),
            },
            _ => Self::Store {
                location,
                action,
                source: source.into(),
            },
        }
    }
}

/// The first `io::Error` among an error's causes.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

impl Hint for BlobError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Missing { .. } => {
                "the blob store is not the one that this ledger was written with, or a file was deleted; a run that needs the blob makes it again"
            }
            Self::Corrupt { .. } => {
                "the file was changed or the disk is failing: it was moved to `corrupt/`, and a run that needs the blob makes it again"
            }
            Self::Misnamed { .. } => {
                "the bytes changed on their way, or the sender named them wrongly: send them again"
            }
            Self::Url { .. } => {
                "write it as a folder, file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
            }
            Self::Settings { .. } => {
                "correct the variables of the environment that name endpoint, region and credentials (AWS_*, GOOGLE_*, AZURE_*; docs/storage.md)"
            }
            Self::NotBuilt { .. } => {
                "build it with `cargo build --release --features cloud` (release images have it), or name a folder"
            }
            Self::Unsigned { .. } => {
                "leave out --direct-blobs: workers reach a folder by --blob-folder, and cloud stores (s3://, gs://, az://) sign addresses"
            }
            Self::Denied { .. } => {
                "check the bucket's name, and endpoint, region and credentials in the environment (AWS_*, GOOGLE_*, AZURE_*)"
            }
            Self::TooLarge { .. } => "raise the coordinator's largest blob size, or make the unit of work smaller",
            Self::OverQuota { .. } => {
                "raise --blobs-max, let runs keep less (checkpoints.every, coordinator.keep_steps), or wait for --trash; workers try again by themselves"
            }
            Self::NoSpace { .. } => "free some space on this disk; workers try again by themselves",
            Self::Unwritable { .. } => "check that this user may write to the folder, or name another one with --data",
            Self::Store { .. } => "check that the store is up and its address right; workers try again by themselves",
        };
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write")]
    struct Wrapper(#[source] io::Error);

    fn sorted(kind: io::ErrorKind) -> BlobError {
        let source = object_store::Error::Generic {
            store: "test",
            source: Box::new(Wrapper(kind.into())),
        };
        BlobError::from_store("blobs", "write to", source)
    }

    #[test]
    fn a_full_disk_and_a_forbidden_folder_are_told_apart_from_other_failures() {
        assert!(matches!(sorted(io::ErrorKind::StorageFull), BlobError::NoSpace { .. }));
        assert!(matches!(
            sorted(io::ErrorKind::PermissionDenied),
            BlobError::Unwritable { .. }
        ));
        assert!(matches!(sorted(io::ErrorKind::TimedOut), BlobError::Store { .. }));
    }
}
