//! What a worker is given with a unit.

use serde::{Deserialize, Serialize};

use super::{Arm, Orders, Policy, Task};
use crate::ids::{Digest, PromptIndex, Step, WorkerId};

/// What a worker needs to do a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Assignment {
    /// For [`Unit::Initialise`](super::Unit::Initialise).
    Initialise {
        /// The adapter that policy 0 is; `None` for a fresh one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adapter: Option<Digest>,
    },
    /// For [`Unit::Sample`](super::Unit::Sample).
    Sample {
        /// Optimizer step, part of every noise key.
        step: Step,
        /// The policy to sample from.
        policy: Policy,
        /// The chunk's prompts.
        prompts: Vec<PromptTask>,
    },
    /// For [`Unit::EvaluateSample`](super::Unit::EvaluateSample).
    EvaluateSample {
        /// Base, tuned, or a step's policy.
        arm: Arm,
        /// The policy; `None` for the base.
        policy: Option<Policy>,
        /// The chunk's prompts, held-out.
        prompts: Vec<PromptTask>,
    },
    /// For [`Unit::Judge`](super::Unit::Judge), [`Unit::HeldOutJudge`](super::Unit::HeldOutJudge), [`Unit::EvaluateJudge`](super::Unit::EvaluateJudge) and
    /// [`Unit::CalibrateJudge`](super::Unit::CalibrateJudge).
    Judge {
        /// The pairs, in order.
        pairs: Vec<Pair>,
    },
    /// For [`Unit::WriteRubric`](super::Unit::WriteRubric).
    WriteRubric {
        /// The prompt, with what it edits. The labelled pairs that the writer may be shown besides are among the run's files.
        task: Task,
    },
    /// For [`Unit::AnswerQuestions`](super::Unit::AnswerQuestions).
    AnswerQuestions {
        /// The prompt's index in the held-out set.
        prompt_index: PromptIndex,
        /// What the picture was made from: an edit is shown after its sources.
        task: Task,
        /// PNG of the picture.
        image: Digest,
        /// The questions, in order.
        questions: Vec<String>,
    },
    /// For [`Unit::Gradient`](super::Unit::Gradient).
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
    /// For [`Unit::Commit`](super::Unit::Commit).
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

    /// The same with nothing that spares a sampler the encoding. What it is handed depends on who was faster, and no byte of a
    /// result depends on it: two assignments ask for the same work when they are equal so.
    pub fn encoded_anew(&self) -> Self {
        let mut assignment = self.clone();
        if let Self::Sample { prompts, .. } = &mut assignment {
            prompts.iter_mut().for_each(|prompt| prompt.conditioning = None);
        }
        assignment
    }
}

/// A prompt to be sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTask {
    /// Its index in the step or in the held-out set.
    pub index: PromptIndex,
    /// What its pictures are made from.
    pub task: Task,
    /// The blob of what the denoiser is conditioned on, where an earlier result has named it; without it the sampler encodes the
    /// task. The candidates are the same either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditioning: Option<Digest>,
}

/// Two pictures of one prompt, to be judged: a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The prompt's index in the step, the held-out set or the labelled set.
    pub prompt_index: PromptIndex,
    /// What both pictures were made from.
    pub task: Task,
    /// PNG of the first candidate.
    pub first: Digest,
    /// PNG of the second candidate.
    pub second: Digest,
    /// The text of the rubric that decides about this prompt, a blob; `None` for the run's general one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rubric: Option<Digest>,
    /// In which image orders the judge is asked.
    #[serde(default, skip_serializing_if = "Orders::is_both")]
    pub orders: Orders,
}

/// The candidates of a decided group with their rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardedGroup {
    /// The prompt's index in the step.
    #[serde(rename = "prompt")]
    pub prompt_index: PromptIndex,
    /// What the candidates were conditioned on; `None` where each trajectory holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditioning: Option<Digest>,
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
