//! `[trainer]`: how gradient work is cut and done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// `[trainer]`: how gradient work is cut and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerSpec {
    /// Pairs whose gradient one unit sums. Part of the result: sums are taken shard by shard.
    #[schemars(range(min = 1, max = bounds::PER_STEP.most))]
    pub shard: u32,
    /// Keep only block inputs in the forward and run each block again in its backward.
    pub checkpoint_activations: bool,
    /// How the gradient sums get to the trainer that commits. No part of the result.
    pub exchange: GradientExchange,
}

/// How the gradient sums of a step's shards get to the trainer that commits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GradientExchange {
    /// Each sum is stored as a blob, and read from there.
    #[default]
    Blobs,
    /// Each sum stays with the trainer that made it, and trainers exchange slices of them by NCCL.
    Nccl,
}

impl Default for TrainerSpec {
    fn default() -> Self {
        Self {
            shard: 1,
            checkpoint_activations: true,
            exchange: GradientExchange::default(),
        }
    }
}

impl Section for TrainerSpec {
    fn check(&self, problems: &mut Problems) {
        problems.count(self.shard.into(), bounds::PER_STEP, "trainer.shard");
    }
}
