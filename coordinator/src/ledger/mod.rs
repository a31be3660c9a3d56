//! The ledger: what survives the coordinator. One row for each run, one for each event that was accepted.
//!
//! It stores text and knows nothing of what an event means, so that another database is one small implementation away
//! (`tests/ledger.rs` runs the same promises against each). `record` says what a row is, and how it is held to the one before.

mod derived;
mod leadership;
mod migrations;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
mod rows;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use gavel_core::hint::Hint;
use gavel_core::ids::{Digest, RunId, Step};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::address::{Address, LedgerPlace};

pub use derived::{CommitRecord, DetailsRecord, SnapshotRecord, StepRecords};
pub use leadership::{Candidacy, Leadership};
#[cfg(feature = "postgres")]
pub use postgres::PostgresLedger;
pub use record::{EventRecord, Position, Row, RunRecord};
pub(crate) use record::{NotReadable, Written, write};
pub use sqlite::SqliteLedger;

/// Opens the ledger at an address: `postgres://USER@HOST/DATABASE`, `sqlite:FILE`, or the plain path of a SQLite file.
///
/// # Errors
/// [`LedgerError::NotBuilt`] for PostgreSQL where Gavel was built without it, [`LedgerError::Url`] for anything else, and as the
/// ledger's own `open`.
pub async fn open(address: impl Into<Address>) -> Result<Arc<dyn Ledger>, LedgerError> {
    let address = address.into();
    Ok(match place(&address)? {
        LedgerPlace::Sqlite(file) => Arc::new(SqliteLedger::open(file).await?),
        #[cfg(feature = "postgres")]
        LedgerPlace::Postgres(url) => Arc::new(PostgresLedger::open(url).await?),
        #[cfg(not(feature = "postgres"))]
        LedgerPlace::Postgres(_) => {
            return Err(LedgerError::NotBuilt {
                location: address.to_string(),
            });
        }
    })
}

/// Where the ledger at an address is.
///
/// # Errors
/// [`LedgerError::Url`].
pub(crate) fn place(address: &Address) -> Result<LedgerPlace<'_>, LedgerError> {
    address.ledger().map_err(|source| LedgerError::Url {
        location: address.to_string(),
        source: source.into(),
    })
}

