//! A run in its own folder: a SQLite ledger, and blobs as files.

use async_trait::async_trait;
use bytes::Bytes;
use gavel_coordinator::blobs::BlobError;
use gavel_coordinator::ledger::{Ledger as _, SqliteLedger};
use gavel_core::ids::Digest;
use gavel_core::run::Run;
use gavel_core::spec::RunSpec;

use super::{Derived, RunSource, stored};
use crate::{Error, History, RunFolder};

#[async_trait]
impl RunSource for RunFolder {
    fn spec(&self) -> &RunSpec {
        RunFolder::spec(self)
    }

    async fn history(&self) -> Result<History, Error> {
        let ledger = SqliteLedger::open(&self.ledger()).await?;
        let run = self.spec().id();
        let history = stored::read(&ledger, &run).await;
        ledger.close().await;
        history?.ok_or_else(|| Error::OtherRun {
            ledger: self.ledger(),
            run,
        })
    }

    async fn derived(&self) -> Result<Derived, Error> {
        let ledger = SqliteLedger::open(&self.ledger()).await?;
        let derived = Derived::read(&ledger, &self.spec().id()).await;
        ledger.close().await;
        Ok(derived?)
    }

    async fn run(&self) -> Result<Run, Error> {
        let ledger = SqliteLedger::open(&self.ledger()).await?;
        let run = gavel_coordinator::read_run(&ledger, &self.spec().id()).await?;
        ledger.close().await;
        Ok(run)
    }

    async fn blob(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        self.blobs().await?.peek(digest).await
    }

    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        self.blobs().await?.size(digest).await
    }

    fn folder(&self) -> Option<&RunFolder> {
        Some(self)
    }
}
