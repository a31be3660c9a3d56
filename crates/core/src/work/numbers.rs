//! Every number of a result, so that none is taken that cannot be written down, or that makes a sum overflow.
//!
//! Each type is taken apart field by field: one that gets a new field does not compile until somebody says here what it holds.

use super::{Outcome, Reason, ShardStatistics, VerdictRecord, Vote};
use crate::bounds::{FIGURE_MAX, is_figure};

/// A number of a result, with its name.
type Number = (&'static str, f64);

impl Outcome {
    /// What is wrong with the first number that is not finite or too large. The gradient's norm may be anything: with one that
    /// has diverged the run stops, and says so.
    pub(crate) fn unusable_number(&self) -> Option<String> {
        let mut numbers = Vec::new();
        self.numbers(&mut numbers);
        let (name, found) = numbers.into_iter().find(|(_, number)| !is_figure(*number))?;
        Some(format!(
            "`{name}` is {found:?}: not finite, or too large to be added up (the most is {FIGURE_MAX:e})"
        ))
    }

    fn numbers(&self, into: &mut Vec<Number>) {
        match self {
            Self::Initialised { policy: _, model: _ } => {}
            Self::Sampled {
                samples: _,
                manifest: _,
                model: _,
                seconds,
            } => into.push(("seconds", *seconds)),
            Self::Judged {
                verdicts,
                model: _,
                spent,
                seconds,
            } => {
                into.push(("seconds", *seconds));
                into.extend(spent.and_then(|spent| spent.cost).map(|cost| ("spent.cost", cost)));
                verdicts.iter().for_each(|record| record.numbers(into));
            }
            Self::RubricWritten {
                rubric: _,
                model: _,
                spent,
                seconds,
            } => {
                into.push(("seconds", *seconds));
                into.extend(spent.and_then(|spent| spent.cost).map(|cost| ("spent.cost", cost)));
            }
            Self::QuestionsAnswered {
                answers: _,
                model: _,
                spent,
                seconds,
            } => {
                into.push(("seconds", *seconds));
                into.extend(spent.and_then(|spent| spent.cost).map(|cost| ("spent.cost", cost)));
            }
            Self::Gradient {
                gradient: _,
                manifest: _,
                model: _,
                statistics,
                skipped: _,
                seconds,
            } => {
                into.push(("seconds", *seconds));
                statistics.numbers(into);
            }
            Self::Committed {
                policy: _,
                grad_norm: _,
                learning_rate,
                seconds,
            } => into.extend([("seconds", *seconds), ("learning_rate", *learning_rate)]),
        }
    }
}

impl VerdictRecord {
    fn numbers(&self, into: &mut Vec<Number>) {
        let Self {
            prompt_index: _,
            verdict: _,
            probability_first,
            order_probabilities: [first, second],
            orders: _,
            rubric: _,
            votes,
            reasons,
            difference,
            scores,
        } = self;
        into.push(("probability_first", *probability_first));
        into.extend([("order_probabilities", *first), ("order_probabilities", *second)]);
        into.extend(difference.map(|difference| ("difference", difference)));
        into.extend(scores.iter().flatten().map(|score| ("scores", *score)));
        for Vote {
            judge: _,
            weight,
            verdict: _,
            veto: _,
        } in votes
        {
            into.push(("votes.weight", *weight));
        }
        for Reason {
            theme: _,
            verdict: _,
            probability_first,
            sentence: _,
        } in reasons
        {
            into.push(("reasons.probability_first", *probability_first));
        }
    }
}

impl ShardStatistics {
    fn numbers(&self, into: &mut Vec<Number>) {
        let Self {
            terms: _,
            kl,
            clipped: _,
            ratio_deviation,
            loss,
        } = self;
        into.extend([("kl", *kl), ("ratio_deviation", *ratio_deviation), ("loss", *loss)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, PromptIndex};
    use crate::work::Spent;
    use crate::work::Verdict;

    fn judged(change: impl FnOnce(&mut VerdictRecord)) -> Outcome {
        let reason = || "no answer".to_owned();
        let mut record = VerdictRecord::failed(PromptIndex(0), reason(), Digest::of(b"rubric"));
        record.votes.push(Vote {
            judge: "a".into(),
            weight: 1.0,
            verdict: Verdict::Failed { reason: reason() },
            veto: false,
        });
        record.reasons.push(Reason {
            theme: None,
            verdict: Verdict::Failed { reason: reason() },
            probability_first: 0.5,
            sentence: None,
        });
        change(&mut record);
        Outcome::Judged {
            verdicts: vec![record],
            model: Digest::of(b"judge"),
            spent: None,
            seconds: 1.0,
        }
    }

    /// Whether a text of a result holds a `null` where a number stood.
    fn loses_a_number(outcome: &Outcome) -> bool {
        let text = serde_json::to_string(outcome).unwrap();
        serde_json::from_str::<Outcome>(&text).is_err()
    }

    #[test]
    fn every_number_of_a_verdict_must_be_finite() {
        assert_eq!(judged(|_| {}).unusable_number(), None);
        let places: [fn(&mut VerdictRecord) -> &mut f64; 5] = [
            |record| &mut record.probability_first,
            |record| &mut record.order_probabilities[0],
            |record| &mut record.order_probabilities[1],
            |record| &mut record.votes[0].weight,
            |record| &mut record.reasons[0].probability_first,
        ];
        for place in places {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let outcome = judged(|record| *place(record) = bad);
                assert!(loses_a_number(&outcome));
                assert!(outcome.unusable_number().is_some(), "{outcome:?}");
            }
        }
    }

    #[test]
    fn numbers_that_may_be_missing_must_be_finite_where_they_are_there() {
        let spent = |cost| Outcome::Judged {
            verdicts: Vec::new(),
            model: Digest::of(b"judge"),
            spent: Some(Spent {
                cost,
                ..Spent::default()
            }),
            seconds: 1.0,
        };
        assert_eq!(spent(Some(0.5)).unusable_number(), None);
        assert_eq!(judged(|record| record.difference = Some(0.5)).unusable_number(), None);
        for bad in [f64::NAN, f64::INFINITY] {
            let cost = spent(Some(bad)).unusable_number().unwrap();
            assert!(cost.contains("`spent.cost`"), "{cost}");
            let difference = judged(|record| record.difference = Some(bad))
                .unusable_number()
                .unwrap();
            assert!(difference.contains("`difference`"), "{difference}");
        }
    }

    #[test]
    fn a_number_whose_sum_could_overflow_is_refused_by_its_name() {
        let outcome = Outcome::Gradient {
            gradient: None,
            manifest: Digest::of(b"manifest"),
            model: Digest::of(b"transformer"),
            statistics: ShardStatistics {
                kl: 1e308,
                ..ShardStatistics::default()
            },
            skipped: Vec::new(),
            seconds: 1.0,
        };
        let problem = outcome.unusable_number().unwrap();
        assert!(
            problem.contains("`kl` is 1e308") && problem.contains("1e100"),
            "{problem}"
        );
    }
}
