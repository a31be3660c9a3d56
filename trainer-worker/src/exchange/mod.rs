//! How gradient sums get from the trainers that made them to all trainers of a group.
//!
//! Every sum is broadcast by its owner, and every member adds the sums itself, in shard order and in f64. An all-reduce would
//! move less (twice the size of one sum instead of once each shard's), but it adds in an order that depends on how many
//! members there are and on the ring that the library lays through them: the adapter's bytes would then depend on the fleet.
//! And because every member ends with the same mean, each takes the optimizer step on its own copy of the policy, and need
//! not fetch the new adapter and its moments from the coordinator.

#[cfg(feature = "nccl")]
mod nccl;

use std::time::Duration;

use gavel_core::Hint;
use gavel_core::spec::Device;

/// How long a whole exchange may take. Generous: what is lost quickly is noticed quickly, by the transport or by the
/// coordinator; this bounds only what nobody notices.
pub(crate) const EXCHANGE_WITHIN: Duration = Duration::from_secs(600);
/// How long to wait for the members to come. One that works on a gradient of another run comes when that is done.
pub(crate) const JOIN_WITHIN: Duration = Duration::from_secs(120);

/// A way for gradient sums between trainers.
pub trait Exchange: Send {
    /// Whether this machine can take part; in words, with what.
    ///
    /// # Errors
    /// Says what is missing.
    fn check(&self) -> Result<String, ExchangeError>;

    /// Opens a rendezvous for a group, for the member that calls the others. Never the same twice.
    ///
    /// # Errors
    /// [`ExchangeError`].
    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError>;

    /// Meets the group, and hands each shard's sum to `take`, in shard order, on every member. All members name the same
    /// owners in the same order. Looks at [`Seat::cancelled`] while it waits.
    ///
    /// # Errors
    /// [`ExchangeError`]; `take` may have had some of the sums, and the group is dissolved.
    fn exchange(
        &self,
        seat: &Seat<'_>,
        shards: &[Shard<'_>],
        take: &mut dyn FnMut(&[f32]),
    ) -> Result<(), ExchangeError>;
}

/// A member's part in its group.
pub struct Seat<'a> {
    /// The group's rendezvous.
    pub rendezvous: &'a [u8],
    /// This member.
    pub rank: usize,
    /// Number of members.
    pub size: usize,
    /// Where this member computes.
    pub device: Device,
    /// Number of values in every sum.
    pub parameters: usize,
    /// How long the exchange may take.
    pub within: Duration,
    /// Whether the exchange is no longer wanted.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// One shard's sum.
pub struct Shard<'a> {
    /// Rank of the member that has it.
    pub owner: usize,
    /// The sum, with its owner.
    pub sum: Option<&'a [f32]>,
}

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

/// Whether this binary can exchange gradient sums by NCCL at all.
///
/// # Errors
/// [`ExchangeError::NotBuilt`].
pub fn built() -> Result<(), ExchangeError> {
    if cfg!(feature = "nccl") {
        Ok(())
    } else {
        Err(ExchangeError::NotBuilt)
    }
}

/// NCCL, where this binary was built with it; otherwise what says how to build it.
#[cfg(feature = "nccl")]
pub fn of_this_build() -> Box<dyn Exchange> {
    Box::new(nccl::Nccl)
}

/// NCCL, where this binary was built with it; otherwise what says how to build it.
#[cfg(not(feature = "nccl"))]
pub fn of_this_build() -> Box<dyn Exchange> {
    Box::new(NotBuilt)
}

#[cfg(not(feature = "nccl"))]
struct NotBuilt;

#[cfg(not(feature = "nccl"))]
impl Exchange for NotBuilt {
    fn check(&self) -> Result<String, ExchangeError> {
        Err(ExchangeError::NotBuilt)
    }

    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError> {
        Err(ExchangeError::NotBuilt)
    }

    fn exchange(&self, _: &Seat<'_>, _: &[Shard<'_>], _: &mut dyn FnMut(&[f32])) -> Result<(), ExchangeError> {
        Err(ExchangeError::NotBuilt)
    }
}
