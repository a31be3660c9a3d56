//! Why the driver did not do something.

use std::sync::Arc;

use gavel_core::bounds::Exceeded;
use gavel_core::ids::{RunId, WorkerId};
use gavel_core::panics::Panicked;
use gavel_core::run::Refusal;
use gavel_core::work::Unit;

use crate::ledger::LedgerError;

/// Why the driver did not do something.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No run of this name.
    #[error("no run `{0}`")]
    UnknownRun(RunId),
    /// There is a run of this name, which could not be read when the coordinator started or has broken since.
    #[error("run `{run}` is set aside: {reason}")]
    SetAside {
        /// The run.
        run: RunId,
        /// Why it cannot be read, and what to do.
        reason: String,
    },
    /// The worker is not registered (any more).
    #[error("no worker `{0}` is registered")]
    UnknownWorker(WorkerId),
    /// Nobody of those who are meant is registered.
    #[error("no registered worker fits what is named; `gavel workers` lists them")]
    NoneMeant,
    /// The state machine refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A run takes nothing more from this worker.
    #[error("run `{run}` has put worker {worker} into quarantine: {reason}")]
    Quarantined {
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
        /// What it did.
        reason: String,
    },
    /// A run of this name exists with another spec.
    #[error("run `{run}` exists with another {}", keys.join(", "))]
    RunDiffers {
        /// The run.
        run: RunId,
        /// The keys whose values differ.
        keys: Vec<String>,
    },
    /// A run of this name exists with this spec and other contents of the files that it names.
    #[error("run `{run}` exists with other contents of {}", differences.join(", "))]
    FilesDiffer {
        /// The run.
        run: RunId,
        /// The keys that name the files, with these.
        differences: Vec<String>,
    },
    /// The coordinator's memory is bounded, and the runs that it has need it.
    #[error(
        "the run may need {needed} bytes of the coordinator's memory, its other runs {taken}, and it has {most} for all of them (give it more with --run-memory)"
    )]
    NoRoom {
        /// For this run.
        needed: u64,
        /// For those that are there.
        taken: u64,
        /// For all runs.
        most: u64,
    },
    /// As many runs as this coordinator takes at a time have not ended.
    #[error(
        "{open} runs have not ended, and this coordinator takes {most} at a time (cancel some, or give it more with --runs-max)"
    )]
    TooManyRuns {
        /// Those that have not ended.
        open: usize,
        /// The most that may be.
        most: usize,
    },
    /// More workers than a coordinator knows at a time.
    #[error(transparent)]
    TooManyWorkers(#[from] Exceeded),
    /// Gradient sums are exchanged for a commit only.
    #[error("no gradient sums are exchanged for {0}")]
    NothingToExchange(Unit),
    /// A worker that is called to one group cannot call another.
    #[error("worker {worker} is called to exchange gradient sums of run `{run}`")]
    CalledElsewhere {
        /// The worker.
        worker: WorkerId,
        /// The other run.
        run: RunId,
    },
    /// The group that the worker would join does not wait for it (any more).
    #[error("the exchange for {0} is over")]
    CallOver(Unit),
    /// The ledger does not take a new run.
    #[error("the run could not be written to the ledger")]
    Ledger(#[source] Arc<LedgerError>),
    /// The ledger does not give what it keeps of a run's earlier steps, or of a run that has ended.
    #[error("what the ledger keeps of the run could not be read")]
    NotRead(#[source] Arc<LedgerError>),
    /// The ledger would not give it back as it is.
    #[error("it cannot be written down so that it reads back the same: {0}")]
    NotReadable(String),
    /// A run could not be made or looked at.
    #[error("the coordinator has a defect, please report it: it {0}")]
    Panicked(#[from] Panicked),
    /// The coordinator is ending.
    #[error("the coordinator is shutting down")]
    ShuttingDown,
}
