//! Results paired with their units: what a result means depends on the unit that it is of.

use super::{Refusal, ShardResult};
use crate::ids::{Digest, PromptIndex, Step};
use crate::work::{Arm, Outcome, PictureAnswer, Policy, PromptPlace, Sampled, SkippedPair, Spent, Unit, VerdictRecord};

/// A result of the kind that its unit asks for.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) unit: Unit,
    /// The model that the worker had loaded; a commit needs none.
    pub(super) model: Option<Digest>,
    /// How long the work took; the initial policy is not timed.
    pub(super) seconds: Option<f64>,
    /// What a judge has asked of servers for it.
    pub(super) spent: Option<Spent>,
    pub(super) result: UnitResult,
}

/// Every pair of a unit and its result that there is.
#[derive(Debug)]
pub(super) enum UnitResult {
    Initialised(Policy),
    Sampled {
        from: SampledFor,
        samples: Vec<Sampled>,
        manifest: Option<Digest>,
    },
    Judged {
        of: JudgedOf,
        verdicts: Vec<VerdictRecord>,
    },
    RubricWritten {
        place: PromptPlace,
        rubric: Option<Digest>,
    },
    QuestionsAnswered {
        arm: Arm,
        prompt_index: PromptIndex,
        answers: Vec<PictureAnswer>,
    },
    Gradient {
        step: Step,
        shard: u32,
        result: ShardResult,
        manifest: Digest,
        skipped: Vec<SkippedPair>,
    },
    Committed {
        policy: Policy,
        grad_norm: f64,
        learning_rate: f64,
    },
}

/// What pictures were sampled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SampledFor {
    Step(Step),
    Evaluation(Arm),
}

/// Which pairs a judge unit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JudgedOf {
    Step(Step),
    /// The held-out judge's share of a step.
    HeldOut(Step),
    /// Base and a probe's policy, or without one the tuned policy.
    Comparison(Option<Step>),
    Calibration,
}

impl JudgedOf {
    /// The pairs of a unit; `None` where the unit is no judge's.
    pub(super) fn unit(unit: &Unit) -> Option<Self> {
        match *unit {
            Unit::Judge { step, .. } => Some(Self::Step(step)),
            Unit::HeldOutJudge { step, .. } => Some(Self::HeldOut(step)),
            Unit::EvaluateJudge { probe, .. } => Some(Self::Comparison(probe)),
            Unit::CalibrateJudge { .. } => Some(Self::Calibration),
            Unit::Initialise
            | Unit::Sample { .. }
            | Unit::WriteRubric { .. }
            | Unit::Gradient { .. }
            | Unit::Commit { .. }
            | Unit::EvaluateSample { .. }
            | Unit::AnswerQuestions { .. } => None,
        }
    }
}

impl Completion {
    /// Pairs a result with its unit.
    ///
    /// # Errors
    /// [`Refusal::WrongOutcome`]: the unit asks for a result of another kind.
    pub(super) fn new(unit: Unit, outcome: Outcome) -> Result<Self, Refusal> {
        let (model, spent) = (outcome.model().copied(), outcome.spent().copied());
        let (seconds, result) = match (unit, outcome) {
            (Unit::Initialise, Outcome::Initialised { policy, .. }) => (None, UnitResult::Initialised(policy)),
            (
                Unit::Sample { step, .. },
                Outcome::Sampled {
                    samples,
                    manifest,
                    seconds,
                    ..
                },
            ) => {
                let from = SampledFor::Step(step);
                (
                    Some(seconds),
                    UnitResult::Sampled {
                        from,
                        samples,
                        manifest,
                    },
                )
            }
            (
                Unit::EvaluateSample { arm, .. },
                Outcome::Sampled {
                    samples,
                    manifest,
                    seconds,
                    ..
                },
            ) => {
                let from = SampledFor::Evaluation(arm);
                (
                    Some(seconds),
                    UnitResult::Sampled {
                        from,
                        samples,
                        manifest,
                    },
                )
            }
            (Unit::Judge { step, .. }, Outcome::Judged { verdicts, seconds, .. }) => {
                let of = JudgedOf::Step(step);
                (Some(seconds), UnitResult::Judged { of, verdicts })
            }
            (Unit::HeldOutJudge { step, .. }, Outcome::Judged { verdicts, seconds, .. }) => {
                let of = JudgedOf::HeldOut(step);
                (Some(seconds), UnitResult::Judged { of, verdicts })
            }
            (Unit::EvaluateJudge { probe, .. }, Outcome::Judged { verdicts, seconds, .. }) => {
                let of = JudgedOf::Comparison(probe);
                (Some(seconds), UnitResult::Judged { of, verdicts })
            }
            (Unit::CalibrateJudge { .. }, Outcome::Judged { verdicts, seconds, .. }) => {
                let of = JudgedOf::Calibration;
                (Some(seconds), UnitResult::Judged { of, verdicts })
            }
            (Unit::WriteRubric { place }, Outcome::RubricWritten { rubric, seconds, .. }) => {
                (Some(seconds), UnitResult::RubricWritten { place, rubric })
            }
            (Unit::AnswerQuestions { arm, prompt_index }, Outcome::QuestionsAnswered { answers, seconds, .. }) => {
                let result = UnitResult::QuestionsAnswered {
                    arm,
                    prompt_index,
                    answers,
                };
                (Some(seconds), result)
            }
            (
                Unit::Gradient { step, shard },
                Outcome::Gradient {
                    gradient,
                    manifest,
                    statistics,
                    skipped,
                    seconds,
                    ..
                },
            ) => {
                let result = UnitResult::Gradient {
                    step,
                    shard,
                    result: ShardResult { gradient, statistics },
                    manifest,
                    skipped,
                };
                (Some(seconds), result)
            }
            (
                Unit::Commit { .. },
                Outcome::Committed {
                    policy,
                    grad_norm,
                    learning_rate,
                    seconds,
                },
            ) => {
                let result = UnitResult::Committed {
                    policy,
                    grad_norm,
                    learning_rate,
                };
                (Some(seconds), result)
            }
            // Each unit is named, so that a new one does not compile before it is paired above.
            (
                Unit::Initialise
                | Unit::Sample { .. }
                | Unit::Judge { .. }
                | Unit::HeldOutJudge { .. }
                | Unit::WriteRubric { .. }
                | Unit::Gradient { .. }
                | Unit::Commit { .. }
                | Unit::EvaluateSample { .. }
                | Unit::EvaluateJudge { .. }
                | Unit::CalibrateJudge { .. }
                | Unit::AnswerQuestions { .. },
                outcome,
            ) => {
                return Err(Refusal::WrongOutcome {
                    unit,
                    expected: unit.outcome_kind(),
                    found: outcome.kind(),
                });
            }
        };
        Ok(Self {
            unit,
            model,
            seconds,
            spent,
            result,
        })
    }
}
