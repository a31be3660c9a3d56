//! What a ledger keeps of a run besides its rows, for the audit.

use gavel_coordinator::ledger::{CommitRecord, DetailsRecord, Ledger, LedgerError, SnapshotRecord};
use gavel_core::ids::{RunId, Step};

/// A snapshot of the run's state, and what its steps came to. All of it follows from the rows; who reads a run replays those.
#[derive(Debug, Clone, Default)]
pub struct Derived {
    /// The snapshot with which the next coordinator begins.
    pub snapshot: Option<SnapshotRecord>,
    /// Details of committed steps, in the order of the steps.
    pub details: Vec<DetailsRecord>,
    /// Commits of steps, in the order of the steps.
    pub commits: Vec<CommitRecord>,
    /// What is there and cannot be read, and why.
    pub unreadable: Vec<String>,
}

impl Derived {
    /// What `ledger` keeps of a run.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub(super) async fn read(ledger: &dyn Ledger, run: &RunId) -> Result<Self, LedgerError> {
        let mut derived = Self::default();
        match ledger.snapshot(run).await {
            Ok(snapshot) => derived.snapshot = snapshot,
            Err(error) if error.is_damage() => derived.unreadable.push(error.to_string()),
            Err(error) => return Err(error),
        }
        match ledger.details(run, Step(1), u64::MAX).await {
            Ok(details) => derived.details = details,
            Err(error) if error.is_damage() => derived.unreadable.push(error.to_string()),
            Err(error) => return Err(error),
        }
        match ledger.commits(run, Step(1), u64::MAX).await {
            Ok(commits) => derived.commits = commits,
            Err(error) if error.is_damage() => derived.unreadable.push(error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(derived)
    }
}
