//! What was done again, beside what was recorded. Seconds are not compared; everything else must be equal, bit for bit.

use std::collections::BTreeMap;

use gavel_core::ids::Digest;
use gavel_core::work::{Outcome, Policy, Sampled, Unit, VerdictRecord};

/// How many things of a kind were equal.
pub(crate) type Equal = BTreeMap<&'static str, usize>;

/// Counts what is equal.
///
/// # Errors
/// The first difference, in words.
pub(crate) fn compare(unit: &Unit, recorded: &Outcome, again: &Outcome) -> Result<Equal, String> {
    let mut tally = Tally {
        unit,
        equal: Equal::new(),
    };
    if let (Some(recorded), Some(again)) = (recorded.model(), again.model())
        && recorded != again
    {
        return Err(format!(
            "{unit}: the model folder is another one; the ledger has fingerprint {recorded}, this one is {again}"
        ));
    }
    match (recorded, again) {
        (Outcome::Initialised { policy: recorded, .. }, Outcome::Initialised { policy: again, .. }) => {
            tally.policy(recorded, again)?;
        }
        (
            Outcome::Sampled {
                samples: recorded,
                manifest: bound,
                ..
            },
            Outcome::Sampled {
                samples: again,
                manifest: bound_again,
                ..
            },
        ) => {
            tally.count("samples", recorded.len(), again.len())?;
            for (recorded, again) in recorded.iter().zip(again) {
                tally.sample(recorded, again)?;
            }
            tally.manifest(bound.as_ref(), bound_again.as_ref())?;
        }
        (Outcome::Judged { verdicts: recorded, .. }, Outcome::Judged { verdicts: again, .. }) => {
            tally.count("verdicts", recorded.len(), again.len())?;
            for (recorded, again) in recorded.iter().zip(again) {
                tally.verdict(recorded, again)?;
            }
        }
        (Outcome::QuestionsAnswered { answers: recorded, .. }, Outcome::QuestionsAnswered { answers: again, .. }) => {
            tally.debug("answers", recorded, again)?
        }
        (
            Outcome::Gradient {
                gradient,
                manifest,
                statistics,
                skipped,
                ..
            },
            Outcome::Gradient {
                gradient: gradient_again,
                manifest: manifest_again,
                statistics: statistics_again,
                skipped: skipped_again,
                ..
            },
        ) => {
            tally.debug("the skipped pairs", skipped, skipped_again)?;
            tally.debug("statistics", statistics, statistics_again)?;
            tally.manifest(Some(manifest), Some(manifest_again))?;
            tally.digest(
                "gradients",
                "the gradient sum",
                gradient.as_ref(),
                gradient_again.as_ref(),
            )?;
        }
        (
            Outcome::Committed {
                policy,
                grad_norm,
                learning_rate,
                ..
            },
            Outcome::Committed {
                policy: policy_again,
                grad_norm: grad_norm_again,
                learning_rate: learning_rate_again,
                ..
            },
        ) => {
            tally.debug("learning rate", learning_rate, learning_rate_again)?;
            tally.debug("gradient norm", grad_norm, grad_norm_again)?;
            tally.policy(policy, policy_again)?;
        }
        (recorded, again) => {
            return Err(format!("{unit}: the ledger has {recorded:?}, again it is {again:?}"));
        }
    }
    Ok(tally.equal)
}

struct Tally<'a> {
    unit: &'a Unit,
    equal: Equal,
}

