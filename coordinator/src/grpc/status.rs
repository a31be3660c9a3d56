//! What callers read when something is refused: each error's gRPC code, with its message and its hint.
//!
//! Worth another attempt are UNAVAILABLE, RESOURCE_EXHAUSTED and ABORTED; everything else is final for this request.

use gavel_core::bounds::cut;
use gavel_core::run::Refusal;
use gavel_core::{Diagnostic, Hint};
use tonic::{Code, Status};

use crate::blobs::BlobError;
use crate::driver::DriverError;
use crate::ledger::LedgerError;
use crate::transport::Busy;

/// A status travels in the metadata of an answer, which takes no long text: this is the one way in which the services make one.
fn refusal(code: Code, text: impl Into<String>) -> Status {
    Status::new(code, cut(text.into()))
}

fn in_full<E: std::error::Error + Hint>(code: Code, error: &E) -> Status {
    refusal(code, Diagnostic::of(error).in_full())
}

pub(crate) fn of_driver(error: &DriverError) -> Status {
    match error {
        DriverError::UnknownRun(_) | DriverError::UnknownWorker(_) => refusal(Code::NotFound, error.to_string()),
        // No run is missing, which is what people are told of NOT_FOUND.
        DriverError::NoneMeant => refusal(Code::FailedPrecondition, error.to_string()),
        DriverError::Refused(refused) => of_refusal(refused),
        // Not RESOURCE_EXHAUSTED: another attempt finds no more room.
        DriverError::NoRoom { .. } | DriverError::TooManyRuns { .. } => {
            refusal(Code::FailedPrecondition, error.to_string())
        }
        DriverError::TooManyWorkers(_) => refusal(Code::ResourceExhausted, error.to_string()),
        DriverError::NothingToExchange(_) => refusal(Code::InvalidArgument, error.to_string()),
        DriverError::CalledElsewhere { .. } | DriverError::CallOver(_) => {
            refusal(Code::FailedPrecondition, error.to_string())
        }
        DriverError::Quarantined { .. } => refusal(Code::PermissionDenied, error.to_string()),
        DriverError::RunDiffers { .. } | DriverError::FilesDiffer { .. } => refusal(
            Code::AlreadyExists,
            format!("{error} (choose another `run.name`, or resume the run as it is)"),
        ),
        DriverError::Ledger(source) | DriverError::NotRead(source) => ledger_failed(source),
        DriverError::SetAside { .. } => refusal(Code::DataLoss, error.to_string()),
        DriverError::NotReadable(_) => refusal(Code::InvalidArgument, error.to_string()),
        DriverError::Panicked(_) => refusal(Code::Internal, error.to_string()),
        DriverError::ShuttingDown => refusal(Code::Unavailable, error.to_string()),
    }
}

/// The ledger did not give or take a run.
pub(super) fn ledger_failed(error: &LedgerError) -> Status {
    let code = match error {
        LedgerError::Full { .. } => Code::ResourceExhausted,
        LedgerError::RunExists { .. } => Code::AlreadyExists,
        LedgerError::Unreachable { .. }
        | LedgerError::Deposed { .. }
        | LedgerError::Locked { .. }
        | LedgerError::LockedAtEnd { .. } => Code::Unavailable,
        LedgerError::Corrupt { .. } | LedgerError::Damaged { .. } => Code::DataLoss,
        _ => Code::Internal,
    };
    in_full(code, error)
}

fn of_refusal(refused: &Refusal) -> Status {
    let code = match refused {
        Refusal::StaleFence { .. }
        | Refusal::NotLeased { .. }
        | Refusal::OtherWorker { .. }
        | Refusal::NotReady { .. }
        | Refusal::FenceOutOfSequence { .. }
        | Refusal::Ended
        | Refusal::NotStopped
        | Refusal::Paused
        | Refusal::StepsCommitted { .. }
        | Refusal::NotCommitted { .. }
        | Refusal::NotKept { .. }
        | Refusal::NeedsPast => Code::FailedPrecondition,
        Refusal::Quarantined { .. } => Code::PermissionDenied,
        Refusal::Repeated { .. } => Code::AlreadyExists,
        Refusal::WrongOutcome { .. } | Refusal::InvalidOutcome { .. } | Refusal::InvalidSteps { .. } => {
            Code::InvalidArgument
        }
    };
    in_full(code, refused)
}

pub(super) fn of_blob(error: &BlobError) -> Status {
    let code = match error {
        BlobError::Missing { .. } => Code::NotFound,
        BlobError::Corrupt { .. } => Code::DataLoss,
        // The next attempt may arrive unchanged.
        BlobError::Misnamed { .. } => Code::Aborted,
        BlobError::TooLarge { .. } | BlobError::Url { .. } => Code::InvalidArgument,
        BlobError::NoSpace { .. } | BlobError::OverQuota { .. } => Code::ResourceExhausted,
        BlobError::Unwritable { .. }
        | BlobError::Denied { .. }
        | BlobError::Settings { .. }
        | BlobError::NotBuilt { .. }
        | BlobError::Unsigned { .. } => Code::FailedPrecondition,
        BlobError::Store { .. } => Code::Unavailable,
    };
    let hint = error.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
    refusal(code, format!("{}{hint}", error.told()))
}

pub(super) fn busy(busy: Busy) -> Status {
    refusal(Code::ResourceExhausted, busy.to_string())
}

/// A ledger that does not answer for kept verdicts: whoever asks goes on asking.
pub(super) fn of_ledger(error: &LedgerError) -> Status {
    refusal(Code::Unavailable, error.to_string())
}

/// A message that cannot be read: the two sides differ in version, or somebody else is calling.
pub(super) fn malformed(problem: impl std::fmt::Display) -> Status {
    refusal(Code::InvalidArgument, problem.to_string())
}

/// A field that every message of this kind carries.
pub(super) fn required<T>(field: Option<T>, name: &str) -> Result<T, Status> {
    field.ok_or_else(|| malformed(format!("`{name}` is missing")))
}
