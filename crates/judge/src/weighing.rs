//! Rubrics with weights, decided criterion by criterion.

use gavel_core::bounds;
use gavel_core::ids::Digest;
use gavel_core::work::{Spent, Verdict, VerdictRecord};
use gavel_rubric::weigh::{LEAN_MOST, leans, logistic};
use gavel_rubric::{AskError, Judge, JudgedPair, RubricSet};

use crate::answer::{agreement, mean};

/// A judge that is asked about one criterion at a time where the rubric has weights, and about all of them at once where it has none.
///
/// Under each criterion whose weight is above 0 the judge leans to a picture in each image order ([`leans`]); the probability that the first
/// picture is better is, in each order, the logistic of the weighted sum of the leans. Both orders decide together as they do without weights:
/// they have to point to one picture, by the margin at least. A pair that cannot be judged under one of the criteria is not judged.
///
/// Members of an ensemble weigh each by itself, and vote as always.
pub struct WeighingJudge {
    inner: Box<dyn Judge>,
    margin: f64,
}

/// What was said so far of a pair that is judged criterion by criterion.
struct WeighedPair<'a> {
    /// Its index among the pairs.
    index: usize,
    pair: &'a JudgedPair<'a>,
    /// The criteria that count, with their weights.
    criteria: Vec<(f64, RubricSet)>,
    /// The weighted leans, in each image order.
    sums: [f64; 2],
    failure: Option<String>,
}

impl WeighingJudge {
    /// `inner` gives verdicts under single criteria, and under rubrics without weights; the judge abstains where the mean probability is
    /// closer than `margin` to one half.
    pub fn new(inner: Box<dyn Judge>, margin: f64) -> Self {
        Self { inner, margin }
    }

    /// Adds what the judge says of these pairs under the criterion of this number of each.
    fn ask(&self, pairs: &mut [WeighedPair<'_>], number: usize) -> Result<(), AskError> {
        let is_open = |pair: &WeighedPair<'_>| pair.failure.is_none() && number < pair.criteria.len();
        let questions: Vec<JudgedPair<'_>> = pairs
            .iter()
            .filter(|pair| is_open(pair))
            .map(|pair| JudgedPair {
                rubric: &pair.criteria[number].1,
                ..*pair.pair
            })
            .collect();
        let asked = questions.len();
        let records = self.inner.judge(&questions)?;
        if records.len() != asked {
            return Err(AskError::Unanswerable {
                reason: format!(
                    "judge {} gave {} verdicts for {asked} pairs",
                    self.name(),
                    records.len()
                ),
                hint: None,
                said: None,
            });
        }
        let open = pairs.iter_mut().filter(|pair| is_open(pair));
        for (pair, record) in open.zip(&records) {
            pair.add(number, record);
        }
        Ok(())
    }

    /// Judges these pairs, whose rubrics have weights.
    fn weigh(&self, mut pairs: Vec<WeighedPair<'_>>) -> Result<Vec<(usize, VerdictRecord)>, AskError> {
        let most = pairs.iter().map(|pair| pair.criteria.len()).max();
        // One criterion of each pair at a time, so that no question holds more pairs than were given.
        for number in 0..most.unwrap_or(0) {
            self.ask(&mut pairs, number)?;
        }
        let records = pairs.into_iter().map(|pair| (pair.index, pair.record(self.margin)));
        Ok(records.collect())
    }
}

impl<'a> WeighedPair<'a> {
    fn of((index, pair): (usize, &'a JudgedPair<'a>)) -> Self {
        let questions = pair.rubric.questions();
        let is_bounded = bounds::CRITERIA.admits(questions as u64);
        let most = bounds::CRITERIA.most;
        let criteria = pair.rubric.by_criterion();
        Self {
            index,
            pair,
            criteria: criteria.filter(|(weight, _)| is_bounded && *weight > 0.0).collect(),
            sums: [0.0; 2],
            failure: (!is_bounded)
                .then(|| format!("{questions} criteria have a weight above 0, at most {most} are asked about")),
        }
    }

    fn add(&mut self, number: usize, record: &VerdictRecord) {
        let (weight, criterion) = &self.criteria[number];
        if let Some(leans) = leans(record) {
            for (sum, lean) in self.sums.iter_mut().zip(leans) {
                *sum += weight * lean;
            }
        } else if let Verdict::Failed { reason } = &record.verdict {
            let words = criterion.criteria().next().unwrap_or_default();
            self.failure = Some(format!("by `{words}`: {reason}"));
        }
    }

