//! What PostgreSQL's failures mean, sorted by what their reader can do about them.

use super::super::LedgerError;

pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

/// Sorts a failure by what its reader can do about it; the codes are PostgreSQL's SQLSTATE.
pub(super) fn failure(location: &str, action: &'static str, error: sqlx::Error) -> LedgerError {
    let location = location.to_owned();
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .map(String::from);
    let is_connection = match (&error, code.as_deref()) {
        // Connection exceptions, too many connections, the server stops or starts, an idle session was ended.
        (_, Some(code)) => code.starts_with("08") || matches!(code, "53300" | "57P01" | "57P02" | "57P03" | "57P05"),
        (other, None) => matches!(
            other,
            sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        ),
    };
    let source = error.into();
    match code.as_deref() {
        _ if is_connection => LedgerError::Unreachable { location, source },
        // Disk full.
        Some("53100") => LedgerError::Full { location },
        // Password or role refused; no such database.
        Some("28P01" | "28000" | "3D000") => LedgerError::Login { location, source },
        // No privilege; a read-only transaction, as on a replica.
        Some("42501" | "25006") => LedgerError::Forbidden { location, source },
        _ => LedgerError::Database {
            location,
            action,
            source,
        },
    }
}
