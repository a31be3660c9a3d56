//! The ledger in one SQLite file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use gavel_core::ids::{Digest, RunId};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};

use super::rows::{event_record, run_record, signed};
use super::{EventRecord, Ledger, LedgerError, RunRecord, migrations};

/// SQLite's primary result codes (sqlite.org/rescode.html); extended codes keep them in the low byte.
const SQLITE_READONLY: u32 = 8;
const SQLITE_FULL: u32 = 13;

/// How many events one statement inserts, the most first, so that any number is a sum of few. Each statement is prepared once;
/// each execution is a message to the thread of the database and back, which costs more than the row itself.
static INSERTS: LazyLock<[(usize, String); 4]> = LazyLock::new(|| {
    [64, 16, 4, 1].map(|rows| {
        let values = vec!["(?, ?, ?, ?, ?)"; rows].join(", ");
        let statement = format!("INSERT INTO events (run_id, sequence, at_unix_ms, kind, event) VALUES {values}");
        (rows, statement)
    })
});

/// [`Ledger`] in a SQLite file with a write-ahead log.
#[derive(Debug, Clone)]
pub struct SqliteLedger {
    pool: SqlitePool,
    file: PathBuf,
}

impl SqliteLedger {
    /// Opens the ledger at `file`, creating it and its folder where they are missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`LedgerError::Open`] when the file cannot be created or is not SQLite's; [`LedgerError::Schema`] when a newer version
    /// wrote it.
    pub async fn open(file: &Path) -> Result<Self, LedgerError> {
        let location = file.display().to_string();
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).map_err(|source| LedgerError::Open {
                location: location.clone(),
                source: source.into(),
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A worker is told "accepted" only when the event is on disk. In WAL mode NORMAL may lose the last transactions
            // with the power, FULL may not; concurrent appends share one transaction, so the price is one fsync per batch.
            .synchronous(SqliteSynchronous::Full)
            // Readers (a report, `sqlite3` at a shell) may hold the file for a moment.
            .busy_timeout(Duration::from_secs(15));
        // Reads beside the one writer, as WAL allows.
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(options)
            .await
            .map_err(|source| LedgerError::Open {
                location: location.clone(),
                source: source.into(),
            })?;
        let migrated = migrations::SQLITE.run(&pool).await;
        migrated.map_err(|source| match source {
            sqlx::migrate::MigrateError::Execute(source) | sqlx::migrate::MigrateError::ExecuteMigration(source, _) => {
                failure(&location, "update its schema", source)
            }
            other => LedgerError::Schema {
                location,
                source: other.into(),
            },
        })?;
        Ok(Self {
            pool,
            file: file.to_owned(),
        })
    }

    /// Names the first of these events that is in the ledger already; SQLite says only that there is one.
    async fn conflict(
        &self,
        transaction: Transaction<'_, Sqlite>,
        events: &[EventRecord],
        taken: sqlx::Error,
    ) -> LedgerError {
        const ACTION: &str = "look for the event that is there already";
        if let Err(error) = transaction.rollback().await {
            return self.failure(ACTION, error);
        }
        for event in events {
            let there = sqlx::query("SELECT 1 FROM events WHERE run_id = ?1 AND sequence = ?2")
                .bind(&event.run.0)
                .bind(signed(event.sequence))
                .fetch_optional(&self.pool)
                .await;
            match there {
                Ok(None) => {}
                Ok(Some(_)) => {
                    return LedgerError::Conflict {
                        run: event.run.clone(),
                        sequence: event.sequence,
                    };
                }
                Err(error) => return self.failure(ACTION, error),
            }
        }
        // Two events of the batch itself bear the same number.
        self.failure(ACTION, taken)
    }

    fn failure(&self, action: &'static str, source: sqlx::Error) -> LedgerError {
        failure(&self.file.display().to_string(), action, source)
    }
}

fn failure(location: &str, action: &'static str, source: sqlx::Error) -> LedgerError {
    let location = location.to_owned();
    let code = source
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(SQLITE_FULL) => LedgerError::Full { location },
        Some(SQLITE_READONLY) => LedgerError::ReadOnly { location },
        _ => LedgerError::Database {
            location,
            action,
            source: source.into(),
        },
    }
}

