//! Lists: all pictures of a prompt in one question, whose answer is the best one's label.
//!
//! A list of n pictures is shown n times, each time beginning with another picture, so that each stands once in every place: n questions instead of
//! the n (n - 1) of all pairs in both orders. Of two pictures the better one is the one with the greater share of the answer, as in Luce's
//! choice model, of which the Bradley-Terry model is the case of two.

use gavel_core::work::{AbstainReason, Verdict, VerdictRecord};
use gavel_rubric::{JudgeTemplate, JudgedPair};
use image::RgbImage;

use crate::Error;
use crate::answer::{agreement, mean};
use crate::question::Question;

/// The lists in which the pairs of a call stand.
pub(crate) struct Lists<'a> {
    lists: Vec<List<'a>>,
}

/// A list, with its pairs.
struct List<'a> {
    pictures: Vec<&'a RgbImage>,
    /// Their places in the call, with those of their pictures in the list.
    pairs: Vec<(usize, [usize; 2])>,
}

/// What a judge answers to a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shares {
    /// Probability of each label, in the order in which the pictures are shown, the labels being the only choice.
    pub(crate) shown: Vec<f64>,
    /// Probability of all labels together among all next tokens.
    pub(crate) label_mass: f64,
}

impl<'a> Lists<'a> {
    /// # Errors
    /// [`Error::Unfit`] for a pair that is to be asked in one image order.
    pub(crate) fn of(template: &JudgeTemplate, pairs: &[JudgedPair<'a>]) -> Result<Self, Error> {
        let mut lists: Vec<List<'a>> = Vec::new();
        for (index, pair) in pairs.iter().enumerate() {
            if !pair.orders.is_both() {
                return Err(Error::Unfit {
                    problem: format!(
                        "judge template `{}` shows lists, which have no image orders",
                        template.name
                    ),
                    hint: "leave `judge.orders` out, or use a template that shows two pictures",
                });
            }
            let (pictures, places) = list_of(pair);
            let same = |list: &&mut List<'_>| {
                let (other, one) = (&pairs[list.pairs[0].0], pair);
                (other.prompt, other.rubric, other.sources) == (one.prompt, one.rubric, one.sources)
                    && list.pictures.len() == pictures.len()
                    && list.pictures.iter().zip(&pictures).all(|(a, b)| std::ptr::eq(*a, *b))
            };
            match lists.iter_mut().find(same) {
                Some(list) => list.pairs.push((index, places)),
                None => lists.push(List {
                    pictures,
                    pairs: vec![(index, places)],
                }),
            }
        }
        Ok(Self { lists })
    }

    /// What is asked: about each list as many questions as it has pictures, each time beginning with another one.
    ///
    /// # Errors
    /// As [`Question::of_list`].
    pub(crate) fn questions(
        &self,
        template: &JudgeTemplate,
        pairs: &[JudgedPair<'a>],
    ) -> Result<Vec<Question<'a>>, Error> {
        let mut questions = Vec::new();
        for list in &self.lists {
            for first in 0..list.pictures.len() {
                let mut shown = list.pictures.clone();
                shown.rotate_left(first);
                questions.push(Question::of_list(template, &pairs[list.pairs[0].0], shown)?);
            }
        }
        Ok(questions)
    }

    /// The labels that the answer to each question may be.
    pub(crate) fn labels(&self) -> impl Iterator<Item = usize> + '_ {
        self.lists
            .iter()
            .flat_map(|list| std::iter::repeat_n(list.pictures.len(), list.pictures.len()))
    }

    /// The records of the pairs, in order, by the answers to the questions; an error says why there is none, and all pairs of the list fail.
    pub(crate) fn records(
        &self,
        template: &JudgeTemplate,
        margin: f64,
        pairs: &[JudgedPair<'a>],
        answers: impl IntoIterator<Item = Result<Shares, String>>,
    ) -> Vec<VerdictRecord> {
        let mut answers = answers.into_iter();
        let mut records: Vec<(usize, VerdictRecord)> = Vec::with_capacity(pairs.len());
        for list in &self.lists {
            // All of the list's, also behind one that is none: the next list's come after them.
            let own: Vec<_> = answers.by_ref().take(list.pictures.len()).collect();
            let own: Result<Vec<Shares>, String> = own.into_iter().collect();
            records.extend(list.pairs.iter().map(|(index, places)| {
                let pair = &pairs[*index];
                let record = match &own {
                    Ok(own) => record(pair, decide(own, *places, template.label_mass_min, margin)),
                    Err(reason) => VerdictRecord::failed(pair.prompt_index, reason.clone(), pair.rubric.digest()),
                };
                (*index, record)
            }));
        }
        records.sort_by_key(|(index, _)| *index);
        records.into_iter().map(|(_, record)| record).collect()
    }
}

