//! What travels between the simulated workers, the operator and the coordinator.

use gavel_core::ids::{RunId, WorkerId};
use gavel_core::run::Event;
use gavel_core::work::{LeaseKey, Outcome, Role, Unusable};
use tonic::Code;

use crate::state::Grant;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A worker's index in the plan, and which of its lives.
    Worker {
        index: usize,
        life: u64,
    },
    Operator,
}

/// A call, as the gRPC services know it.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Register {
        role: Role,
        known_as: Option<WorkerId>,
    },
    Heartbeat {
        worker: WorkerId,
        held: Vec<LeaseKey>,
    },
    Lease {
        worker: WorkerId,
    },
    Complete {
        worker: WorkerId,
        key: LeaseKey,
        outcome: Outcome,
        /// The outcome is what the unit asks for.
        honest: bool,
    },
    Fail {
        worker: WorkerId,
        key: LeaseKey,
        reason: String,
        fatal: bool,
        unusable: Vec<Unusable>,
    },
    Release {
        worker: WorkerId,
        keys: Vec<LeaseKey>,
        reason: Option<String>,
    },
    Deregister {
        worker: WorkerId,
    },
    /// Index of the run in the plan.
    Submit(usize),
    /// What somebody does to a run: stop, hold, take steps back, let go on.
    Order(RunId, Event),
    Drain,
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) enum Response {
    Registered(WorkerId),
    Beaten {
        lost: Vec<LeaseKey>,
        drain: bool,
    },
    Leased(Box<Grant>),
    /// No work within the time that the coordinator holds a request.
    Nothing,
    Drain,
    Done,
    Failed(Code),
}

/// Whether the same call may succeed later, as workers see it.
pub(super) fn passes(code: Code) -> bool {
    !matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated
    )
}
