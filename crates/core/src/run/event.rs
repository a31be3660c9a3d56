//! What can happen to a run, what follows from it, and why it may be refused.

use serde::{Deserialize, Serialize};

use crate::Hint;
use crate::ids::{Fence, Step, WorkerId};
use crate::work::{Outcome, OutcomeKind, Policy, Unit, Unusable};

/// A fact about a run. The ledger stores accepted events with their time; applying them again rebuilds the run.
#[expect(missing_docs, reason = "the fields are named after the types that document them")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Event {
    /// A worker got a unit; `fence` is [`super::Run::next_fence`].
    Granted { unit: Unit, worker: WorkerId, fence: Fence },
    /// A worker handed in a result.
    Completed {
        unit: Unit,
        worker: WorkerId,
        fence: Fence,
        outcome: Outcome,
    },
    /// A worker's attempt did not work. `fatal`: another attempt cannot help, and the run fails with the reason. `unusable`:
    /// these inputs must be made again first.
    Failed {
        unit: Unit,
        worker: WorkerId,
        fence: Fence,
        reason: String,
        fatal: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unusable: Vec<Unusable>,
    },
    /// A worker's result contradicts its unit: the run takes nothing more from it.
    Quarantined { worker: WorkerId, reason: String },
    /// A worker gave a unit back undone; `reason` says what it needs and could not get, if it was that.
    Released {
        unit: Unit,
        worker: WorkerId,
        fence: Fence,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// No heartbeat came in time; see [`super::Run::expired`].
    Expired { unit: Unit, fence: Fence },
    /// Nobody is asked to do a unit any more, and the run fails; see [`super::Run::hopeless`].
    GivenUp { unit: Unit, reason: String },
    /// Somebody stopped the run.
    Cancelled { reason: String },
    /// The run is held, by somebody or by a rule of its own: nothing more is leased, and what is leased goes on.
    Paused { reason: String },
    /// The run ends after so many steps: more than before, or fewer, but no fewer than are committed.
    StepsChanged { steps: u32 },
    /// The steps after `to` are taken back, and the run is paused there.
    RolledBack { to: Step },
    /// Somebody lets a paused, stopped or failed run go on. Accepted work is kept, failure counts start again, and so do the workers
    /// that were in quarantine.
    Resumed,
    /// A coordinator took the run over from the ledger, after a time in which none served it.
    Recovered { away_ms: u64 },
}

impl Event {
    /// Whether it may bring figures of a step or of a probe, which rules of the run look at.
    pub fn is_measured(&self) -> bool {
        match self {
            // A comparison that failed too often is judged as failed.
            Self::Completed { unit, .. } | Self::Failed { unit, .. } => {
                matches!(unit, Unit::Commit { .. } | Unit::EvaluateJudge { .. })
            }
            _ => false,
        }
    }
}

/// What has followed from an event; the driver acts on it once the event is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A step's policy is the run's policy now.
    StepCommitted(Step, Policy),
    /// The run finished, stopped or failed; [`super::Run::phase`] says which.
    Ended,
}

/// Why an event was not applied; nothing has changed.
#[expect(missing_docs, reason = "the fields are named after the types that document them")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The unit has been granted again since, to this or another worker.
    #[error("{unit}: fence {found} is stale, the latest is {latest}")]
    StaleFence { unit: Unit, found: Fence, latest: Fence },
    /// This very completion was accepted before; the caller may take it for a success.
    #[error("{unit}: the completion with fence {fence} was accepted before")]
    Repeated { unit: Unit, fence: Fence },
    /// Nobody holds a lease on the unit: it expired, was given back, or was never granted.
    #[error("{unit}: no lease is open, fence {found} holds nothing")]
    NotLeased { unit: Unit, found: Fence },
    /// A lease on the unit is held by another worker than the one that reports.
    #[error("{unit}: fence {fence} was granted to worker {holder}, not to {found}")]
    OtherWorker {
        unit: Unit,
        fence: Fence,
        holder: WorkerId,
        found: WorkerId,
    },
    /// The run takes nothing from this worker any more.
    #[error("worker {worker} is in quarantine: {reason}")]
    Quarantined { worker: WorkerId, reason: String },
    /// The unit cannot be granted: leased, done, or its inputs do not exist yet.
    #[error("{unit}: not ready to be leased")]
    NotReady { unit: Unit },
    /// A grant must carry the next fence.
    #[error("{unit}: a grant needs fence {expected}, not {found}")]
    FenceOutOfSequence { unit: Unit, expected: Fence, found: Fence },
    /// The result is of another kind than the unit asks for.
    #[error("{unit}: expected an outcome of kind `{expected}`, found `{found}`")]
    WrongOutcome {
        unit: Unit,
        expected: OutcomeKind,
        found: OutcomeKind,
    },
    /// The result contradicts the unit.
    #[error("{unit}: {problem}")]
    InvalidOutcome { unit: Unit, problem: String },
    /// The run has ended.
    #[error("the run has ended")]
    Ended,
    /// Only a run that stands still can be resumed.
    #[error("the run is neither paused nor stopped nor failed, there is nothing to resume")]
    NotStopped,
    /// The run is held.
    #[error("the run is paused")]
    Paused,
    /// A run cannot have fewer steps than it has committed.
    #[error("run.steps: {found} is less than the {committed} steps that are committed")]
    StepsCommitted { found: u32, committed: Step },
    /// A run with so many steps would not pass its checks.
    #[error("{problem}")]
    InvalidSteps { problem: String },
    /// There is nothing to take back.
    #[error("step {step}: the run has committed {committed} steps, there is none after it to take back")]
    NotCommitted { step: Step, committed: Step },
    /// The policies are gone with which the run would go on.
    #[error("step {step}: its policy is not kept any more, nothing can go on from there")]
    NotKept { step: Step },
    /// The event takes steps back, and the run has left some to its ledger: it has to be given those.
    #[error("the event takes steps back, and the run has not been given those that its ledger has")]
    NeedsPast,
}

impl Hint for Refusal {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::StaleFence { .. } | Self::NotLeased { .. } | Self::OtherWorker { .. } => {
                "drop this result and lease again; raise `fleet.lease` if workers are merely slow to send heartbeats"
            }
            Self::Ended => {
                "`gavel resume` lets a stopped or failed run go on, `gavel extend` gives a finished one more steps"
            }
            Self::Paused => "`gavel resume` lets it go on",
            Self::StepsCommitted { .. } => "`gavel rollback` takes steps back",
            Self::NotKept { .. } => {
                "name a checkpoint (every `checkpoints.every` steps) or one of the latest `coordinator.keep_steps` steps"
            }
            Self::Quarantined { .. } => {
                "look at what differs on that machine (version, model folder, hardware) and start the worker again"
            }
            Self::WrongOutcome { .. } | Self::InvalidOutcome { .. } => {
                "the worker and the coordinator disagree about the protocol; check that both have the same version"
            }
            Self::Repeated { .. }
            | Self::NotReady { .. }
            | Self::FenceOutOfSequence { .. }
            | Self::NotStopped
            | Self::InvalidSteps { .. }
            | Self::NeedsPast
            | Self::NotCommitted { .. } => {
                return None;
            }
        };
        Some(hint.into())
    }
}
