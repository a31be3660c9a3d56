//! The ledger in a PostgreSQL database, which several coordinators may reach.

mod derived;
mod failure;
mod seal;

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use gavel_core::ids::{Digest, RunId, Step};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Row as _};
use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::leadership::{Candidacy, Leadership};
use super::rows::{Columns as _, event_records, run_record, signed};
use super::{
    CommitRecord, DetailsRecord, EventRecord, Ledger, LedgerError, RunRecord, SnapshotRecord, StepRecords, migrations,
};
use failure::{failure, is_taken};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How often the leader says that it lives, and how long an answer may take.
const KEEP_EVERY: Duration = Duration::from_secs(1);
const KEEP_WITHIN: Duration = Duration::from_secs(5);
/// The first half of the advisory lock's key, so that other programs in this database do not meet it: "gavl" in ASCII.
const LOCK_CLASS: i32 = 0x6761_766c;
/// The server ends the leader's session after so much silence, and with it the lock: a leader whose process is frozen or
/// whose machine has vanished keeps nobody waiting for longer. A living leader gives up itself earlier
/// (`KEEP_EVERY` + `KEEP_WITHIN`).
const FALLS_SILENT: &str = "SET idle_session_timeout = '15s'";

/// Writes go through while the term is the writer's; a writer that never led (term 0) is held by the keys alone. The row
/// lock makes a new leader wait for writes under way, so that it reads all that was ever accepted.
const FENCE: &str = "WITH fence AS (SELECT term FROM leadership WHERE $1 = 0 OR term = $1 FOR SHARE)";

/// [`Ledger`] in a PostgreSQL database, version 14 or later.
///
/// Leadership is a session-level advisory lock on a connection of its own, and a term: each new leader raises it, and a write
/// under an older term changes nothing.
#[derive(Debug, Clone)]
pub struct PostgresLedger {
    pool: PgPool,
    options: PgConnectOptions,
    /// The address without its password.
    location: Arc<str>,
    identity: Uuid,
    /// The term of this process's leadership; 0 when it never led.
    term: Arc<AtomicI64>,
    /// The connection that waits for the lock.
    candidate: Arc<Mutex<Option<PgConnection>>>,
}

