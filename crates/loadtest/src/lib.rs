//! Load for a coordinator: thousands of simulated workers that talk to it as real ones do and compute nothing.
//!
//! A [`Fleet`] registers its workers over real gRPC; each asks for work, keeps what it holds alive with heartbeats, and hands
//! in a made-up outcome that the state machine accepts. [`synthetic_run`] is work for them. [`Tally`] says what they saw.
//!
//! The digests in the outcomes name no stored blob: a coordinator passes digests on and never looks behind them, so that
//! what is measured is leases, heartbeats, results and the ledger, and not the transfer of blobs. [`BlobRoad`] is for these.

#![forbid(unsafe_code)]

mod blobs;
mod error;
mod fleet;
mod peer;
mod ready;
mod synthetic;
mod tally;
mod worker;

pub use blobs::{BlobRoad, BlobWay, StepBlobs};
pub use error::Error;
pub use fleet::{Fleet, FleetOptions};
pub use synthetic::{SyntheticRun, submit, synthetic_run};
pub use tally::{Failures, Latencies, Percentiles, Tally};
