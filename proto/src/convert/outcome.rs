//! What a worker returns.

use gavel_core::bounds::{QUESTIONS_EACH, VERDICTS, VOTES, cut};
use gavel_core::ids::{Candidate, PromptIndex};
use gavel_core::work::{AbstainReason, Reason, Side, Spent, Usage, Verdict, VerdictRecord, Vote};
use gavel_core::work::{Fault, Outcome, PictureAnswer, Sampled, ShardStatistics, SkippedPair, Unusable};

use super::assignment::orders;
use super::{Malformed, all, bytes, digest, each, few, optional_digest, required};
use crate::v1;
use crate::v1::outcome::Kind;

impl From<Sampled> for v1::Sample {
    fn from(sampled: Sampled) -> Self {
        Self {
            prompt: sampled.prompt_index.0,
            candidate: sampled.candidate.0.into(),
            trajectory: sampled.trajectory.map(bytes),
            conditioning: sampled.conditioning.map(bytes),
            image: bytes(sampled.image),
        }
    }
}

impl TryFrom<v1::Sample> for Sampled {
    type Error = Malformed;

    fn try_from(sample: v1::Sample) -> Result<Self, Malformed> {
        let candidate = u8::try_from(sample.candidate).map_err(|_| Malformed::Range {
            field: "Sample.candidate",
            found: sample.candidate.into(),
        })?;
        Ok(Self {
            prompt_index: PromptIndex(sample.prompt),
            candidate: Candidate(candidate),
            trajectory: optional_digest(sample.trajectory.as_deref(), "Sample.trajectory")?,
            conditioning: optional_digest(sample.conditioning.as_deref(), "Sample.conditioning")?,
            image: digest(&sample.image, "Sample.image")?,
        })
    }
}

impl From<PictureAnswer> for v1::PictureAnswer {
    fn from(answer: PictureAnswer) -> Self {
        use v1::picture_answer::Kind;
        let said = |said: v1::YesOrNo| Kind::Said(said.into());
        Self {
            kind: Some(match answer {
                PictureAnswer::Yes => said(v1::YesOrNo::Yes),
                PictureAnswer::No => said(v1::YesOrNo::No),
                PictureAnswer::Neither => said(v1::YesOrNo::Neither),
                PictureAnswer::Unanswered { reason } => Kind::Unanswered(reason),
            }),
        }
    }
}

impl TryFrom<v1::PictureAnswer> for PictureAnswer {
    type Error = Malformed;

    fn try_from(answer: v1::PictureAnswer) -> Result<Self, Malformed> {
        use v1::picture_answer::Kind;
        let field = "PictureAnswer.said";
        match required(answer.kind, "PictureAnswer.kind")? {
            Kind::Said(number) => match v1::YesOrNo::try_from(number) {
                Ok(v1::YesOrNo::Yes) => Ok(Self::Yes),
                Ok(v1::YesOrNo::No) => Ok(Self::No),
                Ok(v1::YesOrNo::Neither) => Ok(Self::Neither),
                Ok(v1::YesOrNo::Unspecified) => Err(Malformed::Missing { field }),
                Err(_) => Err(Malformed::Range {
                    field,
                    found: number.into(),
                }),
            },
            Kind::Unanswered(reason) => Ok(Self::Unanswered { reason: cut(reason) }),
        }
    }
}

