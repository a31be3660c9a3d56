//! Why gradient sums could not be exchanged.

use std::time::Duration;

use gavel_core::Hint;
use gavel_core::spec::Device;

/// Gradient sums could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The transport was left out when this binary was built.
    #[error("`trainer.exchange` is \"nccl\", and this binary was built without NCCL")]
    NotBuilt,
    /// A library is not there.
    #[error("the library {library} cannot be loaded")]
    Library {
        /// Its file name.
        library: &'static str,
    },
    /// There is no GPU to exchange from.
    #[error("NCCL works between NVIDIA GPUs, and this trainer computes on {device}")]
    NoGpu {
        /// The device.
        device: Device,
    },
    /// A call into the library failed.
    #[error("{call}: {reason}")]
    Call {
        /// The call.
        call: &'static str,
        /// The library's words.
        reason: String,
    },
    /// The members do not mean the same thing.
    #[error("the exchange cannot begin: {problem}")]
    Mismatch {
        /// What does not fit.
        problem: String,
    },
    /// The exchange took too long.
    #[error("gradient sums were not exchanged within {} s", within.as_secs())]
    TimedOut {
        /// The bound.
        within: Duration,
    },
    /// The exchange is no longer wanted.
    #[error("the exchange was cancelled")]
    Cancelled,
}

impl Hint for ExchangeError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotBuilt => {
                "build it with `cargo build --release --features cuda,nccl`, or set trainer.exchange = \"blobs\""
            }
            Self::Library { .. } => {
                "install NVIDIA's driver and NCCL 2.27 or newer and put the library's folder on LD_LIBRARY_PATH (docs/gpu.md), \
                 or set trainer.exchange = \"blobs\""
            }
            Self::NoGpu { .. } => "set model.device = \"cuda\", or trainer.exchange = \"blobs\"",
            Self::Call { .. } | Self::TimedOut { .. } => {
                "check that the trainers' machines reach each other; NCCL_DEBUG=INFO in their environment says more, \
                 NCCL_SOCKET_IFNAME names the network to use"
            }
            Self::Mismatch { .. } => "run the same version of Gavel on every machine of the fleet",
            Self::Cancelled => return None,
        };
        Some(hint.to_owned())
    }
}
