//! Units of work: what a worker leases, what it is given, and what it returns.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Candidate, Digest, PromptIndex, Step, WorkerId};
use crate::verdict::VerdictRecord;

/// What a worker can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Samples candidates from the policy.
    Sampler,
    /// Judges pairs.
    Judge,
    /// Computes gradients and optimizer steps.
    Trainer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sampler => "sampler",
            Self::Judge => "judge",
            Self::Trainer => "trainer",
        })
    }
}

/// Which policy an evaluation samples from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The frozen base, without the adapter.
    Base,
    /// The base with the final adapter (its EMA where the run keeps one).
    Tuned,
}

/// One leasable piece of a run. Its extent follows from the spec alone, never from how many workers there are, so that the
/// same unit is the same computation everywhere.
#[expect(missing_docs, reason = "the fields are named after the types that document them")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Unit {
    /// Create the initial adapter and optimizer state (policy version 0).
    Initialise,
    /// Sample every candidate of `sampling.batch` consecutive prompts of a step.
    Sample { step: Step, chunk: u32 },
    /// Judge `judge.batch` consecutive pairs, or all matches of as many larger groups, of a step.
    Judge { step: Step, chunk: u32 },
    /// Sum the gradient of `trainer.shard` consecutive pairs, or larger groups, of a step.
    Gradient { step: Step, shard: u32 },
    /// Add the shards' gradients in shard order, take the optimizer step, store the new policy.
    Commit { step: Step },
    /// Sample held-out prompts deterministically.
    EvaluateSample { arm: Arm, chunk: u32 },
    /// Judge the tuned policy's held-out images against the base's.
    EvaluateJudge { chunk: u32 },
    /// Judge labelled pairs, to measure the judge itself.
    CalibrateJudge { chunk: u32 },
}

impl Unit {
    /// Who does this.
    pub fn role(&self) -> Role {
        match self {
            Self::Sample { .. } | Self::EvaluateSample { .. } => Role::Sampler,
            Self::Judge { .. } | Self::EvaluateJudge { .. } | Self::CalibrateJudge { .. } => Role::Judge,
            Self::Initialise | Self::Gradient { .. } | Self::Commit { .. } => Role::Trainer,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialise => f.write_str("initialise"),
            Self::Sample { step, chunk } => write!(f, "sample chunk {chunk} of step {step}"),
            Self::Judge { step, chunk } => write!(f, "judge chunk {chunk} of step {step}"),
            Self::Gradient { step, shard } => write!(f, "gradient shard {shard} of step {step}"),
            Self::Commit { step } => write!(f, "commit of step {step}"),
            Self::EvaluateSample { arm: Arm::Base, chunk } => write!(f, "held-out sample chunk {chunk} of the base"),
            Self::EvaluateSample { arm: Arm::Tuned, chunk } => {
                write!(f, "held-out sample chunk {chunk} of the tuned policy")
            }
            Self::EvaluateJudge { chunk } => write!(f, "held-out judge chunk {chunk}"),
            Self::CalibrateJudge { chunk } => write!(f, "labelled judge chunk {chunk}"),
        }
    }
}

/// A committed policy: everything that the next step, or a resumed run, starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `adapter_model.safetensors`, PEFT layout, f32.
    pub adapter: Digest,
    /// AdamW moments, step count and EMA, as docs/formats.md describes.
    pub optimizer: Digest,
    /// The averaged adapter, where the run keeps one; what evaluation and the final folder use.
    pub averaged: Option<Digest>,
    /// Hash of the adapter's tensor names and shapes: what a worker that binds it must report.
    pub manifest: Digest,
    /// Number of adapter tensors.
    pub tensors: u32,
}

impl Policy {
    /// Whether this blob is a part of the policy.
    pub fn has(&self, blob: &Digest) -> bool {
        self.adapter == *blob || self.optimizer == *blob || self.averaged == Some(*blob)
    }
}

/// What a worker needs to do a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Assignment {
    /// For [`Unit::Initialise`].
    Initialise,
    /// For [`Unit::Sample`].
    Sample {
        /// Optimizer step, part of every noise key.
        step: Step,
        /// The policy to sample from.
        policy: Policy,
        /// The chunk's prompts.
        prompts: Vec<PromptText>,
    },
    /// For [`Unit::EvaluateSample`].
    EvaluateSample {
        /// Base or tuned.
        arm: Arm,
        /// The policy; `None` for the base.
        policy: Option<Policy>,
        /// The chunk's prompts, held-out.
        prompts: Vec<PromptText>,
    },
    /// For [`Unit::Judge`], [`Unit::EvaluateJudge`] and [`Unit::CalibrateJudge`].
    Judge {
        /// The pairs, in order.
        pairs: Vec<Pair>,
    },
    /// For [`Unit::Gradient`].
    Gradient {
        /// Optimizer step.
        step: Step,
        /// The policy that is being trained.
        policy: Policy,
        /// The shard's decided groups in prompt order.
        groups: Vec<RewardedGroup>,
        /// How many versions older than `policy` the sampling policy was; 0 is exactly on-policy, where every ratio is 1.
        policy_lag: u32,
    },
    /// For [`Unit::Commit`].
    Commit {
        /// Optimizer step.
        step: Step,
        /// The policy to update.
        policy: Policy,
        /// Gradient sums in shard order; shards without a decided pair are absent.
        gradients: Vec<Digest>,
        /// Who made each of these sums; with `trainer.exchange = "nccl"` the only one that has it.
        holders: Vec<WorkerId>,
        /// Number of (candidate, timestep) terms in these sums: the divisor. Zero means that nothing was decided: the policy
        /// is stored unchanged, with the step counted.
        terms: u64,
    },
}

