//! What a worker implements.

use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::RunSpec;
use gavel_core::work::rally::Group;
use gavel_core::work::{Assignment, Fault, Outcome, Unit, Unusable};
use gavel_core::{Diagnostic, Hint, RunAssets};

use crate::context::WorkContext;

/// The work itself. All calls come from one thread that does nothing else, so that they may block and use every core.
pub trait Work: Send {
    /// Gets ready for a run's units: loads models, checks them against the spec. Called before the first unit and whenever
    /// the next unit belongs to another run.
    ///
    /// # Errors
    /// [`WorkError::Fatal`] when this run cannot work anywhere, [`WorkError::Retry`] when another worker might manage: an attempt
    /// of a sampler's or trainer's unit, while a judge's is given back.
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError>;

    /// Does one unit of the run that was prepared last. Looks at [`WorkContext::cancelled`] now and then.
    ///
    /// # Errors
    /// See [`WorkError`].
    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError>;

    /// Brings this worker's part to somebody else's unit, after [`WorkContext::join`]. Only trainers are ever called.
    ///
    /// # Errors
    /// Those end this worker's part, and the group learns of it; nothing is handed in either way.
    fn assist(&mut self, assignment: &Assignment, _group: &Group, _context: &WorkContext) -> Result<(), WorkError> {
        Err(WorkError::Retry(format!(
            "this worker brings nothing to another's work: {assignment:?}"
        )))
    }
}

/// Why a unit was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// Trying again cannot help: the run stops with this reason.
    #[error("{0}")]
    Fatal(String),
    /// Another attempt, perhaps on another worker, may work.
    #[error("{0}")]
    Retry(String),
    /// What the work needs outside of the fleet is not to be had. The unit is given back and none of its attempts is used up: it
    /// waits until somebody gets it. The reason is shown to everybody who may look at the run.
    #[error("{0}")]
    Unavailable(String),
    /// Inputs are gone or are not what the unit asks for: they are made again, then the unit is tried again.
    #[error("{reason}")]
    Unusable {
        /// Which.
        inputs: Vec<Unusable>,
        /// What is wrong with them.
        reason: String,
    },
    /// The lease was lost or the worker is being shut down.
    #[error("the unit was cancelled")]
    Cancelled,
}

impl WorkError {
    /// A [`WorkError::Fatal`] that says all that `error` knows.
    pub fn fatal(error: &(impl std::error::Error + Hint)) -> Self {
        Self::Fatal(Diagnostic::of(error).in_full())
    }

    /// A [`WorkError::Unusable`] for one input whose bytes are not what the unit asks for.
    pub fn misleading(blob: Digest, reason: impl std::fmt::Display) -> Self {
        Self::Unusable {
            inputs: vec![Unusable {
                blob,
                fault: Fault::Producer,
            }],
            reason: reason.to_string(),
        }
    }

    /// A [`WorkError::Unavailable`] that says all that `error` knows.
    pub fn unavailable(error: &(impl std::error::Error + Hint)) -> Self {
        Self::Unavailable(Diagnostic::of(error).in_full())
    }

    /// A [`WorkError::Retry`] that says all that `error` knows.
    pub fn retry(error: &(impl std::error::Error + Hint)) -> Self {
        Self::Retry(Diagnostic::of(error).in_full())
    }
}