/// A verdict as it is kept.
pub(crate) fn record(pair: &JudgedPair<'_>, (verdict, order_probabilities): (Verdict, [f64; 2])) -> VerdictRecord {
    VerdictRecord {
        prompt_index: pair.prompt_index,
        verdict,
        probability_first: mean(order_probabilities),
        order_probabilities,
        orders: pair.orders,
        rubric: pair.rubric.digest(),
        votes: Vec::new(),
        reasons: Vec::new(),
        difference: None,
        scores: None,
    }
}

impl Shares {
    /// Reads the answer from the next token's logits (vocabulary,), where `labels` are the tokens of the pictures in the order in which they are
    /// shown. `None` when a label lies outside the vocabulary or the logits are not finite.
    pub(crate) fn from_logits(logits: &[f32], labels: &[u32]) -> Option<Self> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit) - f64::from(largest)).exp();
        let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
        let weights: Vec<f64> = labels
            .iter()
            .map(|label| logits.get(*label as usize).map(|logit| weight(*logit)))
            .collect::<Option<_>>()?;
        let weights: Vec<f64> = weights.into_iter().map(|weight| weight / total).collect();
        let finite = weights.iter().all(|weight| weight.is_finite());
        finite.then(|| Self::of_weights(weights))
    }

    /// Of the labels' finite probabilities among all next tokens.
    pub(crate) fn of_weights(weights: Vec<f64>) -> Self {
        let label_mass: f64 = weights.iter().sum();
        let count = weights.len();
        let share = |weight: f64| match label_mass > 0.0 {
            true => weight / label_mass,
            // So unlikely that nothing is left of them: none is likelier than another.
            false => 1.0 / count as f64,
        };
        Self {
            shown: weights.into_iter().map(share).collect(),
            label_mass: label_mass.min(1.0),
        }
    }

    /// The probability that the one shown at the first of two places is better.
    fn preference(&self, [first, second]: [usize; 2]) -> f64 {
        let (first, second) = (self.shown[first], self.shown[second]);
        match first + second > 0.0 {
            true => first / (first + second),
            false => 0.5,
        }
    }
}

/// The list that a pair stands in: its own, or the pair itself. Together with the places of the pair's pictures in it.
fn list_of<'a>(pair: &JudgedPair<'a>) -> (Vec<&'a RgbImage>, [usize; 2]) {
    let place = |picture: &RgbImage| pair.list.iter().position(|listed| std::ptr::eq(*listed, picture));
    match (place(pair.first), place(pair.second)) {
        (Some(first), Some(second)) => (pair.list.to_vec(), [first, second]),
        _ => (vec![pair.first, pair.second], [0, 1]),
    }
}

/// The verdict on two pictures of a list, by the answers to it, of which the one at `k` began with picture `k`; and the probability that the first
/// one is better, where it is shown before the other and where it is shown behind it.
///
/// The rules are those of a pair: labels that share less than `label_mass_min` of the probability, in any order, are no answer; both kinds of order have
/// to agree, and their mean to be as far from one half as `margin`.
fn decide(answers: &[Shares], pair: [usize; 2], label_mass_min: f64, margin: f64) -> (Verdict, [f64; 2]) {
    let count = answers.len();
    let mean = |is_before: bool| {
        let shown = answers.iter().enumerate().map(|(began, answer)| {
            let places = pair.map(|picture| (picture + count - began) % count);
            (places[0] < places[1], answer.preference(places))
        });
        let preferences: Vec<f64> = shown
            .filter(|(before, _)| *before == is_before)
            .map(|(_, preference)| preference)
            .collect();
        match preferences.is_empty() {
            // A picture beside itself.
            true => 0.5,
            false => preferences.iter().sum::<f64>() / preferences.len() as f64,
        }
    };
    let probabilities = [mean(true), mean(false)];
    let verdict = match answers.iter().any(|answer| answer.label_mass < label_mass_min) {
        true => Verdict::Abstain {
            reason: AbstainReason::OutsideLabels,
        },
        false => agreement(probabilities, margin),
    };
    (verdict, probabilities)
}

