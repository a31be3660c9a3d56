//! The pieces of a run that workers lease.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OutcomeKind, PromptPlace};
use crate::ids::{PromptIndex, Step};

/// What a worker can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Samples candidates from the policy.
    Sampler,
    /// Judges pairs.
    Judge,
    /// Computes gradients and optimizer steps.
    Trainer,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Sampler, Self::Judge, Self::Trainer];

    /// The role in one word: in log lines, labels of metrics and names of workers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sampler => "sampler",
            Self::Judge => "judge",
            Self::Trainer => "trainer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which policy an evaluation samples from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The frozen base, without the adapter.
    Base,
    /// The base with the adapter that this step committed, while the run goes on.
    Probe(Step),
    /// The base with the final adapter (its EMA where the run keeps one).
    Tuned,
}

impl Arm {
    /// What a comparison sets against the base: the policy of a probe, or at the end the tuned one.
    pub fn compared(probe: Option<Step>) -> Self {
        probe.map_or(Self::Tuned, Self::Probe)
    }
}

/// One leasable piece of a run. Its extent follows from the spec alone, never from how many workers there are, so that the
/// same unit is the same computation everywhere.
///
/// The order of the variants, and of the fields in each, is the order of urgency: of the units that a worker could do, it is
/// given the least one.
#[expect(missing_docs, reason = "the fields are named after the types that document them")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Unit {
    /// Create the initial adapter and optimizer state (policy version 0).
    Initialise,
    /// Sample every candidate of `sampling.batch` consecutive prompts of a step.
    Sample { step: Step, chunk: u32 },
    /// Judge `judge.batch` consecutive pairs, or all matches of as many larger groups, of a step.
    Judge { step: Step, chunk: u32 },
    /// Have the held-out judge look at its share of a judge chunk's pairs. Nothing is rewarded for what it says.
    HeldOutJudge { step: Step, chunk: u32 },
    /// Write what is to decide about the pictures of one prompt. It is asked for once, where the prompt stands first in the run's files, and
    /// comes before every judge unit that has a picture of the prompt.
    WriteRubric { place: PromptPlace },
    /// Sum the gradient of `trainer.shard` consecutive pairs, or larger groups, of a step.
    Gradient { step: Step, shard: u32 },
    /// Add the shards' gradients in shard order, take the optimizer step, store the new policy.
    Commit { step: Step },
    /// Sample held-out prompts deterministically.
    EvaluateSample { arm: Arm, chunk: u32 },
    /// Judge the tuned policy's held-out images against the base's, or those of the policy that `probe` committed.
    EvaluateJudge {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        probe: Option<Step>,
        chunk: u32,
    },
    /// Judge labelled pairs, to measure the judge itself.
    CalibrateJudge { chunk: u32 },
    /// Answer the questions about one held-out picture.
    AnswerQuestions { arm: Arm, prompt_index: PromptIndex },
}

impl Unit {
    /// Who does this.
    pub fn role(&self) -> Role {
        match self {
            Self::Sample { .. } | Self::EvaluateSample { .. } => Role::Sampler,
            Self::Judge { .. }
            | Self::HeldOutJudge { .. }
            | Self::WriteRubric { .. }
            | Self::EvaluateJudge { .. }
            | Self::CalibrateJudge { .. }
            | Self::AnswerQuestions { .. } => Role::Judge,
            Self::Initialise | Self::Gradient { .. } | Self::Commit { .. } => Role::Trainer,
        }
    }

    /// The kind of its result.
    pub fn outcome_kind(&self) -> OutcomeKind {
        match self {
            Self::Initialise => OutcomeKind::Initialised,
            Self::Sample { .. } | Self::EvaluateSample { .. } => OutcomeKind::Sampled,
            Self::Judge { .. }
            | Self::HeldOutJudge { .. }
            | Self::EvaluateJudge { .. }
            | Self::CalibrateJudge { .. } => OutcomeKind::Judged,
            Self::WriteRubric { .. } => OutcomeKind::RubricWritten,
            Self::AnswerQuestions { .. } => OutcomeKind::QuestionsAnswered,
            Self::Gradient { .. } => OutcomeKind::Gradient,
            Self::Commit { .. } => OutcomeKind::Committed,
        }
    }

    /// The step that this is a part of; `None` outside of training.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Sample { step, .. }
            | Self::Judge { step, .. }
            | Self::HeldOutJudge { step, .. }
            | Self::Gradient { step, .. }
            | Self::Commit { step } => Some(*step),
            Self::Initialise
            | Self::WriteRubric { .. }
            | Self::EvaluateSample { .. }
            | Self::EvaluateJudge { .. }
            | Self::CalibrateJudge { .. }
            | Self::AnswerQuestions { .. } => None,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialise => f.write_str("initialise"),
            Self::Sample { step, chunk } => write!(f, "sample chunk {chunk} of step {step}"),
            Self::Judge { step, chunk } => write!(f, "judge chunk {chunk} of step {step}"),
            Self::HeldOutJudge { step, chunk } => {
                write!(f, "judge chunk {chunk} of step {step} for the held-out judge")
            }
            Self::WriteRubric { place } => write!(f, "rubric of {place}"),
            Self::Gradient { step, shard } => write!(f, "gradient shard {shard} of step {step}"),
            Self::Commit { step } => write!(f, "commit of step {step}"),
            Self::EvaluateSample { arm: Arm::Base, chunk } => write!(f, "held-out sample chunk {chunk} of the base"),
            Self::EvaluateSample { arm: Arm::Tuned, chunk } => {
                write!(f, "held-out sample chunk {chunk} of the tuned policy")
            }
            Self::EvaluateSample {
                arm: Arm::Probe(step),
                chunk,
            } => {
                write!(f, "held-out sample chunk {chunk} of step {step}'s policy")
            }
            Self::EvaluateJudge { probe: None, chunk } => write!(f, "held-out judge chunk {chunk}"),
            Self::EvaluateJudge {
                probe: Some(step),
                chunk,
            } => {
                write!(f, "held-out judge chunk {chunk} of step {step}'s policy")
            }
            Self::CalibrateJudge { chunk } => write!(f, "labelled judge chunk {chunk}"),
            Self::AnswerQuestions { arm, prompt_index } => {
                let whose = match arm {
                    Arm::Base => "the base's".to_owned(),
                    Arm::Tuned => "the tuned policy's".to_owned(),
                    Arm::Probe(step) => format!("step {step}'s"),
                };
                write!(f, "questions about {whose} picture of held-out prompt {prompt_index}")
            }
        }
    }
}
