//! What SQLite's failures mean, sorted by what their reader can do about them.

use super::super::LedgerError;

// SQLite's primary result codes (sqlite.org/rescode.html); extended codes keep them in the low byte.
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_READONLY: u32 = 8;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_NOTADB: u32 = 26;

pub(super) fn failure(location: &str, action: &'static str, source: sqlx::Error) -> LedgerError {
    let location = location.to_owned();
    match code(&source) {
        Some(SQLITE_FULL) => LedgerError::Full { location },
        Some(SQLITE_READONLY) => LedgerError::ReadOnly { location },
        Some(SQLITE_BUSY | SQLITE_LOCKED) => LedgerError::Locked { location },
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => LedgerError::Damaged {
            location,
            source: source.into(),
        },
        _ => LedgerError::Database {
            location,
            action,
            source: source.into(),
        },
    }
}

/// As [`failure`], of a file that is being opened.
pub(super) fn cannot_open(location: &str, source: sqlx::Error) -> LedgerError {
    match failure(location, "open", source) {
        LedgerError::Database { location, source, .. } => LedgerError::Open { location, source },
        other => other,
    }
}

/// Whether another program holds the lock that the statement needs.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(SQLITE_BUSY | SQLITE_LOCKED))
}

pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

fn code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(code & 0xff)
}
