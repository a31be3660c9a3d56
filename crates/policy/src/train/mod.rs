//! Trains the adapter: gradients of rewarded groups, the optimizer step, and one update offline.
//!
//! A step's work is cut into shards by the spec alone; each shard's gradient is summed in prompt order, and the commit adds
//! the shards in shard order, so the new adapter is byte-identical however many trainers took part.

mod batch;
mod commit;
mod error;
mod gradient;
mod gradient_file;
mod initialise;
mod provenance;
pub mod replay;
mod state;
mod term;
mod trainer;
mod update;

pub use commit::{Committed, Reduction, commit, reduce};
pub use error::Error;
pub use gradient::{
    Deviation, GradientSettings, Group, RewardedTrajectory, ShardGradient, activation_memory, check_on_policy,
};
pub use gradient_file::{read as read_gradient, write as write_gradient};
pub use provenance::{Wanted, check as check_provenance, check_conditioning};
pub use replay::{ReplaySettings, Replayed, replay};
pub use state::{EncodedPolicy, OptimizerState, PolicyState};
pub use trainer::Trainer;
pub use update::{Updated, update};
