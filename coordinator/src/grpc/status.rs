//! What callers read when something is refused: each error's gRPC code, with its message and its hint.
//!
//! Worth another attempt are UNAVAILABLE, RESOURCE_EXHAUSTED and ABORTED; everything else is final for this request.

use gavel_core::Diagnostic;
use gavel_core::run::Refusal;
use tonic::{Code, Status};

use crate::blobs::BlobError;
use crate::driver::DriverError;
use crate::ledger::LedgerError;

pub(crate) fn of_driver(error: &DriverError) -> Status {
    match error {
        DriverError::UnknownRun(_) | DriverError::UnknownWorker(_) => Status::not_found(error.to_string()),
        DriverError::Refused(refusal) => of_refusal(refusal),
        DriverError::NothingToExchange(_) => Status::invalid_argument(error.to_string()),
        DriverError::CalledElsewhere { .. } | DriverError::CallOver(_) => {
            Status::failed_precondition(error.to_string())
        }
        DriverError::Quarantined { .. } => Status::permission_denied(error.to_string()),
        DriverError::RunDiffers { .. } | DriverError::FilesDiffer { .. } => Status::already_exists(format!(
            "{error} (choose another `run.name`, or resume the run as it is)"
        )),
        DriverError::Ledger(source) => {
            let code = match source.as_ref() {
                LedgerError::Full { .. } => Code::ResourceExhausted,
                LedgerError::RunExists { .. } => Code::AlreadyExists,
                LedgerError::Unreachable { .. } | LedgerError::Deposed { .. } | LedgerError::Locked { .. } => {
                    Code::Unavailable
                }
                _ => Code::Internal,
            };
            Status::new(code, Diagnostic::of(source.as_ref()).in_full())
        }
        DriverError::SetAside { .. } => Status::data_loss(error.to_string()),
        DriverError::NotReadable(_) => Status::invalid_argument(error.to_string()),
        DriverError::ShuttingDown => Status::unavailable(error.to_string()),
    }
}

fn of_refusal(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::StaleFence { .. }
        | Refusal::NotLeased { .. }
        | Refusal::OtherWorker { .. }
        | Refusal::NotReady { .. }
        | Refusal::FenceOutOfSequence { .. }
        | Refusal::Ended
        | Refusal::NotStopped => Code::FailedPrecondition,
        Refusal::Quarantined { .. } => Code::PermissionDenied,
        Refusal::Repeated { .. } => Code::AlreadyExists,
        Refusal::WrongOutcome { .. } | Refusal::InvalidOutcome { .. } => Code::InvalidArgument,
    };
    Status::new(code, Diagnostic::of(refusal).in_full())
}

pub(super) fn of_blob(error: &BlobError) -> Status {
    let code = match error {
        BlobError::Missing { .. } => Code::NotFound,
        BlobError::Corrupt { .. } => Code::DataLoss,
        // The next attempt may arrive unchanged.
        BlobError::Misnamed { .. } => Code::Aborted,
        BlobError::TooLarge { .. } | BlobError::Url { .. } => Code::InvalidArgument,
        BlobError::NoSpace { .. } => Code::ResourceExhausted,
        BlobError::Unwritable { .. }
        | BlobError::Denied { .. }
        | BlobError::Settings { .. }
        | BlobError::NotBuilt { .. } => Code::FailedPrecondition,
        BlobError::Store { .. } => Code::Unavailable,
    };
    Status::new(code, Diagnostic::of(error).in_full())
}

/// A message that cannot be read: the two sides differ in version, or somebody else is calling.
pub(super) fn malformed(problem: impl std::fmt::Display) -> Status {
    Status::invalid_argument(problem.to_string())
}

/// A field that every message of this kind carries.
pub(super) fn required<T>(field: Option<T>, name: &str) -> Result<T, Status> {
    field.ok_or_else(|| malformed(format!("`{name}` is missing")))
}
