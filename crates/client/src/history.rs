//! What a coordinator's ledger holds of a run, row by row.

use gavel_core::ids::{Digest, Millis, RunId};
use gavel_proto::v1::history_response::Row;
use gavel_proto::v1::{HistoryResponse, LedgerEvent, LedgerRun};
use tonic::Streaming;

use crate::connection::Connection;
use crate::error::CallError;

/// A row of the ledger, with its checksum.
#[expect(missing_docs, reason = "the columns of the ledger's tables (docs/formats.md)")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerRow {
    /// The run as it was submitted; the first row. `spec` and `assets` are JSON.
    Run {
        run: RunId,
        spec: String,
        assets: String,
        spec_sha256: String,
        created: Millis,
        spec_chain: Digest,
        chain: Digest,
    },
    /// An accepted event, as JSON. The first has number 1.
    Event {
        sequence: u64,
        at: Millis,
        kind: String,
        event: String,
        chain: Digest,
    },
}

/// The rows of one run as they come.
#[derive(Debug)]
pub struct HistoryRows {
    pub(crate) stream: Streaming<HistoryResponse>,
    pub(crate) connection: Connection,
}

impl HistoryRows {
    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// The stream broke, or what came is no row.
    pub async fn next(&mut self) -> Result<Option<LedgerRow>, CallError> {
        let message = self.stream.message().await;
        let message = message.map_err(|status| self.connection.failed(&status))?;
        let Some(message) = message else { return Ok(None) };
        let row = match message.row {
            Some(Row::Run(run)) => self.run(run)?,
            Some(Row::Event(event)) => self.event(event)?,
            None => return Err(self.connection.unreadable("a row without contents")),
        };
        Ok(Some(row))
    }

    fn run(&self, run: LedgerRun) -> Result<LedgerRow, CallError> {
        Ok(LedgerRow::Run {
            run: RunId(run.run_id),
            spec: run.spec_json,
            assets: run.assets_json,
            spec_sha256: run.spec_sha256,
            created: Millis(run.created_unix_ms),
            spec_chain: self.checksum(run.spec_chain)?,
            chain: self.checksum(run.chain)?,
        })
    }

    fn event(&self, event: LedgerEvent) -> Result<LedgerRow, CallError> {
        Ok(LedgerRow::Event {
            sequence: event.sequence,
            at: Millis(event.at_unix_ms),
            kind: event.kind,
            event: event.event_json,
            chain: self.checksum(event.chain)?,
        })
    }

    fn checksum(&self, bytes: Vec<u8>) -> Result<Digest, CallError> {
        let bytes = bytes
            .try_into()
            .map_err(|_| self.connection.unreadable("a checksum has 32 bytes"))?;
        Ok(Digest(bytes))
    }
}
