//! The ledger in one SQLite file.

mod derived;
mod failure;
mod seal;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable as _};
use gavel_core::ids::{Digest, RunId, Step};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rows::{Columns as _, event_records, run_record, signed};
use super::{
    CommitRecord, DetailsRecord, EventRecord, Ledger, LedgerError, RunRecord, SnapshotRecord, StepRecords, migrations,
};
use failure::{cannot_open, failure, is_locked, is_taken};

/// How long a statement waits for a lock of another program, before it is tried again.
const BUSY: Duration = Duration::from_secs(5);
/// How often a write is tried while another program holds the lock: for about ten minutes. Callers wait meanwhile. A coordinator
/// that was told to end tries no more.
const ATTEMPTS: usize = 100;
/// Verdicts in one transaction, so that nobody who writes waits for long.
const VERDICTS_AT_ONCE: usize = 256;

/// How many events one statement inserts, the most first, so that any number is a sum of few. Each statement is prepared once;
/// each execution is a message to the thread of the database and back, which costs more than the row itself.
static INSERTS: LazyLock<[(usize, String); 4]> = LazyLock::new(|| {
    [64, 16, 4, 1].map(|rows| {
        let values = vec!["(?, ?, ?, ?, ?, ?)"; rows].join(", ");
        let statement =
            format!("INSERT INTO events (run_id, sequence, at_unix_ms, kind, event, chain) VALUES {values}");
        (rows, statement)
    })
});

/// [`Ledger`] in a SQLite file with a write-ahead log.
#[derive(Debug, Clone)]
pub struct SqliteLedger {
    /// The one connection that writes: whoever writes in this process waits for his turn, not for a lock.
    writer: SqlitePool,
    readers: SqlitePool,
    identity: Uuid,
    file: PathBuf,
    /// The end of the coordinator that writes here.
    ending: Arc<Mutex<CancellationToken>>,
}

impl SqliteLedger {
    /// Opens the ledger at `file`, creating it and its folder where they are missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`LedgerError::Open`] when the file cannot be created, [`LedgerError::Damaged`] when it is not SQLite's;
    /// [`LedgerError::Schema`] when a newer version wrote it.
    pub async fn open(file: &Path) -> Result<Self, LedgerError> {
        Self::open_with(file, BUSY).await
    }