impl PostgresLedger {
    /// Connects to the database at `url` and brings its schema up to date. What the address leaves out comes from libpq's
    /// environment variables and from `~/.pgpass`.
    ///
    /// # Errors
    /// [`LedgerError::Url`], [`LedgerError::Unreachable`], [`LedgerError::Login`], [`LedgerError::Forbidden`];
    /// [`LedgerError::Schema`] when a newer version wrote it.
    pub async fn open(url: &str) -> Result<Self, LedgerError> {
        let options = PgConnectOptions::from_str(url).map_err(|source| LedgerError::Url {
            location: "postgres://...".to_owned(),
            source: source.into(),
        })?;
        let options = options
            .application_name("gavel coordinator")
            // A worker is told "accepted" only when the event is on disk, whatever the server's default is.
            .options([("synchronous_commit", "on")]);
        let location = location(&options);
        // The pool would repeat a refused connection and then only say that time ran out.
        let mut connection = connect(&options, &location).await?;
        let migrated = migrations::POSTGRES.run(&mut connection).await;
        migrated.map_err(|source| match source {
            sqlx::migrate::MigrateError::Execute(source) | sqlx::migrate::MigrateError::ExecuteMigration(source, _) => {
                failure(&location, "update its schema", source)
            }
            other => LedgerError::Schema {
                location: location.clone(),
                source: other.into(),
            },
        })?;
        let identity = seal::identity(&mut connection).await;
        let identity = identity.map_err(|source| failure(&location, "tell its name", source))?;
        // Nothing is lost with a connection that does not say goodbye.
        let _ = connection.close().await;
        let pool = PgPoolOptions::new()
            // One writes; the others serve probes and readers.
            .max_connections(4)
            .acquire_timeout(CONNECT_WITHIN)
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            options,
            location: location.into(),
            identity,
            term: Arc::default(),
            candidate: Arc::default(),
        })
    }

    fn failure(&self, action: &'static str, source: sqlx::Error) -> LedgerError {
        failure(&self.location, action, source)
    }

    fn term(&self) -> i64 {
        self.term.load(Ordering::Acquire)
    }

    fn deposed(&self) -> LedgerError {
        LedgerError::Deposed {
            location: self.location.to_string(),
        }
    }

    /// Which of these events is in the ledger already.
    async fn conflict(&self, events: &[EventRecord]) -> Result<LedgerError, LedgerError> {
        let (runs, sequences) = keys(events);
        let taken = sqlx::query(
            "SELECT run_id, sequence FROM events JOIN UNNEST($1::TEXT[], $2::BIGINT[]) AS wanted (run_id, sequence)
             USING (run_id, sequence) ORDER BY run_id, sequence LIMIT 1",
        )
        .bind(&runs)
        .bind(&sequences)
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failure("append events", error))?;
        let taken = taken.map(|row| (row.get::<String, _>("run_id"), row.get::<i64, _>("sequence")));
        let is_taken = |event: &&EventRecord| {
            taken
                .as_ref()
                .is_some_and(|(run, sequence)| event.run.0 == *run && signed(event.sequence) == *sequence)
        };
        // None is taken only when the batch names one twice: then any of its events says where.
        let event = events.iter().find(is_taken).or(events.first());
        Ok(match event {
            Some(event) => LedgerError::Conflict {
                run: event.run.clone(),
                sequence: event.sequence,
            },
            None => self.deposed(),
        })
    }

    async fn try_lead(
        &self,
        connection: &mut PgConnection,
        candidate: &str,
    ) -> Result<Result<i64, String>, sqlx::Error> {
        // The schema is part of the key: two ledgers in one database have a leader each.
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext(current_schema()))")
            .bind(LOCK_CLASS)
            .fetch_one(&mut *connection)
            .await?;
        if !locked {
            let leader = sqlx::query_scalar("SELECT leader FROM leadership");
            return Ok(Err(leader.fetch_one(connection).await?));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let led = "UPDATE leadership SET term = term + 1, leader = $1, since_unix_ms = $2 RETURNING term";
        let term = sqlx::query_scalar(led)
            .bind(candidate)
            .bind(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
        Ok(Ok(term.fetch_one(connection).await?))
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn create_run(&self, record: &RunRecord) -> Result<(), LedgerError> {
        let insert = format!(
            "{FENCE} INSERT INTO runs (run_id, spec, assets, spec_sha256, created_unix_ms, spec_chain, chain)
             SELECT $2, $3, $4, $5, $6, $7, $8 FROM fence"
        );
        let stored = sqlx::query(sqlx::AssertSqlSafe(insert))
            .bind(self.term())
            .bind(&record.run.0)
            .bind(&record.spec)
            .bind(&record.assets)
            .bind(&record.spec_sha256)
            .bind(signed(record.created.0))
            .bind(record.spec_chain.0.as_slice())
            .bind(record.chain.0.as_slice())
            .execute(&self.pool)
            .await
            .map_err(|error| match is_taken(&error) {
                true => LedgerError::RunExists {
                    run: record.run.clone(),
                },
                false => self.failure("store a run", error),
            })?;
        match stored.rows_affected() {
            0 => Err(self.deposed()),
            _ => Ok(()),
        }
    }

    async fn append(&self, events: &[EventRecord]) -> Result<(), LedgerError> {
        if events.is_empty() {
            return Ok(());
        }
        let (runs, sequences) = keys(events);
        let times: Vec<i64> = events.iter().map(|event| signed(event.at.0)).collect();
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        let texts: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
        let chains: Vec<&[u8]> = events.iter().map(|event| event.chain.0.as_slice()).collect();
        let insert = format!(
            "{FENCE} INSERT INTO events (run_id, sequence, at_unix_ms, kind, event, chain)
             SELECT event.* FROM UNNEST($2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::TEXT[], $6::TEXT[], $7::BYTEA[]) AS event,
             fence"
        );
        // One statement is one transaction: all of them or none.
        let stored = sqlx::query(sqlx::AssertSqlSafe(insert))
            .bind(self.term())
            .bind(&runs)
            .bind(&sequences)
            .bind(&times)
            .bind(&kinds)
            .bind(&texts)
            .bind(&chains)
            .execute(&self.pool)
            .await;
        match stored {
            Ok(stored) if stored.rows_affected() == 0 => Err(self.deposed()),
            Ok(_) => Ok(()),
            Err(error) if is_taken(&error) => Err(self.conflict(events).await?),
            Err(error) => Err(self.failure("append events", error)),
        }
    }

    async fn identity(&self) -> Result<Uuid, LedgerError> {
        Ok(self.identity)
    }

    async fn runs(&self) -> Result<Vec<RunId>, LedgerError> {
        let names = sqlx::query_scalar("SELECT run_id FROM runs ORDER BY created_unix_ms, run_id")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failure("list runs", error))?;
        Ok(names.into_iter().map(RunId).collect())
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>, LedgerError> {
        let row = sqlx::query(
            "SELECT spec, assets, spec_sha256, created_unix_ms, spec_chain, chain FROM runs WHERE run_id = $1",
        )
        .bind(&run.0)
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failure("read a run", error))?;
        row.map(|row| run_record(run, &row)).transpose()
    }

    async fn events_after(&self, run: &RunId, after: u64, most: u64) -> Result<Vec<EventRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT sequence, at_unix_ms, kind, event, chain FROM events WHERE run_id = $1 AND sequence > $2
             ORDER BY sequence LIMIT $3",
        )
        .bind(&run.0)
        .bind(signed(after))
        .bind(signed(most))
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failure("read events", error))?;
        event_records(run, after, &rows)
    }

    async fn chain(&self, run: &RunId, sequence: u64) -> Result<Option<Digest>, LedgerError> {
        const ACTION: &str = "read a checksum";
        let row = match sequence {
            0 => sqlx::query("SELECT chain FROM runs WHERE run_id = $1").bind(&run.0),
            _ => sqlx::query("SELECT chain FROM events WHERE run_id = $1 AND sequence = $2")
                .bind(&run.0)
                .bind(signed(sequence)),
        };
        let row = row.fetch_optional(&self.pool).await;
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
        let keys: Vec<String> = keys.iter().map(Digest::to_string).collect();
        let rows = sqlx::query("SELECT verdict_key, verdict FROM verdicts WHERE verdict_key = ANY($1)")
            .bind(&keys)
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failure("recall verdicts", error))?;
        let found: BTreeMap<String, String> = rows
            .iter()
            .map(|row| (row.get("verdict_key"), row.get("verdict")))
            .collect();
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    async fn keep_verdicts(&self, verdicts: &[(Digest, String)]) -> Result<(), LedgerError> {
        let (keys, texts): (Vec<String>, Vec<&str>) = verdicts
            .iter()
            .map(|(key, text)| (key.to_string(), text.as_str()))
            .unzip();
        // Not fenced by the leader's term: a verdict is as true under another leader.
        sqlx::query(
            "INSERT INTO verdicts (verdict_key, verdict) SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[]) ON CONFLICT DO NOTHING",
        )
        .bind(&keys)
        .bind(&texts)
        .execute(&self.pool)
        .await
        .map_err(|error| self.failure("keep verdicts", error))?;
        Ok(())
    }

    async fn verdicts_after(&self, after: &str) -> Result<Vec<(String, String)>, LedgerError> {
        sqlx::query_as(
            "SELECT verdict_key, verdict FROM verdicts WHERE verdict_key > $1 ORDER BY verdict_key LIMIT 1000",
        )
        .bind(after)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failure("list verdicts", error))
    }

    async fn ready(&self) -> Result<(), LedgerError> {
        sqlx::query("SELECT 1")
            .execute(&self.pool)
            .await
            .map_err(|error| self.failure("answer", error))?;
        Ok(())
    }

    async fn lead(&self, candidate: &str) -> Result<Candidacy, LedgerError> {
        let mut waiting = self.candidate.lock().await;
        let mut connection = match waiting.take() {
            Some(connection) => connection,
            None => {
                let mut connection = connect(&self.options, &self.location).await?;
                let set = sqlx::query(FALLS_SILENT).execute(&mut connection).await;
                set.map_err(|error| self.failure("bound a silent leader", error))?;
                connection
            }
        };
        let answer = tokio::time::timeout(CONNECT_WITHIN, self.try_lead(&mut connection, candidate)).await;
        match answer {
            Ok(Ok(Ok(term))) => {
                self.term.store(term, Ordering::Release);
                let location = Arc::clone(&self.location);
                let leadership = Leadership::kept(|resigned| keep(connection, location, resigned));
                Ok(Candidacy::Leads(leadership))
            }
            Ok(Ok(Err(leader))) => {
                *waiting = Some(connection);
                Ok(Candidacy::StandsBy { leader })
            }
            Ok(Err(error)) => Err(self.failure("elect a leader", error)),
            Err(_) => Err(self.failure("elect a leader", sqlx::Error::PoolTimedOut)),
        }
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// Holds the connection with the lock until it breaks, or until `resigned`.
async fn keep(mut connection: PgConnection, location: Arc<str>, resigned: CancellationToken) -> Option<LedgerError> {
    let mut ticks = tokio::time::interval(KEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = resigned.cancelled() => {
                // Closing ends the session and frees the lock; where it fails, the server notices that by itself.
                let _ = tokio::time::timeout(KEEP_WITHIN, connection.close()).await;
                return None;
            }
            _ = ticks.tick() => {}
        }
        let cause = match tokio::time::timeout(KEEP_WITHIN, connection.ping()).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", KEEP_WITHIN.as_secs()),
        };
        tracing::error!(%location, cause, "the connection that held the leadership broke");
        return Some(LedgerError::Deposed {
            location: location.to_string(),
        });
    }
}

async fn connect(options: &PgConnectOptions, location: &str) -> Result<PgConnection, LedgerError> {
    match tokio::time::timeout(CONNECT_WITHIN, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|error| failure(location, "accept a connection", error)),
        Err(_) => Err(LedgerError::Unreachable {
            location: location.to_owned(),
            source: format!("no connection within {} s", CONNECT_WITHIN.as_secs()).into(),
        }),
    }
}

fn keys(events: &[EventRecord]) -> (Vec<&str>, Vec<i64>) {
    events
        .iter()
        .map(|event| (event.run.0.as_str(), signed(event.sequence)))
        .unzip()
}

/// The address for people: without the password.
fn location(options: &PgConnectOptions) -> String {
    let user = options.get_username();
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    format!("postgres://{user}@{host}/{}", options.get_database().unwrap_or(user))
}
