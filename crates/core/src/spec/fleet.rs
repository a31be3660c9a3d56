//! `[trainer]`, `[limits]`, `[fleet]`, `[coordinator]`: how the work is cut, watched and served.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// `[trainer]`: how gradient work is cut and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerSpec {
    /// Pairs whose gradient one unit sums. Part of the result: sums are taken shard by shard.
    pub shard: u32,
    /// Keep only block inputs in the forward and run each block again in its backward.
    pub checkpoint_activations: bool,
    /// How the gradient sums get to the trainer that commits. No part of the result.
    pub exchange: GradientExchange,
}

/// How the gradient sums of a step's shards get to the trainer that commits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientExchange {
    /// Each sum is stored as a blob, and read from there.
    #[default]
    Blobs,
    /// Each sum stays with the trainer that made it and is broadcast to the others by NCCL.
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

impl TrainerSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.at_least_one(self.shard, "trainer.shard");
    }
}

/// `[limits]`: what a run puts up with before it stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Attempts at one unit, on whichever workers.
    pub attempts: u32,
    /// Pairs whose loss or gradient was not finite, over the whole run; one more stops it.
    pub skipped_pairs: u32,
    /// Largest |ratio - 1| before the first update.
    pub ratio_deviation: f64,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            attempts: 3,
            skipped_pairs: 8,
            ratio_deviation: 1e-3,
        }
    }
}

impl LimitsSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.at_least_one(self.attempts, "limits.attempts");
        problems.positive(self.ratio_deviation, "limits.ratio_deviation");
    }
}

/// `[fleet]`: the local workers that `gavel run` starts, and how workers are watched. No part of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetSpec {
    /// Sampler processes.
    pub samplers: u32,
    /// Judge processes.
    pub judges: u32,
    /// Trainer processes.
    pub trainers: u32,
    /// A lease that no heartbeat has renewed for this long goes to somebody else.
    #[serde(with = "super::duration")]
    pub lease: Duration,
    /// Time between two heartbeats.
    #[serde(with = "super::duration")]
    pub heartbeat: Duration,
}

impl Default for FleetSpec {
    fn default() -> Self {
        Self {
            samplers: 1,
            judges: 1,
            trainers: 1,
            lease: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
        }
    }
}

impl FleetSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        for (count, key) in [
            (self.samplers, "fleet.samplers"),
            (self.judges, "fleet.judges"),
            (self.trainers, "fleet.trainers"),
        ] {
            problems.require(count <= 1024, key, || format!("must lie in 0 to 1024, not {count}"));
        }
        problems.require(self.heartbeat >= Duration::from_millis(10), "fleet.heartbeat", || {
            "must be at least 10ms".into()
        });
        problems.require(self.lease >= 2 * self.heartbeat, "fleet.lease", || {
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

/// `[coordinator]`: where it listens, and what it keeps. No part of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorSpec {
    /// gRPC address; port 0 takes a free one.
    pub grpc: SocketAddr,
    /// HTTP address; port 0 takes a free one.
    pub http: SocketAddr,
    /// Committed steps whose trajectories, pictures and gradients are kept; checkpoints and held-out pictures always are.
    pub keep_steps: u32,
}

impl Default for CoordinatorSpec {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            grpc: any,
            http: any,
            keep_steps: 8,
        }
    }
}