    async fn open_with(file: &Path, busy: Duration) -> Result<Self, LedgerError> {
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
            .busy_timeout(busy);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY * ATTEMPTS as u32)
            .connect_with(options.clone())
            .await
            .map_err(|source| cannot_open(&location, source))?;
        let migrated = migrations::SQLITE.run(&writer).await;
        migrated.map_err(|source| match source {
            sqlx::migrate::MigrateError::Execute(source) | sqlx::migrate::MigrateError::ExecuteMigration(source, _) => {
                failure(&location, "update its schema", source)
            }
            other => LedgerError::Schema {
                location: location.clone(),
                source: other.into(),
            },
        })?;
        let identity = seal::identity(&writer).await;
        let identity = identity.map_err(|source| failure(&location, "tell its name", source))?;
        // Reads beside the one writer, as WAL allows.
        let readers = SqlitePoolOptions::new().max_connections(2).connect_lazy_with(options);
        Ok(Self {
            writer,
            readers,
            identity,
            file: file.to_owned(),
            ending: Arc::default(),
        })
    }

    /// Begins a transaction that may write. While another program holds the lock it is tried again.
    async fn begin(&self, action: &'static str) -> Result<Transaction<'static, Sqlite>, LedgerError> {
        // Taking the lock at once means that nothing has been done yet when somebody else has it.
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let begun = when_free(&self.file, &ending, || self.writer.begin_with("BEGIN IMMEDIATE")).await;
        begun.map_err(|error| match self.failure(action, error) {
            LedgerError::Locked { location } if ending.is_cancelled() => LedgerError::LockedAtEnd { location },
            failure => failure,
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
            match self.chain(&event.run, event.sequence).await {
                Ok(None) => {}
                Ok(Some(_)) => {
                    return LedgerError::Conflict {
                        run: event.run.clone(),
                        sequence: event.sequence,
                    };
                }
                Err(error) => return error,
            }
        }
        // Two events of the batch itself bear the same number.
        self.failure(ACTION, taken)
    }

    fn failure(&self, action: &'static str, source: sqlx::Error) -> LedgerError {
        failure(&self.file.display().to_string(), action, source)
    }
}

/// Tries until no other program holds the lock, within bounds: no longer than the attempt under way, or the next one, once the
/// end has come.
async fn when_free<T, F>(file: &Path, ending: &CancellationToken, attempt: impl FnMut() -> F) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(10))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(ATTEMPTS);
    let goes_on = |error: &sqlx::Error| is_locked(error) && !ending.is_cancelled();
    let patient = attempt.retry(pauses).when(goes_on).notify(|_, _| {
        tracing::warn!(ledger = %file.display(), "another program has locked the ledger; waits for it");
    });
    patient.await
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn create_run(&self, record: &RunRecord) -> Result<(), LedgerError> {
        const ACTION: &str = "store a run";
        let mut transaction = self.begin(ACTION).await?;
        sqlx::query(
            "INSERT INTO runs (run_id, spec, assets, spec_sha256, created_unix_ms, spec_chain, chain)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(&record.run.0)
        .bind(&record.spec)
        .bind(&record.assets)
        .bind(&record.spec_sha256)
        .bind(signed(record.created.0))
        .bind(record.spec_chain.0.as_slice())
        .bind(record.chain.0.as_slice())
        .execute(&mut *transaction)
        .await
        .map_err(|error| match is_taken(&error) {
            true => LedgerError::RunExists {
                run: record.run.clone(),
            },
            false => self.failure(ACTION, error),
        })?;
        transaction.commit().await.map_err(|error| self.failure(ACTION, error))
    }

    async fn append(&self, events: &[EventRecord]) -> Result<(), LedgerError> {
        const ACTION: &str = "append events";
        let mut transaction = self.begin(ACTION).await?;
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
                        .bind(&event.event)
                        .bind(event.chain.0.as_slice());
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

    async fn identity(&self) -> Result<Uuid, LedgerError> {
        Ok(self.identity)
    }

    async fn runs(&self) -> Result<Vec<RunId>, LedgerError> {
        // A name whose bytes have changed must not keep the others from being read.
        let rows = sqlx::query("SELECT CAST(run_id AS BLOB) AS run_id FROM runs ORDER BY created_unix_ms, runs.run_id")
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.failure("list runs", error))?;
        rows.iter()
            .map(|row| {
                let name = row.bytes("run_id")?;
                Ok(RunId(String::from_utf8_lossy(&name).into_owned()))
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.failure("list runs", error))
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>, LedgerError> {
        let row = sqlx::query(
            "SELECT spec, assets, spec_sha256, created_unix_ms, spec_chain, chain FROM runs WHERE run_id = ?1",
        )
        .bind(&run.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(|error| self.failure("read a run", error))?;
        row.map(|row| run_record(run, &row)).transpose()
    }

    async fn events_after(&self, run: &RunId, after: u64, most: u64) -> Result<Vec<EventRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT sequence, at_unix_ms, kind, event, chain FROM events WHERE run_id = ?1 AND sequence > ?2
             ORDER BY sequence LIMIT ?3",
        )
        .bind(&run.0)
        .bind(signed(after))
        .bind(signed(most))
        .fetch_all(&self.readers)
        .await
        .map_err(|error| self.failure("read events", error))?;
        event_records(run, after, &rows)
    }

    async fn chain(&self, run: &RunId, sequence: u64) -> Result<Option<Digest>, LedgerError> {
        const ACTION: &str = "read a checksum";
        let row = match sequence {
            0 => sqlx::query("SELECT chain FROM runs WHERE run_id = ?1").bind(&run.0),
            _ => sqlx::query("SELECT chain FROM events WHERE run_id = ?1 AND sequence = ?2")
                .bind(&run.0)
                .bind(signed(sequence)),
        };
        let row = row.fetch_optional(&self.readers).await;
        let row = row.map_err(|error| self.failure(ACTION, error))?;
        row.map(|row| row.digest("chain"))
            .transpose()
            .map_err(|error| self.failure(ACTION, error))
    }

    async fn snapshot(&self, run: &RunId) -> Result<Option<SnapshotRecord>, LedgerError> {
        self.read_snapshot(run).await
    }

    async fn keep_snapshot(&self, snapshot: &SnapshotRecord) -> Result<(), LedgerError> {
        self.write_snapshot(snapshot).await
    }

    async fn details(&self, run: &RunId, first: Step, most: u64) -> Result<Vec<DetailsRecord>, LedgerError> {
        self.read_details(run, first, most).await
    }

    async fn commits(&self, run: &RunId, first: Step, most: u64) -> Result<Vec<CommitRecord>, LedgerError> {
        self.read_commits(run, first, most).await
    }

    async fn keep_steps(&self, steps: &StepRecords) -> Result<(), LedgerError> {
        self.write_steps(steps).await
    }

    async fn verdicts(&self, keys: &[Digest]) -> Result<Vec<Option<String>>, LedgerError> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let verdict = sqlx::query_scalar("SELECT verdict FROM verdicts WHERE verdict_key = ?1")
                .bind(key.to_string())
                .fetch_optional(&self.readers)
                .await;
            found.push(verdict.map_err(|error| self.failure("recall verdicts", error))?);
        }
        Ok(found)
    }

    async fn keep_verdicts(&self, verdicts: &[(Digest, String)]) -> Result<(), LedgerError> {
        const ACTION: &str = "keep verdicts";
        for some in verdicts.chunks(VERDICTS_AT_ONCE) {
            let mut transaction = self.begin(ACTION).await?;
            for (key, verdict) in some {
                sqlx::query("INSERT INTO verdicts (verdict_key, verdict) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
                    .bind(key.to_string())
                    .bind(verdict)
                    .execute(&mut *transaction)
                    .await
                    .map_err(|error| self.failure(ACTION, error))?;
            }
            transaction
                .commit()
                .await
                .map_err(|error| self.failure(ACTION, error))?;
        }
        Ok(())
    }

    async fn verdicts_after(&self, after: &str) -> Result<Vec<(String, String)>, LedgerError> {
        sqlx::query_as(
            "SELECT verdict_key, verdict FROM verdicts WHERE verdict_key > ?1 ORDER BY verdict_key LIMIT 1000",
        )
        .bind(after)
        .fetch_all(&self.readers)
        .await
        .map_err(|error| self.failure("list verdicts", error))
    }

    async fn ready(&self) -> Result<(), LedgerError> {
        sqlx::query("SELECT 1")
            .execute(&self.readers)
            .await
            .map_err(|error| self.failure("answer", error))?;
        Ok(())
    }

    fn end_with(&self, shutdown: CancellationToken) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = shutdown;
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::hint::Hint as _;

    use super::*;

    async fn ledger(folder: &Path) -> SqliteLedger {
        SqliteLedger::open(&folder.join("ledger.sqlite")).await.unwrap()
    }

    // 3.51.3 mends a defect in resetting the write-ahead log when several connections use it.
    #[tokio::test]
    async fn sqlite_is_one_that_resets_its_log_rightly() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger(folder.path()).await;
        let version: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&ledger.readers)
            .await
            .unwrap();
        let version: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(version >= vec![3, 51, 3], "{version:?}");
    }

    /// A ledger, and what another program does with its file.
    async fn shared() -> (tempfile::TempDir, SqliteLedger, SqliteLedger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger(folder.path()).await;
        // It is told at once that the file is locked.
        let other = SqliteLedger::open_with(&ledger.file, Duration::ZERO).await.unwrap();
        (folder, ledger, other)
    }

    #[tokio::test]
    async fn a_write_waits_for_another_program_that_holds_the_lock() {
        let (_folder, ledger, other) = shared().await;
        let mut holder = Some(ledger.begin("hold the lock").await.unwrap());
        let (never, mut attempts) = (CancellationToken::new(), 0);
        let begun = when_free(&ledger.file, &never, || {
            attempts += 1;
            // It is let go of at the fourth attempt.
            let held = if attempts == 4 { holder.take() } else { None };
            let other = other.writer.clone();
            async move {
                drop(held);
                other.begin_with("BEGIN IMMEDIATE").await
            }
        });
        begun.await.unwrap();
        assert!(attempts >= 4);
    }

    // A coordinator that was told to end waited for up to ten minutes.
    #[tokio::test]
    async fn a_write_is_given_up_at_the_end_while_another_program_holds_the_lock() {
        let (_folder, ledger, other) = shared().await;
        let holder = ledger.begin("hold the lock").await.unwrap();
        let (ending, mut attempts) = (CancellationToken::new(), 0);
        let begun = when_free(&other.file, &ending, || {
            attempts += 1;
            if attempts == 3 {
                ending.cancel();
            }
            other.writer.begin_with("BEGIN IMMEDIATE")
        });
        assert!(is_locked(&begun.await.unwrap_err()));
        assert_eq!(attempts, 3);

        other.end_with(ending);
        let verdict = [(Digest([7; 32]), "{}".to_owned())];
        let error = other.keep_verdicts(&verdict).await.unwrap_err();
        assert!(matches!(error, LedgerError::LockedAtEnd { .. }), "{error}");
        assert!(error.hint().unwrap().contains("done again"));
        holder.rollback().await.unwrap();
        other.keep_verdicts(&verdict).await.unwrap();
    }
}
