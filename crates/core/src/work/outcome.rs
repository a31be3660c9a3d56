//! What a worker returns for a unit.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PictureAnswer, Policy, Spent, VerdictRecord};
use crate::ids::{Candidate, Digest, PromptIndex};

/// What a worker returns for a unit. Seconds are wall-clock seconds of the work itself; `model` is the fingerprint of the
/// transformer, or of the judge, that the worker has loaded: the same for every worker of a run.
#[expect(missing_docs, reason = "the fields are named after the types that document them")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// Of [`Unit::Initialise`](super::Unit::Initialise).
    Initialised { policy: Policy, model: Digest },
    /// Of [`Unit::Sample`](super::Unit::Sample) and [`Unit::EvaluateSample`](super::Unit::EvaluateSample); ordered by prompt, then candidate.
    Sampled {
        samples: Vec<Sampled>,
        manifest: Option<Digest>,
        model: Digest,
        seconds: f64,
    },
    /// Of the four judge units; one record for each pair, in order.
    ///
    /// `spent` is what the judge has asked of servers since its last result, attempts that failed included; absent where it
    /// asked none.
    Judged {
        verdicts: Vec<VerdictRecord>,
        model: Digest,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Spent>,
        seconds: f64,
    },
    /// Of [`Unit::WriteRubric`](super::Unit::WriteRubric). `rubric` is the text by which the judge decides, a blob that is named by the rubric's
    /// fingerprint; absent where the writer's answers were of no use, or decide worse than the general rubric: then that one decides.
    RubricWritten {
        rubric: Option<Digest>,
        model: Digest,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Spent>,
        seconds: f64,
    },
    /// Of [`Unit::AnswerQuestions`](super::Unit::AnswerQuestions); one answer for each question, in order.
    QuestionsAnswered {
        answers: Vec<PictureAnswer>,
        model: Digest,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Spent>,
        seconds: f64,
    },
    /// Of [`Unit::Gradient`](super::Unit::Gradient). `gradient` is absent when no pair of the shard gave one.
    Gradient {
        gradient: Option<Digest>,
        manifest: Digest,
        model: Digest,
        statistics: ShardStatistics,
        skipped: Vec<SkippedPair>,
        seconds: f64,
    },
    /// Of [`Unit::Commit`](super::Unit::Commit).
    Committed {
        policy: Policy,
        // What has diverged ends the run, and the ledger must be able to say so.
        #[serde(with = "any_number")]
        grad_norm: f64,
        learning_rate: f64,
        seconds: f64,
    },
}

/// The kind of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// [`Outcome::Initialised`].
    Initialised,
    /// [`Outcome::Sampled`].
    Sampled,
    /// [`Outcome::Judged`].
    Judged,
    /// [`Outcome::RubricWritten`].
    RubricWritten,
    /// [`Outcome::QuestionsAnswered`].
    QuestionsAnswered,
    /// [`Outcome::Gradient`].
    Gradient,
    /// [`Outcome::Committed`].
    Committed,
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initialised => "initialised",
            Self::Sampled => "sampled",
            Self::Judged => "judged",
            Self::RubricWritten => "rubric written",
            Self::QuestionsAnswered => "questions answered",
            Self::Gradient => "gradient",
            Self::Committed => "committed",
        })
    }
}

impl Outcome {
    /// Which kind this is.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Initialised { .. } => OutcomeKind::Initialised,
            Self::Sampled { .. } => OutcomeKind::Sampled,
            Self::Judged { .. } => OutcomeKind::Judged,
            Self::RubricWritten { .. } => OutcomeKind::RubricWritten,
            Self::QuestionsAnswered { .. } => OutcomeKind::QuestionsAnswered,
            Self::Gradient { .. } => OutcomeKind::Gradient,
            Self::Committed { .. } => OutcomeKind::Committed,
        }
    }

    /// The fingerprint of the model that the worker had loaded; a commit needs none.
    pub fn model(&self) -> Option<&Digest> {
        match self {
            Self::Initialised { model, .. }
            | Self::Sampled { model, .. }
            | Self::Judged { model, .. }
            | Self::RubricWritten { model, .. }
            | Self::QuestionsAnswered { model, .. }
            | Self::Gradient { model, .. } => Some(model),
            Self::Committed { .. } => None,
        }
    }

    /// What a judge has asked of servers; `None` where it asked none, and for the other roles.
    pub fn spent(&self) -> Option<&Spent> {
        match self {
            Self::Judged { spent, .. } | Self::RubricWritten { spent, .. } | Self::QuestionsAnswered { spent, .. } => {
                spent.as_ref()
            }
            Self::Initialised { .. } | Self::Sampled { .. } | Self::Gradient { .. } | Self::Committed { .. } => None,
        }
    }
}

/// One sampled candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// The prompt.
    #[serde(rename = "prompt")]
    pub prompt_index: PromptIndex,
    /// Which of its candidates; 0 in an evaluation.
    pub candidate: Candidate,
    /// The trajectory blob; `None` in an evaluation.
    pub trajectory: Option<Digest>,
    /// The blob of what the denoiser was conditioned on, one for all candidates of a task in all steps; `None` in an evaluation,
    /// and in results of before it was a blob of its own, whose trajectories hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditioning: Option<Digest>,
    /// The PNG.
    pub image: Digest,
}

/// A pair that gave no gradient although it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedPair {
    /// The pair.
    #[serde(rename = "prompt")]
    pub prompt_index: PromptIndex,
    /// What was not finite, in words.
    pub reason: String,
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
