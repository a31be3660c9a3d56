//! A run of a coordinator that serves, over its gRPC port.

use async_trait::async_trait;
use bytes::Bytes;
use gavel_client::{CallError, Code, Connection, LedgerRow};
use gavel_coordinator::blobs::BlobError;
use gavel_coordinator::ledger::{EventRecord, RunRecord};
use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::RunSpec;

use super::RunSource;
use crate::{Error, History};

/// A run as its coordinator tells of it. The runtime in which it was opened has to go on.
/// What is read is what the ledger had when the run was opened.
pub struct ServedRun {
    connection: Connection,
    history: History,
    spec: RunSpec,
}

impl ServedRun {
    /// Fetches the run's history.
    ///
    /// # Errors
    /// There is no such run, or nobody answers.
    pub async fn open(connection: Connection, run: &RunId) -> Result<Self, Error> {
        let history = fetch(&connection, run).await?;
        Ok(Self {
            spec: history.present_spec()?,
            connection,
            history,
        })
    }

    fn failed(&self, digest: &Digest, error: CallError) -> BlobError {
        let location = self.connection.addresses().to_owned();
        match error.code() {
            Code::NotFound => BlobError::Missing {
                location,
                digest: *digest,
            },
            _ => BlobError::Store {
                location,
                action: "read",
                source: error.into(),
            },
        }
    }
}

async fn fetch(connection: &Connection, run: &RunId) -> Result<History, Error> {
    let mut rows = connection.runs().history(run).await?;
    let mut record = None;
    let mut events = Vec::new();
    while let Some(row) = rows.next().await? {
        match row {
            LedgerRow::Run {
                run,
                spec,
                assets,
                spec_sha256,
                created,
                spec_chain,
                chain,
            } => {
                record = Some(RunRecord {
                    run,
                    spec,
                    assets,
                    spec_sha256,
                    created,
                    spec_chain,
                    chain,
                });
            }
            LedgerRow::Event {
                sequence,
                at,
                kind,
                event,
                chain,
            } => events.push(EventRecord {
                run: run.clone(),
                sequence,
                at,
                kind,
                event,
                chain,
            }),
        }
    }
    let record = record.ok_or_else(|| Error::NoSuchRun {
        location: connection.addresses().to_owned(),
        run: run.clone(),
    })?;
    Ok(History { record, events })
}

#[async_trait]
impl RunSource for ServedRun {
    fn spec(&self) -> &RunSpec {
        &self.spec
    }

    async fn history(&self) -> Result<History, Error> {
        Ok(self.history.clone())
    }

    async fn blob(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let blob = self.connection.blobs().get(*digest).await;
        blob.map_err(|error| self.failed(digest, error))
    }

    /// A coordinator tells whether it has a blob, and not how large it is: the blob is read.
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match self.blob(digest).await {
            Ok(bytes) => Ok(Some(bytes.len() as u64)),
            Err(BlobError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