/// Durable storage for runs and their events.
///
/// When a method answers `Ok`, what it wrote survives the loss of power. Only one coordinator writes to a ledger at a time:
/// where several reach it, the one that leads ([`Ledger::lead`]); elsewhere a second one is detected by
/// [`LedgerError::Conflict`].
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Stores a new run.
    ///
    /// # Errors
    /// [`LedgerError::RunExists`] when the name is taken.
    async fn create_run(&self, record: &RunRecord) -> Result<(), LedgerError>;

    /// Stores events, all of them or none.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when one of the sequence numbers is taken.
    async fn append(&self, events: &[EventRecord]) -> Result<(), LedgerError>;

    /// The ledger's own name, which no other ledger has: given when it was made.
    ///
    /// # Errors
    /// The ledger does not answer.
    async fn identity(&self) -> Result<Uuid, LedgerError>;

    /// The names of all runs, in the order of submission.
    ///
    /// # Errors
    /// The ledger does not answer.
    async fn runs(&self) -> Result<Vec<RunId>, LedgerError>;

    /// A run's row; `None` when there is no such run.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when the row cannot be read. Whether it is as it was written, [`RunRecord::check`] says.
    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>, LedgerError>;

    /// The events of a run that follow number `after`, in order; `most` at most.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when one cannot be read. Whether it is as it was written, [`EventRecord::check`] says.
    async fn events_after(&self, run: &RunId, after: u64, most: u64) -> Result<Vec<EventRecord>, LedgerError>;

    /// Every event of a run, in order.
    ///
    /// # Errors
    /// As [`Ledger::events_after`].
    async fn events(&self, run: &RunId) -> Result<Vec<EventRecord>, LedgerError> {
        self.events_after(run, 0, u64::MAX).await
    }

    /// The checksum of a run's event, of its own row for number 0; `None` where there is no such row.
    ///
    /// # Errors
    /// The ledger does not answer.
    async fn chain(&self, run: &RunId, sequence: u64) -> Result<Option<Digest>, LedgerError>;

    /// The snapshot of a run that was kept last; `None` where there is none. Whether it is as it was written,
    /// [`SnapshotRecord::check`] says.
    ///
    /// A ledger that keeps none answers as this method does by itself.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when it cannot be read.
    async fn snapshot(&self, run: &RunId) -> Result<Option<SnapshotRecord>, LedgerError> {
        tracing::debug!(%run, "this ledger keeps no snapshots");
        Ok(None)
    }

    /// Keeps a snapshot in the place of the one before.
    ///
    /// # Errors
    /// The ledger does not answer or cannot be written.
    async fn keep_snapshot(&self, snapshot: &SnapshotRecord) -> Result<(), LedgerError> {
        tracing::debug!(run = %snapshot.run, "this ledger keeps no snapshots");
        Ok(())
    }

    /// The kept details of a run's steps from `first` on, in order; `most` at most. Whether they are as they were written,
    /// [`DetailsRecord::check`] says.
    ///
    /// A ledger that keeps none answers as this method does by itself.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when some cannot be read.
    async fn details(&self, run: &RunId, first: Step, most: u64) -> Result<Vec<DetailsRecord>, LedgerError> {
        tracing::debug!(%run, %first, most, "this ledger keeps no details");
        Ok(Vec::new())
    }

    /// The kept commits of a run's steps from `first` on, in order; `most` at most. Whether they are as they were written,
    /// [`CommitRecord::check`] says.
    ///
    /// A ledger that keeps none answers as this method does by itself.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when some cannot be read.
    async fn commits(&self, run: &RunId, first: Step, most: u64) -> Result<Vec<CommitRecord>, LedgerError> {
        tracing::debug!(%run, %first, most, "this ledger keeps no commits");
        Ok(Vec::new())
    }

    /// Keeps what some steps came to, all of it or nothing, in the place of what is kept of the same steps.
    ///
    /// # Errors
    /// The ledger does not answer or cannot be written.
    async fn keep_steps(&self, steps: &StepRecords) -> Result<(), LedgerError> {
        tracing::debug!(rows = steps.len(), "this ledger keeps nothing of steps");
        Ok(())
    }

    /// Verdicts, as JSON, that were kept under these keys, in order. They are no part of any run's state.
    ///
    /// A ledger that keeps none answers as this method does by itself.
    ///
    /// # Errors
    /// The ledger does not answer.
    async fn verdicts(&self, keys: &[Digest]) -> Result<Vec<Option<String>>, LedgerError> {
        Ok(vec![None; keys.len()])
    }

    /// Keeps verdicts. A key that has one already keeps it.
    ///
    /// # Errors
    /// The ledger does not answer or cannot be written.
    async fn keep_verdicts(&self, verdicts: &[(Digest, String)]) -> Result<(), LedgerError> {
        tracing::debug!(count = verdicts.len(), "this ledger keeps no verdicts");
        Ok(())
    }

    /// Kept verdicts, as JSON, with their keys as they are stored: some of those whose keys come after `after`, in order; none
    /// after the last.
    ///
    /// A ledger that keeps none answers as this method does by itself.
    ///
    /// # Errors
    /// The ledger does not answer.
    async fn verdicts_after(&self, after: &str) -> Result<Vec<(String, String)>, LedgerError> {
        tracing::debug!(after, "this ledger keeps no verdicts");
        Ok(Vec::new())
    }

    /// Answers when the ledger can be written to.
    async fn ready(&self) -> Result<(), LedgerError>;

    /// Tries to become the coordinator that writes here; `candidate` is its name for people. From then on the writes of every
    /// earlier leader are refused with [`LedgerError::Deposed`].
    ///
    /// A ledger that no other machine reaches has nobody to choose from, and answers as this method does by itself.
    ///
    /// # Errors
    /// The ledger does not answer.
    async fn lead(&self, candidate: &str) -> Result<Candidacy, LedgerError> {
        tracing::debug!(candidate, "leads undisputed");
        Ok(Candidacy::Leads(Leadership::undisputed()))
    }

    /// Once `shutdown` has begun, a write that another program holds up is given up after some seconds, with
    /// [`LedgerError::LockedAtEnd`].
    ///
    /// A ledger that no other program holds up does as this method does by itself.
    fn end_with(&self, _shutdown: CancellationToken) {}

    /// Writes what is buffered and closes files and connections.
    async fn close(&self);
}

