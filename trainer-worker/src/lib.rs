//! A fleet's trainer: leases, blobs and policies around [`gavel_policy::Trainer`], and the [`exchange`] of gradient sums
//! between trainers.
//!
//! However the sums come to a commit, as blobs or by an exchange, they are added in shard order, so that the new adapter is
//! byte-identical whatever the fleet.

#![cfg_attr(not(feature = "nccl"), forbid(unsafe_code))]
#![deny(unsafe_code)]

pub mod exchange;
mod gather;
mod kept;
mod sums;
mod work;

pub use work::TrainerWork;