impl Assignment {
    /// Of a commit's gradient sums, those that this worker made.
    pub fn held_by(&self, worker: &WorkerId) -> Vec<Digest> {
        let Self::Commit { gradients, holders, .. } = self else {
            return Vec::new();
        };
        let sums = gradients.iter().zip(holders).filter(|(_, holder)| *holder == worker);
        sums.map(|(gradient, _)| *gradient).collect()
    }
}

/// A prompt with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptText {
    /// Place in the step or in the held-out set.
    pub index: PromptIndex,
    /// The caption.
    pub text: String,
}

/// Two images of one prompt, to be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Place in the step, the held-out set or the labelled set.
    pub prompt: PromptIndex,
    /// The caption.
    pub text: String,
    /// PNG of the first candidate.
    pub first: Digest,
    /// PNG of the second candidate.
    pub second: Digest,
}

/// The candidates of a decided pair, or larger group, with their rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardedGroup {
    /// Place in the step.
    pub prompt: PromptIndex,
    /// Trajectory and reward of each candidate, in candidate order.
    pub candidates: Vec<RewardedCandidate>,
}

/// A trajectory with its reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RewardedCandidate {
    /// The trajectory blob.
    pub trajectory: Digest,
    /// `objective.reward_preferred` for the best rank, `objective.reward_dispreferred` for the worst, between them for the rest.
    pub reward: f64,
}

/// One sampled candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// The prompt.
    pub prompt: PromptIndex,
    /// Which of its candidates; 0 in an evaluation.
    pub candidate: Candidate,
    /// The trajectory blob; `None` in an evaluation.
    pub trajectory: Option<Digest>,
    /// The PNG.
    pub image: Digest,
}

/// A pair that gave no gradient although it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedPair {
    /// The pair.
    pub prompt: PromptIndex,
    /// What was not finite, in words.
    pub reason: String,
}

/// An input that a worker could not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// The blob.
    pub blob: Digest,
    /// Who is to blame.
    pub fault: Fault,
}

/// Why an input cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The store no longer has the bytes, or has others than were stored.
    Storage,
    /// The bytes are those that were stored, and not what the unit asks for: the worker that made them is not to be trusted.
    Producer,
}

/// Sums over the trained terms of a shard; means are taken when the step is complete.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardStatistics {
    /// Number of (candidate, timestep) terms.
    pub terms: u64,
    /// Sum of the KL estimates.
    pub kl: f64,
    /// Number of terms whose ratio was clipped.
    pub clipped: u64,
    /// Largest |ratio - 1|.
    pub ratio_deviation: f64,
    /// Sum of the losses before division.
    pub loss: f64,
}

/// What a worker returns for a unit. Seconds are wall-clock seconds of the work itself; `model` is the fingerprint of the
/// transformer, or of the judge, that the worker has loaded: the same for every worker of a run.
#[expect(missing_docs, reason = "the fields are named after the types that document them")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// Of [`Unit::Initialise`].
    Initialised { policy: Policy, model: Digest },
    /// Of [`Unit::Sample`] and [`Unit::EvaluateSample`]; ordered by prompt, then candidate.
    Sampled {
        samples: Vec<Sampled>,
        manifest: Option<Digest>,
        model: Digest,
        seconds: f64,
    },
    /// Of the three judge units; one record for each pair, in order.
    Judged {
        verdicts: Vec<VerdictRecord>,
        model: Digest,
        seconds: f64,
    },
    /// Of [`Unit::Gradient`]. `gradient` is absent when no pair of the shard gave one.
    Gradient {
        gradient: Option<Digest>,
        manifest: Digest,
        model: Digest,
        statistics: ShardStatistics,
        skipped: Vec<SkippedPair>,
        seconds: f64,
    },
    /// Of [`Unit::Commit`].
    Committed {
        policy: Policy,
        // What has diverged ends the run, and the ledger must be able to say so.
        #[serde(with = "any_number")]
        grad_norm: f64,
        learning_rate: f64,
        seconds: f64,
    },
}

impl Outcome {
    /// The fingerprint of the model that the worker had loaded; a commit needs none.
    pub fn model(&self) -> Option<&Digest> {
        match self {
            Self::Initialised { model, .. }
            | Self::Sampled { model, .. }
            | Self::Judged { model, .. }
            | Self::Gradient { model, .. } => Some(model),
            Self::Committed { .. } => None,
        }
    }
}

/// Numbers that JSON has no form for, as text.
mod any_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Number {
        Finite(f64),
        Other(String),
    }

    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        let number = if number.is_finite() {
            Number::Finite(*number)
        } else {
            Number::Other(number.to_string())
        };
        number.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Number::deserialize(deserializer)? {
            Number::Finite(number) => Ok(number),
            Number::Other(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diverged_commit_survives_the_ledger() {
        for grad_norm in [0.1, 3.0, f64::INFINITY, f64::NAN] {
            let outcome = Outcome::Committed {
                policy: Policy {
                    adapter: Digest::of(b"adapter"),
                    optimizer: Digest::of(b"optimizer"),
                    averaged: None,
                    manifest: Digest::of(b"manifest"),
                    tensors: 1,
                },
                grad_norm,
                learning_rate: 1e-4,
                seconds: 1.0,
            };
            let text = serde_json::to_string(&outcome).unwrap();
            let Outcome::Committed { grad_norm: found, .. } = serde_json::from_str(&text).unwrap() else {
                panic!("{text}")
            };
            assert_eq!(found.to_bits(), grad_norm.to_bits(), "{text}");
        }
    }
}
