//! Where a run is read from.

mod derived;
mod folder;
mod served;
mod stored;

use async_trait::async_trait;
use bytes::Bytes;
use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::Digest;
use gavel_core::run::Run;
use gavel_core::spec::RunSpec;

use crate::{Error, History, RunFolder};
pub use derived::Derived;
pub use served::ServedRun;
pub use stored::StoredRun;

/// A ledger and a blob store that hold a run: in a folder of its own ([`RunFolder`]), at addresses ([`StoredRun`]), or behind a
/// coordinator ([`ServedRun`]). Reading changes nothing: damaged bytes stay where they are.
#[async_trait]
pub trait RunSource: Send + Sync {
    /// The run's configuration, as whoever began the run wrote it down.
    fn spec(&self) -> &RunSpec;

    /// Everything that the ledger holds of the run.
    ///
    /// # Errors
    /// The ledger cannot be read, or does not hold the run.
    async fn history(&self) -> Result<History, Error>;

    /// What the ledger keeps of the run besides; nothing where the source shows rows alone.
    ///
    /// # Errors
    /// The ledger does not answer.
    async fn derived(&self) -> Result<Derived, Error> {
        Ok(Derived::default())
    }

    /// The run that the ledger's events lead to.
    ///
    /// # Errors
    /// As [`RunSource::history`]; and an event that does not apply.
    async fn run(&self) -> Result<Run, Error> {
        self.history().await?.replay(|_, _| {}, |_, _| {})
    }

    /// A blob's bytes, which have the hash of its name.
    ///
    /// # Errors
    /// [`BlobError::Missing`]; [`BlobError::Corrupt`] for bytes with another hash; others when the store does not answer.
    async fn blob(&self, digest: &Digest) -> Result<Bytes, BlobError>;

    /// A blob's size in bytes, without reading it; `None` when there is no such blob.
    ///
    /// # Errors
    /// The store does not answer.
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, BlobError>;

    /// The folder with the run's adapters, checkpoints and report, where the source has one.
    fn folder(&self) -> Option<&RunFolder> {
        None
    }
}