    fn record(self, margin: f64) -> VerdictRecord {
        let (prompt_index, rubric) = (self.pair.prompt_index, self.pair.rubric.digest());
        let order_probabilities = self.sums.map(logistic);
        match self.failure {
            Some(reason) => VerdictRecord::failed(prompt_index, reason, rubric),
            None => VerdictRecord {
                verdict: agreement(order_probabilities, margin),
                probability_first: mean(order_probabilities),
                order_probabilities,
                orders: self.pair.orders,
                ..VerdictRecord::failed(prompt_index, String::new(), rubric)
            },
        }
    }
}

impl Judge for WeighingJudge {
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// The inner judge's: under a rubric without weights the verdicts are its own.
    fn identity(&self) -> Digest {
        self.inner.identity()
    }

    fn identity_under(&self, rubric: &RubricSet) -> Digest {
        let inner = self.inner.identity_under(rubric);
        match rubric.is_weighted() {
            true => Digest::of(format!("criteria by weight, leans to {LEAN_MOST}: {inner}").as_bytes()),
            false => inner,
        }
    }

    fn sees_lists(&self) -> bool {
        self.inner.sees_lists()
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let (weighted, whole): (Vec<_>, Vec<_>) = pairs
            .iter()
            .enumerate()
            .partition(|(_, pair)| pair.rubric.is_weighted());
        if weighted.is_empty() {
            return self.inner.judge(pairs);
        }
        let mut records = self.weigh(weighted.into_iter().map(WeighedPair::of).collect())?;
        if !whole.is_empty() {
            let (indices, whole): (Vec<usize>, Vec<JudgedPair<'_>>) =
                whole.into_iter().map(|(index, pair)| (index, *pair)).unzip();
            records.extend(indices.into_iter().zip(self.inner.judge(&whole)?));
        }
        records.sort_by_key(|(index, _)| *index);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    fn spent(&self) -> Spent {
        self.inner.spent()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use gavel_core::ids::PromptIndex;
    use gavel_core::work::{AbstainReason, Orders, Side};
    use image::{Rgb, RgbImage};
    use proptest::prelude::*;

    use super::*;
    use crate::answer::{Answer, decide};

    /// Knows of each criterion the probabilities of a picture shown first that is bright and of one that is dark; fails where it knows none.
    /// Notes what it was asked.
    #[derive(Default)]
    struct Knowing {
        answers: BTreeMap<&'static str, [f64; 2]>,
        asked: Mutex<Vec<String>>,
    }

    impl Judge for Knowing {
        fn name(&self) -> &str {
            "knowing"
        }

        fn identity(&self) -> Digest {
            Digest::of(b"knowing")
        }

        fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
            let record = |pair: &JudgedPair<'_>| {
                let text = pair.rubric.text();
                self.asked.lock().unwrap().push(text.clone());
                let failed = VerdictRecord::failed(pair.prompt_index, "unknown".into(), pair.rubric.digest());
                let Some([bright, dark]) = self.answers.get(text.trim_end()) else {
                    return failed;
                };
                let is_bright = |image: &RgbImage| image.get_pixel(0, 0).0[0] > 128;
                let shown_first = |image| if is_bright(image) { *bright } else { *dark };
                let answers = [pair.first, pair.second].map(|image| Answer {
                    probability_shown_first: shown_first(image),
                    label_mass: 1.0,
                });
                let (verdict, order_probabilities) = decide(answers, 0.5, 0.0);
                VerdictRecord {
                    verdict,
                    probability_first: mean(order_probabilities),
                    order_probabilities,
                    ..failed
                }
            };
            Ok(pairs.iter().map(record).collect())
        }
    }

    fn pictures() -> [RgbImage; 2] {
        [255, 0].map(|level| RgbImage::from_pixel(1, 1, Rgb([level; 3])))
    }

    fn pair<'a>(index: u32, [first, second]: [&'a RgbImage; 2], rubric: &'a RubricSet) -> JudgedPair<'a> {
        JudgedPair {
            prompt_index: PromptIndex(index),
            prompt: "a lamp",
            sources: &[],
            first,
            second,
            rubric,
            orders: Orders::Both,
            list: &[],
        }
    }