#[cfg(test)]
mod tests {
    use gavel_core::work::Side;

    use super::*;

    /// An answer in which the pictures of a list that began with `began` have these shares.
    fn answer(began: usize, shares: &[f64]) -> Shares {
        let mut shown = shares.to_vec();
        shown.rotate_left(began);
        Shares { shown, label_mass: 1.0 }
    }

    fn abstain(reason: AbstainReason) -> Verdict {
        Verdict::Abstain { reason }
    }

    #[test]
    fn shares_come_from_the_labels_alone() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let shares = Shares::from_logits(&logits, &[1, 2, 3]).unwrap();
        let weights = [1.0_f64, 1.0_f64.exp(), 2.0_f64.exp(), 3.0_f64.exp()];
        let labels: f64 = weights[1..].iter().sum();
        assert!((shares.shown[2] - weights[3] / labels).abs() < 1e-12);
        assert!((shares.label_mass - labels / (labels + 1.0)).abs() < 1e-12);
        assert!((shares.preference([1, 0]) - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-12);
        assert_eq!(Shares::from_logits(&logits, &[1, 4]), None);
        assert_eq!(Shares::from_logits(&[f32::NAN, 0.0], &[0, 1]), None);
        assert_eq!(
            Shares::from_logits(&[-1e30, -1e30, 0.0], &[0, 1]).unwrap().shown,
            [0.5; 2]
        );
    }

    /// A list of two is a pair in both orders.
    #[test]
    fn of_two_pictures_the_verdict_is_that_of_a_pair() {
        let answers = [answer(0, &[0.8, 0.2]), answer(1, &[0.7, 0.3])];
        let (verdict, probabilities) = decide(&answers, [0, 1], 0.5, 0.0);
        assert_eq!(verdict, Verdict::Preferred { side: Side::First });
        assert_eq!(probabilities, [0.8, 0.7]);
        let (verdict, probabilities) = decide(&answers, [1, 0], 0.5, 0.0);
        assert_eq!(verdict, Verdict::Preferred { side: Side::Second });
        // Now it is the second answer that shows the first one first.
        assert!((probabilities[0] - 0.3).abs() < 1e-12 && (probabilities[1] - 0.2).abs() < 1e-12);
        let disagreeing = [answer(0, &[0.8, 0.2]), answer(1, &[0.2, 0.8])];
        assert_eq!(
            decide(&disagreeing, [0, 1], 0.5, 0.0).0,
            abstain(AbstainReason::OrdersDisagree)
        );
    }

    #[test]
    fn a_place_that_is_liked_decides_nothing() {
        let answers: Vec<Shares> = (0..3)
            .map(|_| Shares {
                shown: vec![0.6, 0.3, 0.1],
                label_mass: 1.0,
            })
            .collect();
        for pair in [[0, 1], [1, 2], [2, 0]] {
            let (verdict, [before, behind]) = decide(&answers, pair, 0.5, 0.0);
            assert!(before > 0.5 && behind < 0.5, "{before} {behind}");
            assert_eq!(verdict, abstain(AbstainReason::OrdersDisagree));
        }
        let sure: Vec<Shares> = (0..3).map(|began| answer(began, &[1.0, 0.0, 0.0])).collect();
        assert_eq!(decide(&sure, [0, 2], 0.5, 0.0).1, [1.0; 2]);
        // Of two that are never the best nothing is known.
        assert_eq!(
            decide(&sure, [1, 2], 0.5, 0.0),
            (abstain(AbstainReason::TooClose), [0.5; 2])
        );
        assert_eq!(
            decide(&sure, [1, 1], 0.5, 0.0),
            (abstain(AbstainReason::TooClose), [0.5; 2])
        );
        let mut outside = sure;
        outside[1].label_mass = 0.1;
        assert_eq!(
            decide(&outside, [0, 1], 0.5, 0.0).0,
            abstain(AbstainReason::OutsideLabels)
        );
    }
}
