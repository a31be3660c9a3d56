//! Between database rows and records, the same for every database.

use gavel_core::ids::{Millis, RunId};
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::{EventRecord, RunRecord};

/// Databases' integers are signed; what the ledger stores (times, sequence numbers) is far below 2^63.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A row of `runs`.
pub(super) fn run_record<'row, R>(row: &'row R) -> Result<RunRecord, sqlx::Error>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    String: Decode<'row, R::Database> + Type<R::Database>,
    i64: Decode<'row, R::Database> + Type<R::Database>,
{
    Ok(RunRecord {
        run: RunId(row.try_get("run_id")?),
        spec: row.try_get("spec")?,
        assets: row.try_get("assets")?,
        spec_sha256: row.try_get("spec_sha256")?,
        created: Millis(unsigned(row, "created_unix_ms")?),
    })
}

/// A row of `events`, without the run that the query named.
pub(super) fn event_record<'row, R>(run: &RunId, row: &'row R) -> Result<EventRecord, sqlx::Error>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    String: Decode<'row, R::Database> + Type<R::Database>,
    i64: Decode<'row, R::Database> + Type<R::Database>,
{
    Ok(EventRecord {
        run: run.clone(),
        sequence: unsigned(row, "sequence")?,
        at: Millis(unsigned(row, "at_unix_ms")?),
        kind: row.try_get("kind")?,
        event: row.try_get("event")?,
    })
}

fn unsigned<'row, R>(row: &'row R, column: &'static str) -> Result<u64, sqlx::Error>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'row, R::Database> + Type<R::Database>,
{
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|source| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: source.into(),
    })
}