    /// What a weighing judge says of (bright, dark), or of (dark, bright).
    fn judged(answers: &[(&'static str, [f64; 2])], rubric: &str, margin: f64, is_mirrored: bool) -> VerdictRecord {
        let [bright, dark] = pictures();
        let rubric = RubricSet::from_text(rubric).unwrap();
        let shown = if is_mirrored {
            [&dark, &bright]
        } else {
            [&bright, &dark]
        };
        let inner = Knowing {
            answers: answers.iter().copied().collect(),
            ..Knowing::default()
        };
        let judge = WeighingJudge::new(Box::new(inner), margin);
        let record = judge.judge(&[pair(3, shown, &rubric)]).unwrap().swap_remove(0);
        assert_eq!((record.prompt_index, record.rubric), (PromptIndex(3), rubric.digest()));
        record
    }

    const FIRST: Verdict = Verdict::Preferred { side: Side::First };

    #[test]
    fn the_probability_is_the_logistic_of_the_weighted_leans() {
        // In the second order the dark picture is shown first: the probabilities of the bright one are 0.75, 0.8 and 0.2, 0.4.
        let answers = [("- A.", [0.75, 0.2]), ("- B.", [0.2, 0.6])];
        let record = judged(&answers, "- [weight 2] A.\n- [weight 0.5] B.", 0.0, false);
        let log_odds = |probability: f64| (probability / (1.0 - probability)).ln();
        let expected = [
            2.0 * log_odds(0.75) + 0.5 * log_odds(0.2),
            2.0 * log_odds(0.8) + 0.5 * log_odds(0.4),
        ];
        for (found, sum) in record.order_probabilities.iter().zip(expected) {
            assert!((found - 1.0 / (1.0 + (-sum).exp())).abs() < 1e-12);
        }
        let [straight, swapped] = record.order_probabilities;
        assert_eq!(
            (record.verdict, record.probability_first),
            (FIRST, 0.5 * (straight + swapped))
        );
        // The weights decide which of two criteria wins.
        let other = judged(&answers, "- [weight 0.5] A.\n- [weight 2] B.", 0.0, false);
        assert_eq!(other.verdict, Verdict::Preferred { side: Side::Second });
    }

    #[test]
    fn a_criterion_whose_orders_disagree_leans_nowhere_and_a_close_sum_abstains() {
        let answers = [("- A.", [0.6, 0.4]), ("- B.", [0.99, 0.9])];
        let record = judged(&answers, "- [weight 1] A.\n- [weight 9] B.", 0.0, false);
        assert_eq!(record.verdict, FIRST);
        assert!((record.probability_first - 0.6).abs() < 1e-12);
        let close = Verdict::Abstain {
            reason: AbstainReason::TooClose,
        };
        assert_eq!(
            judged(&answers, "- [weight 1] A.\n- [weight 9] B.", 0.2, false).verdict,
            close
        );
        let unsure = judged(&answers, "- [weight 1] B.", 0.0, false);
        assert_eq!((unsure.verdict, unsure.probability_first), (close, 0.5));
    }

    #[test]
    fn orders_whose_sums_point_to_different_pictures_abstain() {
        let answers = [("- A.", [0.9, 0.49]), ("- B.", [0.4, 0.9])];
        let record = judged(&answers, "- [weight 1] A.\n- [weight 1] B.", 0.0, false);
        let disagree = Verdict::Abstain {
            reason: AbstainReason::OrdersDisagree,
        };
        assert_eq!(record.verdict, disagree, "{record:?}");
    }

    #[test]
    fn what_cannot_be_judged_by_one_criterion_is_not_judged() {
        let record = judged(&[("- A.", [0.9, 0.1])], "- [weight 1] A.\n- [weight 1] C.", 0.0, false);
        let reason = "by `C.`: unknown".to_owned();
        assert_eq!(record.verdict, Verdict::Failed { reason });
    }

    #[test]
    fn only_criteria_that_count_are_asked_about_and_other_rubrics_go_through() {
        let [bright, dark] = pictures();
        let weighted = RubricSet::from_text("Light\n- [weight 1] A.\n- [weight 0] B.\n- [weight 2] C.").unwrap();
        let plain = RubricSet::from_text("Light\n- A.\n- B.").unwrap();
        let inner = Knowing {
            answers: [
                ("Light\n- A.", [0.9, 0.1]),
                ("Light\n- C.", [0.9, 0.1]),
                ("Light\n- A.\n- B.", [0.8, 0.2]),
            ]
            .into(),
            ..Knowing::default()
        };
        let asked = std::sync::Arc::new(inner);
        let judge = WeighingJudge::new(Box::new(Shared(asked.clone())), 0.0);
        let pairs = [
            pair(0, [&bright, &dark], &plain),
            pair(1, [&bright, &dark], &weighted),
            pair(2, [&dark, &bright], &plain),
        ];
        let records = judge.judge(&pairs).unwrap();
        let told: Vec<_> = records
            .iter()
            .map(|record| (record.prompt_index.0, record.rubric))
            .collect();
        assert_eq!(told, [(0, plain.digest()), (1, weighted.digest()), (2, plain.digest())]);
        assert_eq!(records[2].verdict, Verdict::Preferred { side: Side::Second });
        assert_eq!(
            *asked.asked.lock().unwrap(),
            [
                "Light\n- A.\n",
                "Light\n- C.\n",
                "Light\n- A.\n- B.\n",
                "Light\n- A.\n- B.\n"
            ]
        );
        // What was kept of one way of deciding is not taken for the other.
        assert_eq!(judge.identity_under(&plain), judge.identity());
        assert_ne!(judge.identity_under(&weighted), judge.identity());
    }

    struct Shared(std::sync::Arc<Knowing>);

    impl Judge for Shared {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn identity(&self) -> Digest {
            self.0.identity()
        }

        fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
            self.0.judge(pairs)
        }
    }

    proptest! {
        #[test]
        fn swapped_pictures_mirror_the_verdict(
            a in prop::array::uniform2(0.0..=1.0),
            b in prop::array::uniform2(0.0..=1.0),
            weights in prop::array::uniform2(0.0..10.0),
            margin in 0.0..0.5,
        ) {
            let answers = [("- A.", a), ("- B.", b)];
            let rubric = format!("- [weight {}] A.\n- [weight {}] B.", weights[0], weights[1]);
            let straight = judged(&answers, &rubric, margin, false);
            let mirrored = judged(&answers, &rubric, margin, true);
            let [first, second] = straight.order_probabilities;
            for (found, expected) in mirrored.order_probabilities.iter().zip([1.0 - second, 1.0 - first]) {
                prop_assert!((found - expected).abs() < 1e-12);
            }
            let mirror = |verdict: &Verdict| match verdict {
                Verdict::Preferred { side: Side::First } => Verdict::Preferred { side: Side::Second },
                Verdict::Preferred { side: Side::Second } => FIRST,
                other => other.clone(),
            };
            // Rounding may decide what lies on the edge.
            let edges = [first - 0.5, second - 0.5, (straight.probability_first - 0.5).abs() - margin];
            prop_assume!(edges.iter().all(|edge| edge.abs() > 1e-9) || edges[..2] == [0.0; 2]);
            prop_assert_eq!(mirrored.verdict, mirror(&straight.verdict));
        }

        #[test]
        fn greater_weights_by_one_factor_change_no_side(
            a in prop::array::uniform2(0.01..=0.99),
            b in prop::array::uniform2(0.01..=0.99),
            weights in prop::array::uniform2(0.01..2.0),
            factor in 1.5..4.0,
        ) {
            let answers = [("- A.", a), ("- B.", b)];
            let rubric = |factor: f64| format!("- [weight {}] A.\n- [weight {}] B.", factor * weights[0], factor * weights[1]);
            let small = judged(&answers, &rubric(1.0), 0.0, false);
            let great = judged(&answers, &rubric(factor), 0.0, false);
            prop_assume!(small.order_probabilities.iter().all(|probability| (probability - 0.5).abs() > 1e-9));
            prop_assert_eq!(&small.verdict, &great.verdict);
            for (small, great) in small.order_probabilities.iter().zip(great.order_probabilities) {
                prop_assert!((great - 0.5).abs() > (small - 0.5).abs() - 1e-12, "no surer by greater weights");
            }
        }
    }
}
