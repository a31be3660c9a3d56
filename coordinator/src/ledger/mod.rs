//! The ledger: what survives the coordinator. One row for each run, one for each event that was accepted.
//!
//! It stores text and knows nothing of what an event means, so that another database is one small implementation away
//! (`tests/ledger.rs` runs the same promises against each).

mod sqlite;

use async_trait::async_trait;
use gavel_core::hint::Hint;
use gavel_core::ids::{Millis, RunId};

pub use sqlite::SqliteLedger;

/// A run as it was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// The run's name.
    pub run: RunId,
    /// `RunSpec` as JSON.
    pub spec: String,
    /// `RunAssets` as JSON.
    pub assets: String,
    /// `RunSpec::digest`, in hexadecimal.
    pub spec_sha256: String,
    /// When it was submitted.
    pub created: Millis,
}

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// The run that it belongs to.
    pub run: RunId,
    /// Its place among the run's events, from 1.
    pub sequence: u64,
    /// When it was accepted; the `now` that the state machine saw.
    pub at: Millis,
    /// Its kind in one word, for people who query the table.
    pub kind: String,
    /// `Event` as JSON.
    pub event: String,
}

/// Durable storage for runs and their events.
///
/// When a method answers `Ok`, what it wrote survives the loss of power. Only one coordinator writes to a ledger at a time;
/// a second one is detected by [`LedgerError::Conflict`].
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

    /// Every run, in the order of submission.
    async fn runs(&self) -> Result<Vec<RunRecord>, LedgerError>;

    /// Every event of a run, in order.
    async fn events(&self, run: &RunId) -> Result<Vec<EventRecord>, LedgerError>;

    /// Answers when the ledger can be written to.
    async fn ready(&self) -> Result<(), LedgerError>;

    /// Writes what is buffered and closes files.
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
    /// Somebody else wrote this sequence number.
    #[error("event {sequence} of run `{run}` is in the ledger already: two coordinators write to it")]
    Conflict {
        /// The run.
        run: RunId,
        /// The number that was taken.
        sequence: u64,
    },
    /// A row cannot be read back as what it must be.
    #[error("run `{run}`, event {sequence}: {problem}")]
    Corrupt {
        /// The run.
        run: RunId,
        /// The event's number; 0 is the run's own row.
        sequence: u64,
        /// What is wrong with it.
        problem: String,
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

impl Hint for LedgerError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Open { .. } | Self::ReadOnly { .. } => {
                "check that the folder exists and that this user may write to it, or name another one with --data"
            }
            Self::Schema { .. } => "use the Gavel version that wrote this ledger, or start in an empty folder",
            Self::Full { .. } => {
                "free some space on this disk and start the coordinator again: it goes on where it stopped"
            }
            Self::RunExists { .. } => "choose another `run.name`, or resume this run",
            Self::Conflict { .. } => "stop the other coordinator that uses this folder, then start this one again",
            Self::Corrupt { .. } => {
                "the file was changed from outside; restore it from a copy, or start in an empty folder"
            }
            Self::Database { .. } => return None,
        };
        Some(text.to_owned())
    }
}
