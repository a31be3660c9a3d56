//! Why no load could be put on a coordinator.

use gavel_client::{AddressError, CallError, ConnectError, SharingError};
use gavel_core::hint::Hint;

/// Why no load could be put on a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator's address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody answers.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The coordinator refuses a worker or the run.
    #[error("the coordinator refuses {what}")]
    Refused {
        /// What it refuses.
        what: &'static str,
        /// Its words.
        source: CallError,
    },
    /// A simulated worker cannot share blobs.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// The synthetic run breaks a rule of the run specification.
    #[error("the synthetic run is not valid")]
    Spec(#[from] gavel_core::spec::Problems),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Address(error) => return error.hint(),
            Self::Sharing(error) => return error.hint(),
            Self::Connect(_) => {
                "each connection needs a file descriptor on both sides: lower --connections or raise `ulimit -n`"
            }
            Self::Refused { .. } => "use the same version of Gavel on both sides",
            Self::Spec(_) => "choose at least one prompt and one step",
        };
        Some(text.to_owned())
    }
}
