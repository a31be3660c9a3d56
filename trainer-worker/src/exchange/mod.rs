//! How the mean of a step's gradient sums gets to all trainers of a group.
//!
//! The parameter vector is cut into one slice for each member. Every member is sent its slice of every sum by the trainer
//! that has it, adds them in shard order and in f64, and sends the mean of its slice to everybody ([`mean`]). A member receives
//! (S / N + 1) (N - 1) / N times the size of a sum, for S shards and N members: as much as of an all-reduce where each member has
//! one shard. An all-reduce itself would add in an order that depends on how many members there are and on the ring that the
//! library lays through them: the adapter's bytes would then depend on the fleet. And because every member ends with the same
//! mean, each takes the optimizer step on its own copy of the policy, and need not fetch the new adapter and its moments from the
//! coordinator.
//!
//! A transport only moves numbers: [`Exchange`] brings the members together, a [`Communicator`] is what they send each other by.

mod error;
mod mean;
#[cfg(feature = "nccl")]
mod nccl;
mod slices;

use std::time::{Duration, Instant};

use gavel_core::spec::Device;

pub use error::ExchangeError;
pub use mean::{Shard, mean};

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

    /// Meets the other members at their rendezvous.
    ///
    /// # Errors
    /// [`ExchangeError`]; there is then no group.
    fn meet(&self, seat: &Seat<'_>, watch: &Watch<'_>) -> Result<Box<dyn Communicator>, ExchangeError>;
}

/// What the members of a group send each other numbers by. All make the same calls in the same order. One whose call failed is of
/// no more use, and hinders nobody who drops it; one that is dropped after a call that succeeded first lets go out what the others
/// still have to receive.
pub trait Communicator: Send {
    /// Sends every other member its part, and receives what they send here. Does `meanwhile` once while the numbers are on their way.
    /// `received` holds as many values as the lengths of the parts that come, one part after the other in the order of ranks.
    ///
    /// # Errors
    /// [`ExchangeError`].
    fn scatter(
        &mut self,
        parts: &Parts<'_>,
        received: &mut [f32],
        meanwhile: &mut dyn FnMut(),
        watch: &Watch<'_>,
    ) -> Result<(), ExchangeError>;

    /// Sends `own` to everybody, and receives everybody's into `all`, in the order of ranks. All send the same number of values;
    /// `all` holds as many for each member, this one included.
    ///
    /// # Errors
    /// [`ExchangeError`].
    fn gather(&mut self, own: &[f32], all: &mut [f32], watch: &Watch<'_>) -> Result<(), ExchangeError>;
}

/// What a member sends in a [`Communicator::scatter`], and how much it receives.
#[derive(Debug)]
pub struct Parts<'a> {
    /// One part after the other, in the order of the ranks that they go to.
    pub values: &'a [f32],
    /// Number of values that go to each rank; 0 for this member, and where there is nothing to send.
    pub to: &'a [usize],
    /// Number of values that come from each rank.
    pub from: &'a [usize],
}

/// A member's part in its group.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// The group's rendezvous.
    pub rendezvous: &'a [u8],
    /// This member.
    pub rank: usize,
    /// Number of members.
    pub size: usize,
    /// Where this member computes.
    pub device: Device,
}

/// How long to wait for the others.
pub struct Watch<'a> {
    /// When the exchange has taken too long.
    until: Instant,
    within: Duration,
    cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Watch<'a> {
    /// From now on, unless `cancelled` says earlier that the exchange is no longer wanted.
    pub fn new(within: Duration, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self {
            until: Instant::now() + within,
            within,
            cancelled,
        }
    }

    /// Whether to wait any longer; to be asked again and again.
    ///
    /// # Errors
    /// [`ExchangeError::Cancelled`], [`ExchangeError::TimedOut`].
    pub fn goes_on(&self) -> Result<(), ExchangeError> {
        if (self.cancelled)() {
            return Err(ExchangeError::Cancelled);
        }
        if Instant::now() > self.until {
            return Err(ExchangeError::TimedOut { within: self.within });
        }
        Ok(())
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

/// What a binary without NCCL has in its stead: it says how to build one with it.
pub struct NotBuilt;

impl Exchange for NotBuilt {
    fn check(&self) -> Result<String, ExchangeError> {
        Err(ExchangeError::NotBuilt)
    }

    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError> {
        Err(ExchangeError::NotBuilt)
    }

    fn meet(&self, _: &Seat<'_>, _: &Watch<'_>) -> Result<Box<dyn Communicator>, ExchangeError> {
        Err(ExchangeError::NotBuilt)
    }
}
