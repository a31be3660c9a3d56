//! Results that the coordinator can tell to be wrong without computing anything, and blobs that a worker can.

use gavel_core::ids::Digest;
use gavel_core::work::{Orders, Outcome, SkippedPair, Unit};

use super::chance::Chance;

/// Makes a unit's result wrong. Returns whether it could.
pub(super) fn twist(unit: &Unit, outcome: &mut Outcome, chance: &mut Chance) -> bool {
    if chance.happens(0.15) {
        // An outcome of another kind.
        *outcome = match outcome {
            Outcome::Judged { .. } => Outcome::Gradient {
                gradient: None,
                manifest: Digest::of(b"manifest"),
                model: Digest::of(b"transformer"),
                statistics: Default::default(),
                skipped: vec![],
                seconds: 0.0,
            },
            _ => Outcome::Judged {
                verdicts: vec![],
                model: Digest::of(b"judge"),
                spent: None,
                seconds: 0.0,
            },
        };
        return true;
    }
    if chance.happens(0.15) && twist_seconds(outcome, chance) {
        return true;
    }
    // The first result of a kind says which model the run works with, so that a lie in it is no contradiction.
    if let Outcome::Sampled { model, .. } | Outcome::Gradient { model, .. } = outcome
        && matches!(unit, Unit::Sample { .. } | Unit::Gradient { .. })
        && chance.happens(0.1)
    {
        *model = Digest::of(b"another model");
        return true;
    }
    match outcome {
        Outcome::Initialised { policy, .. } => policy.tensors = 0,
        Outcome::Sampled { samples, manifest, .. } => match chance.below(5) {
            0 => drop(samples.pop()),
            1 => samples.extend(samples.last().cloned()),
            2 if samples.len() > 1 => samples.swap(0, 1),
            3 if samples[0].trajectory.is_some() => samples[0].trajectory = None,
            // The base's pictures carry none.
            _ if manifest.is_some() => {
                *manifest = if chance.happens(0.5) {
                    None
                } else {
                    Some(Digest::of(b"another"))
                };
            }
            _ => return false,
        },
        Outcome::Judged { verdicts, .. } => match chance.below(6) {
            0 => drop(verdicts.pop()),
            1 => verdicts.extend(verdicts.last().cloned()),
            // Within a group it would be a wrong opinion, which nobody can tell from a right one.
            2 if verdicts.first().map(|record| record.prompt_index)
                != verdicts.last().map(|record| record.prompt_index) =>
            {
                let last = verdicts.len() - 1;
                verdicts.swap(0, last);
            }
            3 => verdicts[0].rubric = Digest::of(b"another rubric"),
            // What was not judged was asked in no order.
            4 if verdicts[0].is_judged() && !verdicts[0].is_too_alike() => {
                let orders = match verdicts[0].orders {
                    Orders::Both | Orders::Swapped => Orders::Straight,
                    Orders::Straight => Orders::Both,
                };
                verdicts[0].orders = orders;
            }
            _ => verdicts[0].order_probabilities[1] = chance.pick(&[f64::NAN, -0.1, 1.5]),
        },
        // Of a rubric only its readers can tell that it is none.
        Outcome::RubricWritten { .. } => return false,
        Outcome::QuestionsAnswered { answers, .. } => match chance.happens(0.5) {
            true => drop(answers.pop()),
            false => answers.extend(answers.last().cloned()),
        },
        Outcome::Gradient {
            gradient,
            manifest,
            statistics,
            skipped,
            ..
        } => match chance.below(7) {
            0 => *gradient = None,
            1 => *manifest = Digest::of(b"another"),
            2 => statistics.terms += 1_000,
            3 => statistics.kl = f64::NAN,
            4 => statistics.clipped = statistics.terms + 1,
            5 => statistics.loss = f64::INFINITY,
            _ => skipped.push(SkippedPair {
                prompt_index: gavel_core::ids::PromptIndex(1_000),
                reason: "loss is NaN".into(),
            }),
        },
        Outcome::Committed {
            policy,
            grad_norm,
            learning_rate,
            ..
        } => match chance.below(4) {
            0 => policy.manifest = Digest::of(b"another"),
            1 => *grad_norm = f64::NAN,
            2 => *learning_rate = -1.0,
            _ => {
                policy.averaged = if policy.averaged.is_some() {
                    None
                } else {
                    Some(policy.adapter)
                }
            }
        },
    }
    true
}

fn twist_seconds(outcome: &mut Outcome, chance: &mut Chance) -> bool {
    let wrong = chance.pick(&[f64::NAN, f64::INFINITY, -1.0]);
    match outcome {
        Outcome::Initialised { .. } => return false,
        Outcome::Sampled { seconds, .. }
        | Outcome::Judged { seconds, .. }
        | Outcome::RubricWritten { seconds, .. }
        | Outcome::QuestionsAnswered { seconds, .. }
        | Outcome::Gradient { seconds, .. }
        | Outcome::Committed { seconds, .. } => *seconds = wrong,
    }
    true
}

/// Replaces a blob that the next role will find to be wrong. Returns the wrong one.
pub(super) fn mislead(outcome: &mut Outcome, chance: &mut Chance) -> Option<Digest> {
    let bad = Digest::of(&chance.below(u64::MAX).to_le_bytes());
    match outcome {
        Outcome::Sampled { samples, .. } => {
            let which = chance.below(samples.len() as u64) as usize;
            samples[which].image = bad;
        }
        Outcome::Gradient {
            gradient: Some(gradient),
            ..
        } => *gradient = bad,
        Outcome::RubricWritten {
            rubric: Some(rubric), ..
        } => *rubric = bad,
        _ => return None,
    }
    Some(bad)
}
