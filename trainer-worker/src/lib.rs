//! Trains the adapter: gradients of rewarded pairs, the optimizer step, and one update offline.
//!
//! [`Trainer`] is synchronous and knows nothing of the fleet; `gavel replay` calls it directly. [`TrainerWork`] wraps it for
//! a worker. A step's work is cut into shards by the spec alone; each shard's gradient is summed in prompt order, and the
//! commit adds the shards in shard order, so the new adapter is byte-identical however many trainers took part, and however
//! the sums came to it: as blobs, or by an [`exchange`].

#![cfg_attr(not(feature = "nccl"), forbid(unsafe_code))]
#![deny(unsafe_code)]

mod batch;
mod commit;
mod error;
pub mod exchange;
mod gather;
mod gradient;
mod gradient_file;
mod initialise;
mod provenance;
pub mod replay;
mod state;
mod sums;
mod trainer;
mod work;

pub use commit::{Committed, Reduction, commit, reduce};
pub use error::Error;
pub use gradient::{Deviation, GradientSettings, Group, RewardedTrajectory, ShardGradient};
pub use replay::{ReplaySettings, Replayed, replay};
pub use state::{EncodedPolicy, OptimizerState, PolicyState};
pub use trainer::Trainer;
pub use work::TrainerWork;
