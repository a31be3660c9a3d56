//! Lists: all pictures of a prompt in one question, whose answer is the best one's label.
//!
//! A list of n pictures is shown n times, each time beginning with another picture, so that each stands once in every place: n questions instead of
//! the n (n - 1) of all pairs in both orders. Of two pictures the better one is the one with the greater share of the answer, as in Luce's
//! choice model, of which the Bradley-Terry model is the case of two.

use gavel_core::work::{AbstainReason, Verdict};
use gavel_rubric::JudgedPair;
use image::RgbImage;

use crate::answer::agreement;

/// What a judge answers to a list, shown in one order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListAnswer {
    /// Probability of each picture's label, by the picture's place in the list, the labels being the only choice.
    shares: Vec<f64>,
    /// Probability of all labels together among all next tokens.
    label_mass: f64,
}

impl ListAnswer {
    /// Reads the answer from the next token's logits (vocabulary,), where `labels` are the tokens of the pictures in the order in which they were
    /// shown, and the list began with picture `first`. `None` when a label lies outside the vocabulary or the logits are not finite.
    pub(crate) fn from_logits(logits: &[f32], labels: &[u32], first: usize) -> Option<Self> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit) - f64::from(largest)).exp();
        let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
        let shown: Vec<f64> = labels
            .iter()
            .map(|label| logits.get(*label as usize).map(|logit| weight(*logit)))
            .collect::<Option<_>>()?;
        let of_labels: f64 = shown.iter().sum();
        let count = shown.len();
        let shares = (0..count).map(|picture| match of_labels > 0.0 {
            true => shown[(picture + count - first) % count] / of_labels,
            // So unlikely that nothing is left of them: none is likelier than another.
            false => 1.0 / count as f64,
        });
        let answer = Self {
            shares: shares.collect(),
            label_mass: of_labels / total,
        };
        let finite = answer.label_mass.is_finite() && answer.shares.iter().all(|share| share.is_finite());
        finite.then_some(answer)
    }

    /// The probability that `first` is the better one of two.
    fn preference(&self, [first, second]: [usize; 2]) -> f64 {
        let (first, second) = (self.shares[first], self.shares[second]);
        match first + second > 0.0 {
            true => first / (first + second),
            false => 0.5,
        }
    }
}

/// The list that a pair stands in: its own, or the pair itself. Together with the places of the pair's pictures in it.
pub(crate) fn list_of<'a>(pair: &JudgedPair<'a>) -> (Vec<&'a RgbImage>, [usize; 2]) {
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
pub(crate) fn decide(
    answers: &[ListAnswer],
    pair: [usize; 2],
    label_mass_min: f64,
    margin: f64,
) -> (Verdict, [f64; 2]) {
    let [first, second] = pair;
    let count = answers.len();
    let place = |picture: usize, began: usize| (picture + count - began) % count;
    let mean = |is_before: bool| {
        let numbered = answers.iter().enumerate();
        let those = numbered.filter(|(began, _)| (place(first, *began) < place(second, *began)) == is_before);
        let preferences: Vec<f64> = those.map(|(_, answer)| answer.preference(pair)).collect();
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

    fn answer(shares: &[f64]) -> ListAnswer {
        ListAnswer {
            shares: shares.to_vec(),
            label_mass: 1.0,
        }
    }

    #[test]
    fn shares_belong_to_the_pictures_wherever_the_list_began() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let straight = ListAnswer::from_logits(&logits, &[1, 2, 3], 0).unwrap();
        let later = ListAnswer::from_logits(&logits, &[1, 2, 3], 1).unwrap();
        // Begun with picture 1, the label of the last place is picture 0's.
        assert_eq!(
            later.shares,
            [straight.shares[2], straight.shares[0], straight.shares[1]]
        );
        let weights = [1.0_f64, 1.0_f64.exp(), 2.0_f64.exp(), 3.0_f64.exp()];
        let labels: f64 = weights[1..].iter().sum();
        assert!((straight.shares[2] - weights[3] / labels).abs() < 1e-12);
        assert!((straight.label_mass - labels / (labels + 1.0)).abs() < 1e-12);
        assert!((straight.preference([2, 1]) - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-12);
        assert_eq!(ListAnswer::from_logits(&logits, &[1, 4], 0), None);
        assert_eq!(ListAnswer::from_logits(&[f32::NAN, 0.0], &[0, 1], 0), None);
        assert_eq!(
            ListAnswer::from_logits(&[-1e30, -1e30, 0.0], &[0, 1], 0)
                .unwrap()
                .shares,
            [0.5; 2]
        );
    }

    /// A list of two is a pair in both orders.
    #[test]
    fn of_two_pictures_the_verdict_is_that_of_a_pair() {
        let answers = [answer(&[0.8, 0.2]), answer(&[0.7, 0.3])];
        let (verdict, probabilities) = decide(&answers, [0, 1], 0.5, 0.0);
        assert_eq!(verdict, Verdict::Preferred { side: Side::First });
        assert_eq!(probabilities, [0.8, 0.7]);
        let (verdict, probabilities) = decide(&answers, [1, 0], 0.5, 0.0);
        assert_eq!(verdict, Verdict::Preferred { side: Side::Second });
        // Now it is the second answer that shows the first one first.
        assert!((probabilities[0] - 0.3).abs() < 1e-12 && (probabilities[1] - 0.2).abs() < 1e-12);
        let disagreeing = [answer(&[0.8, 0.2]), answer(&[0.2, 0.8])];
        let (verdict, _) = decide(&disagreeing, [0, 1], 0.5, 0.0);
        assert_eq!(
            verdict,
            Verdict::Abstain {
                reason: AbstainReason::OrdersDisagree
            }
        );
    }

    #[test]
    fn a_place_that_is_liked_decides_nothing() {
        // Whatever is shown first gets 0.6, and picture 2 is as good as it gets behind it.
        let places = [0.6, 0.3, 0.1];
        let answers: Vec<ListAnswer> = (0..3)
            .map(|began| answer(&[0, 1, 2].map(|picture: usize| places[(picture + 3 - began) % 3])))
            .collect();
        for pair in [[0, 1], [1, 2], [2, 0]] {
            let (verdict, [before, behind]) = decide(&answers, pair, 0.5, 0.0);
            assert!(before > 0.5 && behind < 0.5, "{before} {behind}");
            assert_eq!(
                verdict,
                Verdict::Abstain {
                    reason: AbstainReason::OrdersDisagree
                }
            );
        }
        let outside = ListAnswer {
            label_mass: 0.1,
            ..answer(&[1.0, 0.0, 0.0])
        };
        let (verdict, _) = decide(
            &[outside, answer(&[1.0, 0.0, 0.0]), answer(&[1.0, 0.0, 0.0])],
            [0, 1],
            0.5,
            0.0,
        );
        assert_eq!(
            verdict,
            Verdict::Abstain {
                reason: AbstainReason::OutsideLabels
            }
        );
        let (verdict, probabilities) = decide(&answers, [1, 1], 0.5, 0.0);
        assert_eq!(
            (verdict, probabilities),
            (
                Verdict::Abstain {
                    reason: AbstainReason::TooClose
                },
                [0.5; 2]
            )
        );
    }
}