impl From<Verdict> for v1::Verdict {
    fn from(verdict: Verdict) -> Self {
        use v1::verdict::Kind;
        let kind = match verdict {
            Verdict::Preferred { side } => Kind::Preferred(
                match side {
                    Side::First => v1::Side::First,
                    Side::Second => v1::Side::Second,
                }
                .into(),
            ),
            Verdict::Abstain { reason } => Kind::Abstain(
                match reason {
                    AbstainReason::OrdersDisagree => v1::AbstainReason::OrdersDisagree,
                    AbstainReason::TooClose => v1::AbstainReason::TooClose,
                    AbstainReason::OutsideLabels => v1::AbstainReason::OutsideLabels,
                    AbstainReason::NoMajority => v1::AbstainReason::NoMajority,
                    AbstainReason::Vetoed => v1::AbstainReason::Vetoed,
                    AbstainReason::TooAlike => v1::AbstainReason::TooAlike,
                }
                .into(),
            ),
            Verdict::Failed { reason } => Kind::Failed(reason),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Verdict> for Verdict {
    type Error = Malformed;

    fn try_from(verdict: v1::Verdict) -> Result<Self, Malformed> {
        use v1::verdict::Kind;
        Ok(match required(verdict.kind, "Verdict.kind")? {
            Kind::Preferred(number) => Self::Preferred {
                side: match v1::Side::try_from(number) {
                    Ok(v1::Side::First) => Side::First,
                    Ok(v1::Side::Second) => Side::Second,
                    Ok(v1::Side::Unspecified) => {
                        return Err(Malformed::Missing {
                            field: "Verdict.preferred",
                        });
                    }
                    Err(_) => {
                        return Err(Malformed::Range {
                            field: "Verdict.preferred",
                            found: number.into(),
                        });
                    }
                },
            },
            Kind::Abstain(number) => Self::Abstain {
                reason: match v1::AbstainReason::try_from(number) {
                    Ok(v1::AbstainReason::OrdersDisagree) => AbstainReason::OrdersDisagree,
                    Ok(v1::AbstainReason::TooClose) => AbstainReason::TooClose,
                    Ok(v1::AbstainReason::OutsideLabels) => AbstainReason::OutsideLabels,
                    Ok(v1::AbstainReason::NoMajority) => AbstainReason::NoMajority,
                    Ok(v1::AbstainReason::Vetoed) => AbstainReason::Vetoed,
                    Ok(v1::AbstainReason::TooAlike) => AbstainReason::TooAlike,
                    Ok(v1::AbstainReason::Unspecified) => {
                        return Err(Malformed::Missing {
                            field: "Verdict.abstain",
                        });
                    }
                    Err(_) => {
                        return Err(Malformed::Range {
                            field: "Verdict.abstain",
                            found: number.into(),
                        });
                    }
                },
            },
            Kind::Failed(reason) => Self::Failed { reason: cut(reason) },
        })
    }
}

impl From<VerdictRecord> for v1::VerdictRecord {
    fn from(record: VerdictRecord) -> Self {
        let [first, second] = record.order_probabilities;
        Self {
            prompt: record.prompt_index.0,
            verdict: Some(record.verdict.into()),
            probability_first: record.probability_first,
            first_order_probability: first,
            second_order_probability: second,
            rubric: bytes(record.rubric),
            votes: each(record.votes),
            reasons: each(record.reasons),
            difference: record.difference,
            scores: record.scores.into_iter().flatten().collect(),
            orders: v1::Orders::from(record.orders).into(),
        }
    }
}

impl TryFrom<v1::VerdictRecord> for VerdictRecord {
    type Error = Malformed;

    fn try_from(record: v1::VerdictRecord) -> Result<Self, Malformed> {
        Ok(Self {
            prompt_index: PromptIndex(record.prompt),
            verdict: required(record.verdict, "VerdictRecord.verdict")?.try_into()?,
            probability_first: record.probability_first,
            order_probabilities: [record.first_order_probability, record.second_order_probability],
            rubric: digest(&record.rubric, "VerdictRecord.rubric")?,
            votes: few(record.votes, VOTES, "VerdictRecord.votes")?,
            reasons: few(record.reasons, VOTES, "VerdictRecord.reasons")?,
            difference: record.difference,
            scores: scores(&record.scores)?,
            orders: orders(record.orders, "VerdictRecord.orders")?,
        })
    }
}

/// Two, or none.
fn scores(scores: &[f64]) -> Result<Option<[f64; 2]>, Malformed> {
    match scores {
        [] => Ok(None),
        [first, second] => Ok(Some([*first, *second])),
        others => Err(Malformed::Range {
            field: "VerdictRecord.scores",
            found: others.len() as i64,
        }),
    }
}

impl From<Spent> for v1::Spent {
    fn from(spent: Spent) -> Self {
        let Usage {
            prompt_tokens,
            completion_tokens,
        } = spent.usage;
        Self {
            requests: spent.requests,
            failures: spent.failures,
            prompt_tokens,
            completion_tokens,
            cost: spent.cost,
        }
    }
}

impl From<v1::Spent> for Spent {
    fn from(spent: v1::Spent) -> Self {
        Self {
            requests: spent.requests,
            failures: spent.failures,
            usage: Usage {
                prompt_tokens: spent.prompt_tokens,
                completion_tokens: spent.completion_tokens,
            },
            cost: spent.cost,
        }
    }
}

impl From<Vote> for v1::Vote {
    fn from(vote: Vote) -> Self {
        Self {
            judge: vote.judge,
            weight: vote.weight,
            verdict: Some(vote.verdict.into()),
            veto: vote.veto,
        }
    }
}

impl TryFrom<v1::Vote> for Vote {
    type Error = Malformed;

    fn try_from(vote: v1::Vote) -> Result<Self, Malformed> {
        Ok(Self {
            judge: cut(vote.judge),
            weight: vote.weight,
            verdict: required(vote.verdict, "Vote.verdict")?.try_into()?,
            veto: vote.veto,
        })
    }
}

impl From<Reason> for v1::Reason {
    fn from(reason: Reason) -> Self {
        Self {
            theme: reason.theme,
            verdict: Some(reason.verdict.into()),
            probability_first: reason.probability_first,
            sentence: reason.sentence,
        }
    }
}

impl TryFrom<v1::Reason> for Reason {
    type Error = Malformed;

    fn try_from(reason: v1::Reason) -> Result<Self, Malformed> {
        Ok(Self {
            theme: reason.theme.map(cut),
            verdict: required(reason.verdict, "Reason.verdict")?.try_into()?,
            probability_first: reason.probability_first,
            sentence: reason.sentence.map(cut),
        })
    }
}

impl From<SkippedPair> for v1::SkippedPair {
    fn from(pair: SkippedPair) -> Self {
        Self {
            prompt: pair.prompt_index.0,
            reason: pair.reason,
        }
    }
}

impl TryFrom<v1::SkippedPair> for SkippedPair {
    type Error = Malformed;

    fn try_from(pair: v1::SkippedPair) -> Result<Self, Malformed> {
        Ok(Self {
            prompt_index: PromptIndex(pair.prompt),
            reason: cut(pair.reason),
        })
    }
}

impl From<ShardStatistics> for v1::ShardStatistics {
    fn from(statistics: ShardStatistics) -> Self {
        let ShardStatistics {
            terms,
            kl,
            clipped,
            ratio_deviation,
            loss,
        } = statistics;
        Self {
            terms,
            kl,
            clipped,
            ratio_deviation,
            loss,
        }
    }
}

impl From<v1::ShardStatistics> for ShardStatistics {
    fn from(statistics: v1::ShardStatistics) -> Self {
        let v1::ShardStatistics {
            terms,
            kl,
            clipped,
            ratio_deviation,
            loss,
        } = statistics;
        Self {
            terms,
            kl,
            clipped,
            ratio_deviation,
            loss,
        }
    }
}

impl From<Unusable> for v1::Unusable {
    fn from(unusable: Unusable) -> Self {
        let fault = match unusable.fault {
            Fault::Storage => v1::Fault::Storage,
            Fault::Producer => v1::Fault::Producer,
        };
        Self {
            blob: bytes(unusable.blob),
            fault: fault.into(),
        }
    }
}

impl TryFrom<v1::Unusable> for Unusable {
    type Error = Malformed;

    fn try_from(unusable: v1::Unusable) -> Result<Self, Malformed> {
        let fault = match v1::Fault::try_from(unusable.fault) {
            Ok(v1::Fault::Storage) => Fault::Storage,
            Ok(v1::Fault::Producer) => Fault::Producer,
            Ok(v1::Fault::Unspecified) => {
                return Err(Malformed::Missing {
                    field: "Unusable.fault",
                });
            }
            Err(_) => {
                return Err(Malformed::Range {
                    field: "Unusable.fault",
                    found: unusable.fault.into(),
                });
            }
        };
        Ok(Self {
            blob: digest(&unusable.blob, "Unusable.blob")?,
            fault,
        })
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        let kind = match outcome {
            Outcome::Initialised { policy, model } => Kind::Initialised(v1::outcome::Initialised {
                policy: Some(policy.into()),
                model: bytes(model),
            }),
            Outcome::Sampled {
                samples,
                manifest,
                model,
                seconds,
            } => Kind::Sampled(v1::outcome::Sampled {
                samples: each(samples),
                manifest: manifest.map(bytes),
                model: bytes(model),
                seconds,
            }),
            Outcome::Judged {
                verdicts,
                model,
                spent,
                seconds,
            } => Kind::Judged(v1::outcome::Judged {
                verdicts: each(verdicts),
                model: bytes(model),
                spent: spent.map(Into::into),
                seconds,
            }),
            Outcome::RubricWritten {
                rubric,
                model,
                spent,
                seconds,
            } => Kind::RubricWritten(v1::outcome::RubricWritten {
                rubric: rubric.map(bytes),
                model: bytes(model),
                spent: spent.map(Into::into),
                seconds,
            }),
            Outcome::QuestionsAnswered {
                answers,
                model,
                spent,
                seconds,
            } => Kind::QuestionsAnswered(v1::outcome::QuestionsAnswered {
                answers: each(answers),
                model: bytes(model),
                spent: spent.map(Into::into),
                seconds,
            }),
            Outcome::Gradient {
                gradient,
                manifest,
                model,
                statistics,
                skipped,
                seconds,
            } => Kind::Gradient(v1::outcome::Gradient {
                gradient: gradient.map(bytes),
                manifest: bytes(manifest),
                model: bytes(model),
                statistics: Some(statistics.into()),
                skipped: each(skipped),
                seconds,
            }),
            Outcome::Committed {
                policy,
                grad_norm,
                learning_rate,
                seconds,
            } => Kind::Committed(v1::outcome::Committed {
                policy: Some(policy.into()),
                grad_norm,
                learning_rate,
                seconds,
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = Malformed;

    fn try_from(outcome: v1::Outcome) -> Result<Self, Malformed> {
        Ok(match required(outcome.kind, "Outcome.kind")? {
            Kind::Initialised(initialised) => Self::Initialised {
                policy: required(initialised.policy, "Outcome.Initialised.policy")?.try_into()?,
                model: digest(&initialised.model, "Outcome.Initialised.model")?,
            },
            Kind::Sampled(sampled) => Self::Sampled {
                samples: all(sampled.samples)?,
                manifest: optional_digest(sampled.manifest.as_deref(), "Outcome.Sampled.manifest")?,
                model: digest(&sampled.model, "Outcome.Sampled.model")?,
                seconds: sampled.seconds,
            },
            Kind::Judged(judged) => Self::Judged {
                verdicts: few(judged.verdicts, VERDICTS, "Outcome.Judged.verdicts")?,
                model: digest(&judged.model, "Outcome.Judged.model")?,
                spent: judged.spent.map(Into::into),
                seconds: judged.seconds,
            },
            Kind::RubricWritten(written) => Self::RubricWritten {
                rubric: optional_digest(written.rubric.as_deref(), "Outcome.RubricWritten.rubric")?,
                model: digest(&written.model, "Outcome.RubricWritten.model")?,
                spent: written.spent.map(Into::into),
                seconds: written.seconds,
            },
            Kind::QuestionsAnswered(answered) => Self::QuestionsAnswered {
                answers: few(answered.answers, QUESTIONS_EACH, "Outcome.QuestionsAnswered.answers")?,
                model: digest(&answered.model, "Outcome.QuestionsAnswered.model")?,
                spent: answered.spent.map(Into::into),
                seconds: answered.seconds,
            },
            Kind::Gradient(gradient) => Self::Gradient {
                gradient: optional_digest(gradient.gradient.as_deref(), "Outcome.Gradient.gradient")?,
                manifest: digest(&gradient.manifest, "Outcome.Gradient.manifest")?,
                model: digest(&gradient.model, "Outcome.Gradient.model")?,
                statistics: required(gradient.statistics, "Outcome.Gradient.statistics")?.into(),
                skipped: all(gradient.skipped)?,
                seconds: gradient.seconds,
            },
            Kind::Committed(committed) => Self::Committed {
                policy: required(committed.policy, "Outcome.Committed.policy")?.try_into()?,
                grad_norm: committed.grad_norm,
                learning_rate: committed.learning_rate,
                seconds: committed.seconds,
            },
        })
    }
}
