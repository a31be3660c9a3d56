//! News of a run, for code in the same process.

use gavel_core::ids::{RunId, Step};
use gavel_core::work::Policy;

/// News of a run. After a restart, what the ledger holds is told once more: whoever acts on a notice must do so idempotently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The run.
    pub run: RunId,
    /// What happened.
    pub kind: NoticeKind,
}

/// What happened to a run. It is in the ledger already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticeKind {
    /// A step's policy became the run's.
    StepCommitted(Step, Policy),
    /// This policy belongs into the run's checkpoints.
    Checkpoint(Step, Policy),
    /// The run finished, stopped or failed.
    Ended,
}
