//! Why a worker ended before it was asked to.

use std::time::Duration;

use gavel_client::{AddressError, SharingError};
use gavel_core::hint::Hint;

/// Why a worker ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator's address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The blobs that this worker has cannot be shared.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// Nobody answered.
    #[error("no coordinator answers at {addresses} after {} s", waited.as_secs())]
    Unreachable {
        /// Where it was looked for.
        addresses: String,
        /// For how long.
        waited: Duration,
    },
    /// The coordinator does not want this worker.
    #[error("the coordinator at {addresses} refuses this worker: {reason}")]
    Refused {
        /// The coordinator.
        addresses: String,
        /// Its words.
        reason: String,
        /// What to do about it, where that is known.
        remedy: Option<String>,
    },
    /// What this worker handed in contradicts what it was asked for, and it gets no more work.
    #[error("the coordinator at {addresses} has put this worker into quarantine: {reason}")]
    Quarantined {
        /// The coordinator.
        addresses: String,
        /// Its words.
        reason: String,
    },
    /// The work panicked. The unit was given to somebody else, and this process should be started again.
    #[error("the worker panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The system did not give a thread.
    #[error("cannot start the worker's thread")]
    Thread(#[source] std::io::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Address(error) => return error.hint(),
            Self::Sharing(error) => return error.hint(),
            Self::Unreachable { .. } => {
                "start `gavel coordinator` first, and check the address and the firewall between"
            }
            Self::Refused {
                remedy: Some(remedy), ..
            } => remedy,
            Self::Refused { remedy: None, .. } => "run the same version of Gavel on every machine of the fleet",
            Self::Quarantined { .. } => {
                "look at what differs on this machine (version, model folder, hardware); a worker that is started again gets work again"
            }
            Self::Panicked { .. } => {
                "this is a defect in Gavel; start the worker again: its unit goes to somebody else meanwhile"
            }
            Self::Thread(_) => "the machine is out of memory or of processes",
        };
        Some(text.to_owned())
    }
}
