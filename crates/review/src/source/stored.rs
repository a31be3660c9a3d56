//! A run in a coordinator's own ledger and blob store, read without the coordinator.

use async_trait::async_trait;
use bytes::Bytes;
use gavel_coordinator::Address;
use gavel_coordinator::blobs::{BlobError, Blobs};
use gavel_coordinator::ledger::{self, Ledger, LedgerError};
use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::RunSpec;

use super::{Derived, RunSource};
use crate::{Error, History};

/// Blobs are read here, never stored.
const BLOB_BYTES_MAX: u64 = u64::MAX;

/// A run in the stores at two addresses, such as PostgreSQL and S3. What is read is what they had when it was opened.
pub struct StoredRun {
    blobs: Blobs,
    derived: Derived,
    history: History,
    spec: RunSpec,
}

impl StoredRun {
    /// Opens the stores, which must be there.
    ///
    /// # Errors
    /// There is no such ledger or store, or no such run in the ledger.
    pub async fn open(ledger: &Address, blobs: &Address, run: &RunId) -> Result<Self, Error> {
        for (address, is_there) in [(ledger, ledger.has_ledger()), (blobs, blobs.has_blobs())] {
            if !is_there {
                return Err(Error::NoStore {
                    location: address.to_string(),
                });
            }
        }
        let opened = ledger::open(ledger.clone()).await?;
        // First what follows from the events: a coordinator may be writing.
        let derived = Derived::read(opened.as_ref(), run).await?;
        let history = read(opened.as_ref(), run).await?;
        opened.close().await;
        let history = history.ok_or_else(|| Error::NoSuchRun {
            location: ledger.to_string(),
            run: run.clone(),
        })?;
        Ok(Self {
            derived,
            blobs: Blobs::open(blobs.clone(), BLOB_BYTES_MAX).await?,
            spec: history.present_spec()?,
            history,
        })
    }
}

/// Everything that a ledger holds of a run; `None` where it has no such run.
pub(super) async fn read(ledger: &dyn Ledger, run: &RunId) -> Result<Option<History>, LedgerError> {
    let Some(record) = ledger.run(run).await? else {
        return Ok(None);
    };
    let events = ledger.events(run).await?;
    Ok(Some(History { record, events }))
}

#[async_trait]
impl RunSource for StoredRun {
    fn spec(&self) -> &RunSpec {
        &self.spec
    }

    async fn history(&self) -> Result<History, Error> {
        Ok(self.history.clone())
    }

    async fn derived(&self) -> Result<Derived, Error> {
        Ok(self.derived.clone())
    }

    async fn blob(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        self.blobs.peek(digest).await
    }

    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        self.blobs.size(digest).await
    }
}
