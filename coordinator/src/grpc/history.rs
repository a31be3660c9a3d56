//! A run's rows in the ledger, a few at a time: for those who look back at a run that is not on their machine.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use gavel_core::ids::RunId;
use gavel_proto::v1;
use gavel_proto::v1::history_response::Row;
use tonic::Status;

use super::status;
use crate::driver::DriverError;
use crate::ledger::{EventRecord, Ledger, LedgerError, RunRecord};

/// Events that are read at a time. Each may hold the verdicts of a whole unit.
const EVENTS_AT_ONCE: u64 = 8;

/// The rows of a run, those that come while they are sent included.
///
/// # Errors
/// NOT_FOUND where the ledger has no such run.
pub(super) async fn rows(
    ledger: Arc<dyn Ledger>,
    run: RunId,
) -> Result<BoxStream<'static, Result<v1::HistoryResponse, Status>>, Status> {
    let record = ledger.run(&run).await.map_err(|error| failed(&error))?;
    let record = record.ok_or_else(|| status::of_driver(&DriverError::UnknownRun(run)))?;
    let run = record.run.clone();
    let first = stream::once(async { Ok(of_run(record)) });
    let unread = Unread {
        ledger,
        run,
        after: 0,
        read: VecDeque::new(),
    };
    Ok(first.chain(stream::try_unfold(unread, Unread::next)).boxed())
}

/// The events that are not sent yet.
struct Unread {
    ledger: Arc<dyn Ledger>,
    run: RunId,
    /// The last that was read.
    after: u64,
    read: VecDeque<EventRecord>,
}

impl Unread {
    async fn next(mut self) -> Result<Option<(v1::HistoryResponse, Self)>, Status> {
        if self.read.is_empty() {
            let page = self.ledger.events_after(&self.run, self.after, EVENTS_AT_ONCE).await;
            self.read = page.map_err(|error| failed(&error))?.into();
            self.after = self.read.back().map_or(self.after, |event| event.sequence);
        }
        Ok(self.read.pop_front().map(|event| (of_event(event), self)))
    }
}

fn of_run(record: RunRecord) -> v1::HistoryResponse {
    v1::HistoryResponse {
        row: Some(Row::Run(v1::LedgerRun {
            run_id: record.run.0,
            spec_json: record.spec,
            assets_json: record.assets,
            spec_sha256: record.spec_sha256,
            created_unix_ms: record.created.0,
            spec_chain: record.spec_chain.0.to_vec(),
            chain: record.chain.0.to_vec(),
        })),
    }
}

fn of_event(event: EventRecord) -> v1::HistoryResponse {
    v1::HistoryResponse {
        row: Some(Row::Event(v1::LedgerEvent {
            sequence: event.sequence,
            at_unix_ms: event.at.0,
            kind: event.kind,
            event_json: event.event,
            chain: event.chain.0.to_vec(),
        })),
    }
}

fn failed(error: &LedgerError) -> Status {
    tracing::error!(%error, "a history could not be read");
    status::ledger_failed(error)
}
