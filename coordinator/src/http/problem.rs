//! What a caller reads instead of an answer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gavel_core::bounds::cut;
use gavel_core::hint::Hint;
use schemars::JsonSchema;
use serde::Serialize;

use crate::blobs::BlobError;
use crate::driver::DriverError;
use crate::ledger::LedgerError;
use crate::transport::Busy;

/// An error with its status.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    body: ProblemBody,
}

/// What an error says.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemBody {
    /// What is wrong.
    error: String,
    /// What to do about it.
    hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let error = cut(error.into());
        Self {
            status,
            body: ProblemBody { error, hint: None },
        }
    }

    /// A part that does not work at the moment.
    pub(super) fn unavailable(error: impl std::error::Error + Hint) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).hinted(error.hint())
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn with_hint(self, hint: &str) -> Self {
        self.hinted(Some(hint.to_owned()))
    }

    fn hinted(mut self, hint: Option<String>) -> Self {
        self.body.hint = hint;
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, busy.to_string())
    }
}

impl From<DriverError> for Problem {
    fn from(error: DriverError) -> Self {
        let status = match error {
            DriverError::UnknownRun(_) | DriverError::UnknownWorker(_) | DriverError::NoneMeant => {
                StatusCode::NOT_FOUND
            }
            DriverError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            DriverError::Refused(_) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let hint = match &error {
            DriverError::Refused(refusal) => refusal.hint(),
            _ => None,
        };
        Self::new(status, error.to_string()).hinted(hint)
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        let status = match error {
            BlobError::Missing { .. } => StatusCode::NOT_FOUND,
            BlobError::Corrupt { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.told()).hinted(error.hint())
    }
}

/// What exactly the ledger's trouble is stands in the log: it may name the ledger's place.
impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        tracing::error!(%error, "the ledger could not be read for a page");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the ledger could not be read")
    }
}