/// Why the ledger did not do something.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be opened or created.
    #[error("{location}: cannot open the ledger")]
    Open {
        /// The file.
        location: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file was written by a newer Gavel, or is no ledger.
    #[error("{location}: the ledger's schema is not one that this version knows")]
    Schema {
        /// The file.
        location: String,
        /// What does not fit.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk is full.
    #[error("{location}: no space left for the ledger")]
    Full {
        /// The file.
        location: String,
    },
    /// The file or its folder may not be written.
    #[error("{location}: the ledger cannot be written")]
    ReadOnly {
        /// The file.
        location: String,
    },
    /// The name is taken.
    #[error("run `{run}` exists in the ledger already")]
    RunExists {
        /// The name.
        run: RunId,
    },
    /// The address is not one of a ledger.
    #[error("`{location}` is not the address of a ledger")]
    Url {
        /// What was given, without its password.
        location: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address is one of PostgreSQL, and this Gavel was built without the feature `postgres`.
    #[error("{location}: this gavel was built without PostgreSQL")]
    NotBuilt {
        /// What was given, without its password.
        location: String,
    },
    /// The database does not answer, or the connection to it broke.
    #[error("{location}: the ledger's database cannot be reached")]
    Unreachable {
        /// The database.
        location: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database does not let this user in, or does not exist.
    #[error("{location}: the database does not let the coordinator in")]
    Login {
        /// The database.
        location: String,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database lets this user in but not write.
    #[error("{location}: the database does not let the coordinator write")]
    Forbidden {
        /// The database.
        location: String,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another coordinator leads now, or the connection that held the leadership broke.
    #[error("{location}: this coordinator does not lead any more")]
    Deposed {
        /// The database.
        location: String,
    },
    /// Somebody else wrote this sequence number.
    #[error("event {sequence} of run `{run}` is in the ledger already: two coordinators write to it")]
    Conflict {
        /// The run.
        run: RunId,
        /// The number that was taken.
        sequence: u64,
    },
    /// A row cannot be read back as what it must be.
    #[error("run `{run}`, {row}: {problem}")]
    Corrupt {
        /// The run.
        run: RunId,
        /// The row, or a part of it.
        row: Row,
        /// What is wrong with it.
        problem: String,
    },
    /// The file itself is damaged, or is no database.
    #[error("{location}: the ledger's file is damaged")]
    Damaged {
        /// The file.
        location: String,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another program keeps the ledger's file to itself, and did not let go of it in time.
    #[error("{location}: another program has locked the ledger")]
    Locked {
        /// The file.
        location: String,
    },
    /// Another program keeps the ledger's file to itself, and the coordinator was told to end.
    #[error(
        "{location}: another program has locked the ledger, so the last events could not be written before the end"
    )]
    LockedAtEnd {
        /// The file.
        location: String,
    },
    /// Any other failure of the database.
    #[error("{location}: the ledger failed to {action}")]
    Database {
        /// The file.
        location: String,
        /// What was tried.
        action: &'static str,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl LedgerError {
    /// Whether what was written cannot be read, however often one tries.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Damaged { .. })
    }
}

impl Hint for LedgerError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Open { .. } | Self::ReadOnly { .. } => {
                "check that the folder exists and that this user may write to it, or name another one with --data"
            }
            Self::Schema { .. } => "use the Gavel version that wrote this ledger, or start with an empty one",
            Self::Full { .. } => {
                "free some space on the ledger's disk and start the coordinator again: it goes on where it stopped"
            }
            Self::Url { .. } => "write it as postgres://USER@HOST/DATABASE, or as the path of a SQLite file",
            Self::NotBuilt { .. } => {
                "build it with `cargo build --release --features postgres` (release images have it), or name the path of a SQLite file"
            }
            Self::Unreachable { .. } => {
                "check that PostgreSQL runs there and accepts connections (`psql` with the same address), and start the \
                 coordinator again: it goes on where it stopped"
            }
            Self::Login { .. } => {
                "check user, database and pg_hba.conf; the password comes from the address, PGPASSWORD or ~/.pgpass"
            }
            Self::Forbidden { .. } => {
                "name the primary server, not a read-only replica, and let this user create and write tables in its schema"
            }
            Self::Deposed { .. } => {
                "another coordinator has taken over, or will: workers go on there; start this one again as the next standby"
            }
            Self::RunExists { .. } => "choose another `run.name`, or resume this run",
            Self::Conflict { .. } => "stop the other coordinator that uses this ledger, then start this one again",
            Self::Corrupt { .. } => {
                "the ledger was changed from outside, or its disk fails: `gavel restore` writes a backup to a new place; \
                 the other runs of this ledger go on meanwhile"
            }
            Self::Damaged { .. } => {
                "the disk fails, or another program wrote to the file: keep a copy of it, check the disk, and bring a backup back with \
                 `gavel restore`, or what can still be read with `sqlite3 FILE .recover`"
            }
            Self::Locked { .. } => {
                "end the program that holds it (`fuser FILE` names it: a backup, an open `sqlite3`) and start the coordinator again: \
                 it goes on where it stopped"
            }
            Self::LockedAtEnd { .. } => {
                "end the program that holds it (`fuser FILE` names it) before the next start: the coordinator goes on where the \
                 ledger ends, and what nobody was told of is done again"
            }
            Self::Database { .. } => return None,
        };
        Some(text.to_owned())
    }
}