fn is_taken(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn create_run(&self, record: &RunRecord) -> Result<(), LedgerError> {
        sqlx::query(
            "INSERT INTO runs (run_id, spec, assets, spec_sha256, created_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(&record.run.0)
        .bind(&record.spec)
        .bind(&record.assets)
        .bind(&record.spec_sha256)
        .bind(signed(record.created.0))
        .execute(&self.pool)
        .await
        .map_err(|error| match is_taken(&error) {
            true => LedgerError::RunExists {
                run: record.run.clone(),
            },
            false => self.failure("store a run", error),
        })?;
        Ok(())
    }

    async fn append(&self, events: &[EventRecord]) -> Result<(), LedgerError> {
        const ACTION: &str = "append events";
        let mut transaction = self.pool.begin().await.map_err(|error| self.failure(ACTION, error))?;
        let mut rest = events;
        for (rows, statement) in INSERTS.iter() {
            while let Some((part, after)) = rest.split_at_checked(*rows) {
                let mut query = sqlx::query(statement.as_str());
                for event in part {
                    query = query
                        .bind(&event.run.0)
                        .bind(signed(event.sequence))
                        .bind(signed(event.at.0))
                        .bind(&event.kind)
                        .bind(&event.event);
                }
                if let Err(error) = query.execute(&mut *transaction).await {
                    return Err(match is_taken(&error) {
                        true => self.conflict(transaction, part, error).await,
                        false => self.failure(ACTION, error),
                    });
                }
                rest = after;
            }
        }
        transaction.commit().await.map_err(|error| self.failure(ACTION, error))
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT run_id, spec, assets, spec_sha256, created_unix_ms FROM runs ORDER BY created_unix_ms, run_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failure("read runs", error))?;
        rows.iter()
            .map(run_record)
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.failure("read runs", error))
    }

    async fn events(&self, run: &RunId) -> Result<Vec<EventRecord>, LedgerError> {
        let rows =
            sqlx::query("SELECT sequence, at_unix_ms, kind, event FROM events WHERE run_id = ?1 ORDER BY sequence")
                .bind(&run.0)
                .fetch_all(&self.pool)
                .await
                .map_err(|error| self.failure("read events", error))?;
        rows.iter()
            .map(|row| event_record(run, row))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.failure("read events", error))
    }

    async fn verdicts(&self, keys: &[Digest]) -> Result<Vec<Option<String>>, LedgerError> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let verdict = sqlx::query_scalar("SELECT verdict FROM verdicts WHERE verdict_key = ?1")
                .bind(key.to_string())
                .fetch_optional(&self.pool)
                .await;
            found.push(verdict.map_err(|error| self.failure("recall verdicts", error))?);
        }
        Ok(found)
    }

    async fn keep_verdicts(&self, verdicts: &[(Digest, String)]) -> Result<(), LedgerError> {
        const ACTION: &str = "keep verdicts";
        let mut transaction = self.pool.begin().await.map_err(|error| self.failure(ACTION, error))?;
        for (key, verdict) in verdicts {
            sqlx::query("INSERT INTO verdicts (verdict_key, verdict) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
                .bind(key.to_string())
                .bind(verdict)
                .execute(&mut *transaction)
                .await
                .map_err(|error| self.failure(ACTION, error))?;
        }
        transaction.commit().await.map_err(|error| self.failure(ACTION, error))
    }

    async fn ready(&self) -> Result<(), LedgerError> {
        sqlx::query("SELECT 1")
            .execute(&self.pool)
            .await
            .map_err(|error| self.failure("answer", error))?;
        Ok(())
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
