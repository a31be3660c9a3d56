//! Between database rows and records, the same for every database.

use gavel_core::ids::{Digest, Millis, RunId, Step};
use sqlx::{ColumnIndex, Database, Decode, Type};

use super::{CommitRecord, DetailsRecord, EventRecord, LedgerError, Position, Row, RunRecord, SnapshotRecord};

/// A row whose columns can be read as what the ledger stores.
pub(super) trait Columns: sqlx::Row {
    fn text(&self, column: &'static str) -> Result<String, sqlx::Error>;
    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, sqlx::Error>;
    fn integer(&self, column: &'static str) -> Result<i64, sqlx::Error>;

    /// Times and sequence numbers.
    fn unsigned(&self, column: &'static str) -> Result<u64, sqlx::Error> {
        u64::try_from(self.integer(column)?).map_err(|error| unreadable(column, error))
    }

    fn digest(&self, column: &'static str) -> Result<Digest, sqlx::Error> {
        let bytes = self.bytes(column)?;
        let bytes = bytes
            .try_into()
            .map_err(|_| unreadable(column, "a checksum has 32 bytes"))?;
        Ok(Digest(bytes))
    }
}

impl<R> Columns for R
where
    R: sqlx::Row,
    &'static str: ColumnIndex<R>,
    String: for<'row> Decode<'row, R::Database> + Type<R::Database>,
    Vec<u8>: for<'row> Decode<'row, R::Database> + Type<R::Database>,
    i64: for<'row> Decode<'row, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    fn text(&self, column: &'static str) -> Result<String, sqlx::Error> {
        self.try_get(column)
    }

    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, sqlx::Error> {
        self.try_get(column)
    }

    fn integer(&self, column: &'static str) -> Result<i64, sqlx::Error> {
        self.try_get(column)
    }
}

fn unreadable(
    column: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: source.into(),
    }
}

/// Databases' integers are signed; what the ledger stores (times, sequence numbers) is far below 2^63.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A row of `runs`.
pub(super) fn run_record(run: &RunId, row: &impl Columns) -> Result<RunRecord, LedgerError> {
    let read = || -> Result<RunRecord, sqlx::Error> {
        Ok(RunRecord {
            spec_chain: row.digest("spec_chain")?,
            chain: row.digest("chain")?,
            ..unsealed_run(run, row)?
        })
    };
    read().map_err(|error| corrupt(run, Row::Run, error))
}

/// Rows of `events` that follow number `after`, in order.
pub(super) fn event_records<R: Columns>(run: &RunId, after: u64, rows: &[R]) -> Result<Vec<EventRecord>, LedgerError> {
    let record = |(index, row): (u64, &R)| {
        let read = || -> Result<EventRecord, sqlx::Error> {
            Ok(EventRecord {
                chain: row.digest("chain")?,
                ..unsealed_event(&Digest([0; 32]), run, row)?
            })
        };
        let sequence = || row.unsigned("sequence").unwrap_or(index);
        read().map_err(|error| corrupt(run, Row::Event(sequence()), error))
    };
    (after + 1..).zip(rows).map(record).collect()
}

/// A row of `snapshots`.
pub(super) fn snapshot_record(run: &RunId, row: &impl Columns) -> Result<SnapshotRecord, LedgerError> {
    let read = || -> Result<SnapshotRecord, sqlx::Error> {
        let version = row.unsigned("version")?;
        Ok(SnapshotRecord {
            run: run.clone(),
            position: Position {
                events: row.unsigned("sequence")?,
                chain: row.digest("chain")?,
            },
            at: Millis(row.unsigned("at_unix_ms")?),
            version: u32::try_from(version).map_err(|error| unreadable("version", error))?,
            state: row.text("state")?,
            checksum: row.digest("checksum")?,
        })
    };
    read().map_err(|error| corrupt(run, Row::Snapshot, error))
}

/// Rows of `details` of steps from `first` on, in order.
pub(super) fn details_records<R: Columns>(
    run: &RunId,
    first: Step,
    rows: &[R],
) -> Result<Vec<DetailsRecord>, LedgerError> {
    let record = |row: &R| -> Result<DetailsRecord, sqlx::Error> {
        Ok(DetailsRecord {
            run: run.clone(),
            step: step(row)?,
            result: row.text("result")?,
            checksum: row.digest("checksum")?,
        })
    };
    step_records(run, first, rows, Row::Details, record)
}

/// Rows of `commits` of steps from `first` on, in order.
pub(super) fn commit_records<R: Columns>(
    run: &RunId,
    first: Step,
    rows: &[R],
) -> Result<Vec<CommitRecord>, LedgerError> {
    let record = |row: &R| -> Result<CommitRecord, sqlx::Error> {
        Ok(CommitRecord {
            run: run.clone(),
            step: step(row)?,
            commit: row.text("result")?,
            checksum: row.digest("checksum")?,
        })
    };
    step_records(run, first, rows, Row::Commit, record)
}

fn step(row: &impl Columns) -> Result<Step, sqlx::Error> {
    let step = u32::try_from(row.unsigned("step")?);
    Ok(Step(step.map_err(|error| unreadable("step", error))?))
}

/// One row for each step; `name` is what a row of a step is called.
fn step_records<R: Columns, T>(
    run: &RunId,
    first: Step,
    rows: &[R],
    name: impl Fn(Step) -> Row,
    record: impl Fn(&R) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, LedgerError> {
    let named = |row: &R| record(row).map_err(|error| corrupt(run, name(step(row).unwrap_or(first)), error));
    rows.iter().map(named).collect()
}

/// A row of `runs` of before there were checksums, with those that it gets.
pub(super) fn unsealed_run(run: &RunId, row: &impl Columns) -> Result<RunRecord, sqlx::Error> {
    Ok(RunRecord::new(
        run.clone(),
        row.text("spec")?,
        row.text("assets")?,
        row.text("spec_sha256")?,
        Millis(row.unsigned("created_unix_ms")?),
    ))
}

/// A row of `events` of before there were checksums, with the one that it gets.
pub(super) fn unsealed_event(previous: &Digest, run: &RunId, row: &impl Columns) -> Result<EventRecord, sqlx::Error> {
    Ok(EventRecord::new(
        previous,
        run.clone(),
        row.unsigned("sequence")?,
        Millis(row.unsigned("at_unix_ms")?),
        row.text("kind")?,
        row.text("event")?,
    ))
}

fn corrupt(run: &RunId, row: Row, error: sqlx::Error) -> LedgerError {
    LedgerError::Corrupt {
        run: run.clone(),
        row,
        problem: error.to_string(),
    }
}
