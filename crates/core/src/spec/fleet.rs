//! `[fleet]`: the local workers, and how workers are watched.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;

/// As many GPUs as a machine may have.
const GPUS_MAX: usize = 64;

/// A run that is to have a hundred times as much as another one is the only run.
const WEIGHT_MAX: u32 = 100;

/// `[fleet]`: the local workers that `gavel run` starts, and how workers are watched. No part of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FleetSpec {
    /// Sampler processes.
    #[schemars(range(max = 1024))]
    pub samplers: u32,
    /// Judge processes.
    #[schemars(range(max = 1024))]
    pub judges: u32,
    /// Trainer processes.
    #[schemars(range(max = 1024))]
    pub trainers: u32,
    /// A trainer's process samples too, with the same weights, as long as there are samplers to be had: a model is in memory once for the two,
    /// which take turns. Samplers beyond the trainers have processes of their own.
    pub share_weights: bool,
    /// GPUs of this machine, by ordinal, over which `gavel run` spreads its workers: one each, in this order and again from the first, judges
    /// before trainers before samplers. Without any each worker uses the GPU that `model.device` or `judge.device` names.
    #[schemars(length(max = GPUS_MAX))]
    pub gpus: Vec<usize>,
    /// The run's share of workers that other runs want too: one of weight 2 gets twice as many as one of weight 1.
    #[schemars(range(min = 1, max = WEIGHT_MAX))]
    pub weight: u32,
    /// A lease that no heartbeat has renewed for this long goes to somebody else.
    #[serde(with = "super::duration")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// Time between two heartbeats.
    #[serde(with = "super::duration")]
    #[schemars(with = "String")]
    pub heartbeat: Duration,
}

impl Default for FleetSpec {
    fn default() -> Self {
        Self {
            samplers: 1,
            judges: 1,
            trainers: 1,
            share_weights: false,
            gpus: Vec::new(),
            weight: 1,
            lease: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
        }
    }
}

impl Section for FleetSpec {
    fn check(&self, problems: &mut Problems) {
        for (count, key) in [
            (self.samplers, "fleet.samplers"),
            (self.judges, "fleet.judges"),
            (self.trainers, "fleet.trainers"),
        ] {
            problems.require(count <= 1024, key, || format!("must lie in 0 to 1024, not {count}"));
        }
        problems.require(self.gpus.len() <= GPUS_MAX, "fleet.gpus", || {
            format!("may name {GPUS_MAX} GPUs at most, not {}", self.gpus.len())
        });
        let twice = (1..self.gpus.len()).find(|&index| self.gpus[..index].contains(&self.gpus[index]));
        if let Some(index) = twice {
            problems.add("fleet.gpus", format!("names GPU {} twice", self.gpus[index]), None);
        }
        let weight = self.weight;
        problems.require((1..=WEIGHT_MAX).contains(&weight), "fleet.weight", || {
            format!("must lie in 1 to {WEIGHT_MAX}, not {weight}")
        });
        problems.require(self.heartbeat >= Duration::from_millis(10), "fleet.heartbeat", || {
            "must be at least 10ms".into()
        });
        let heartbeats = self.heartbeat.saturating_mul(2);
        problems.require(self.lease >= heartbeats, "fleet.lease", || {
            format!(
                "must be at least twice fleet.heartbeat ({}), or one late heartbeat loses the lease",
                humantime::format_duration(self.heartbeat)
            )
        });
        problems.require(self.lease <= Duration::from_secs(86_400), "fleet.lease", || {
            "must be at most 1day".into()
        });
    }
}