impl Tally<'_> {
    fn policy(&mut self, recorded: &Policy, again: &Policy) -> Result<(), String> {
        self.manifest(Some(&recorded.manifest), Some(&again.manifest))?;
        self.debug("the number of adapter tensors", &recorded.tensors, &again.tensors)?;
        for (kind, what, recorded, again) in [
            ("adapter", "the adapter", Some(&recorded.adapter), Some(&again.adapter)),
            (
                "optimizer state",
                "the optimizer state",
                Some(&recorded.optimizer),
                Some(&again.optimizer),
            ),
            (
                "averaged adapter",
                "the averaged adapter",
                recorded.averaged.as_ref(),
                again.averaged.as_ref(),
            ),
        ] {
            self.digest(kind, what, recorded, again)?;
        }
        Ok(())
    }

    fn sample(&mut self, recorded: &Sampled, again: &Sampled) -> Result<(), String> {
        let position = |sampled: &Sampled| format!("prompt {}, candidate {}", sampled.prompt_index, sampled.candidate);
        let at = position(recorded);
        self.debug("the candidate's position", &at, &position(again))?;
        self.digest(
            "trajectories",
            &format!("{at}: the trajectory"),
            recorded.trajectory.as_ref(),
            again.trajectory.as_ref(),
        )?;
        self.digest(
            "conditionings",
            &format!("{at}: the conditioning"),
            recorded.conditioning.as_ref(),
            again.conditioning.as_ref(),
        )?;
        self.digest(
            "images",
            &format!("{at}: the image"),
            Some(&recorded.image),
            Some(&again.image),
        )
    }

    fn verdict(&mut self, recorded: &VerdictRecord, again: &VerdictRecord) -> Result<(), String> {
        // A record of before differences and scores were written down says nothing of them.
        let again = &VerdictRecord {
            difference: recorded.difference.and(again.difference),
            scores: recorded.scores.and(again.scores),
            ..again.clone()
        };
        if recorded != again {
            return Err(format!(
                "{}, pair {}: the ledger has {}, again it is {}",
                self.unit,
                recorded.prompt_index,
                json(recorded),
                json(again)
            ));
        }
        *self.equal.entry("verdicts").or_default() += 1;
        Ok(())
    }

    fn manifest(&mut self, recorded: Option<&Digest>, again: Option<&Digest>) -> Result<(), String> {
        self.digest("manifests", "the manifest of the adapter", recorded, again)
    }

    fn digest(
        &mut self,
        kind: &'static str,
        what: &str,
        recorded: Option<&Digest>,
        again: Option<&Digest>,
    ) -> Result<(), String> {
        if recorded != again {
            let text = |digest: Option<&Digest>| digest.map_or("none".to_owned(), Digest::to_string);
            return Err(format!(
                "{}, {what}: the ledger has {}, again it is {}",
                self.unit,
                text(recorded),
                text(again)
            ));
        }
        if recorded.is_some() {
            *self.equal.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    fn debug<T: PartialEq + std::fmt::Debug>(&self, what: &str, recorded: &T, again: &T) -> Result<(), String> {
        if recorded == again {
            return Ok(());
        }
        Err(format!(
            "{}, {what}: the ledger has {recorded:?}, again it is {again:?}",
            self.unit
        ))
    }

    fn count(&self, what: &str, recorded: usize, again: usize) -> Result<(), String> {
        self.debug(&format!("the number of {what}"), &recorded, &again)
    }
}

fn json(record: &VerdictRecord) -> String {
    serde_json::to_string(record).unwrap_or_else(|_| format!("{record:?}"))
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::{Candidate, PromptIndex, Step};
    use gavel_core::work::{Orders, ShardStatistics};
    use gavel_core::work::{Side, Verdict};

    use super::*;

    fn sampled(trajectory: &[u8], seconds: f64) -> Outcome {
        Outcome::Sampled {
            samples: vec![Sampled {
                prompt_index: PromptIndex(3),
                candidate: Candidate(1),
                trajectory: Some(Digest::of(trajectory)),
                conditioning: Some(Digest::of(b"conditioning")),
                image: Digest::of(b"image"),
            }],
            manifest: Some(Digest::of(b"manifest")),
            model: Digest::of(b"model"),
            seconds,
        }
    }

    fn difference(unit: Unit, recorded: &Outcome, again: &Outcome) -> String {
        compare(&unit, recorded, again).unwrap_err()
    }

    #[test]
    fn equal_work_is_counted_whatever_time_it_took() {
        let unit = Unit::Sample {
            step: Step(2),
            chunk: 0,
        };
        let equal = compare(&unit, &sampled(b"a", 1.0), &sampled(b"a", 2.0)).unwrap();
        assert_eq!(
            equal,
            Equal::from([
                ("conditionings", 1),
                ("images", 1),
                ("manifests", 1),
                ("trajectories", 1)
            ])
        );
    }

    #[test]
    fn the_first_difference_is_named_with_its_place_and_both_values() {
        let unit = Unit::Sample {
            step: Step(2),
            chunk: 0,
        };
        let text = difference(unit, &sampled(b"a", 1.0), &sampled(b"b", 1.0));
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(
            text,
            format!(
                "sample chunk 0 of step 2, prompt 3, candidate 1: the trajectory: the ledger has {a}, again it is {b}"
            )
        );
    }

    #[test]
    fn another_model_folder_is_told_before_what_follows_from_it() {
        let unit = Unit::Sample {
            step: Step(2),
            chunk: 0,
        };
        let mut other = sampled(b"b", 1.0);
        if let Outcome::Sampled { model, .. } = &mut other {
            *model = Digest::of(b"another");
        }
        let text = difference(unit, &sampled(b"a", 1.0), &other);
        assert!(text.contains("the model folder is another one"), "{text}");
    }

    #[test]
    fn a_verdict_on_the_other_side_and_a_statistic_off_by_one_bit_differ() {
        let judged = |side| Outcome::Judged {
            verdicts: vec![VerdictRecord {
                prompt_index: PromptIndex(0),
                verdict: Verdict::Preferred { side },
                probability_first: 0.75,
                order_probabilities: [0.5, 1.0],
                rubric: Digest::of(b"rubric"),
                votes: Vec::new(),
                reasons: Vec::new(),
                difference: None,
                scores: None,
                orders: Orders::Both,
            }],
            model: Digest::of(b"judge"),
            spent: None,
            seconds: 0.0,
        };
        let unit = Unit::Judge {
            step: Step(1),
            chunk: 0,
        };
        let text = difference(unit, &judged(Side::Second), &judged(Side::First));
        assert!(
            text.starts_with("judge chunk 0 of step 1, pair 0: the ledger has "),
            "{text}"
        );

        let gradient = |loss: f64| Outcome::Gradient {
            gradient: None,
            manifest: Digest::of(b"manifest"),
            model: Digest::of(b"model"),
            statistics: ShardStatistics {
                loss,
                ..ShardStatistics::default()
            },
            skipped: Vec::new(),
            seconds: 0.0,
        };
        let unit = Unit::Gradient {
            step: Step(1),
            shard: 0,
        };
        let text = difference(unit, &gradient(0.1), &gradient(0.1_f64.next_up()));
        assert!(text.contains("0.1") && text.contains("0.10000000000000002"), "{text}");
    }
}
