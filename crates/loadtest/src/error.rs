//! Why no load could be put on a coordinator.

use gavel_core::hint::Hint;

/// Why no load could be put on a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator's address is not one, or nobody answers there.
    #[error("no coordinator answers at {address}")]
    Connect {
        /// Where it was looked for.
        address: String,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The coordinator refuses a worker or the run.
    #[error("the coordinator refuses {what}")]
    Refused {
        /// What it refuses.
        what: &'static str,
        /// Its words.
        #[source]
        status: Box<tonic::Status>,
    },
    /// The synthetic run breaks a rule of the run specification.
    #[error("the synthetic run is not valid")]
    Spec(#[from] gavel_core::spec::Problems),
    /// A value has no JSON form: a defect.
    #[error("the synthetic run cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Connect { .. } => {
                "each connection needs a file descriptor on both sides: lower --connections or raise `ulimit -n`"
            }
            Self::Refused { .. } => "use the same version of Gavel on both sides",
            Self::Spec(_) => "choose at least one prompt and one step",
            Self::Json(_) => return None,
        };
        Some(text.to_owned())
    }
}
