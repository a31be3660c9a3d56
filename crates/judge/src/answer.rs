//! From logits to a verdict.

use gavel_core::work::{AbstainReason, Orders, Side, Verdict};
use gavel_rubric::Pictures;

/// What the judge answers to one image order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Probability of the label of the image shown first, the two labels being the only choice.
    pub probability_shown_first: f64,
    /// Probability of both labels together among all next tokens.
    pub label_mass: f64,
}

impl Answer {
    /// Reads the answer from the next token's logits (vocabulary,); `labels` are the tokens of the images shown first and
    /// second. `None` when a label lies outside the vocabulary or the logits are not finite.
    pub fn from_logits(logits: &[f32], labels: [u32; 2]) -> Option<Self> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit) - f64::from(largest)).exp();
        let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
        let [first, second] = labels.map(|label| logits.get(label as usize).copied());
        let (first, second) = (f64::from(first?), f64::from(second?));
        let answer = Self {
            // softmax over two logits.
            probability_shown_first: 1.0 / (1.0 + (second - first).exp()),
            label_mass: (weight(first as f32) + weight(second as f32)) / total,
        };
        let finite = answer.probability_shown_first.is_finite() && answer.label_mass.is_finite();
        finite.then_some(answer)
    }
}

/// What the judge answers to a pair: an answer to each image order in which it was asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answers {
    /// The first one saw the first candidate first, the other saw it second.
    Both([Answer; 2]),
    /// It saw the first candidate first.
    Straight(Answer),
    /// It saw the first candidate second.
    Swapped(Answer),
}

impl Answers {
    /// How the pictures of a pair are shown that is asked in these orders, in the order of its answers.
    pub(crate) fn pictures(orders: Orders) -> &'static [Pictures] {
        match orders {
            Orders::Both => &[Pictures::InOrder, Pictures::Swapped],
            Orders::Straight => &[Pictures::InOrder],
            Orders::Swapped => &[Pictures::Swapped],
        }
    }

    /// Takes as many answers as the orders have.
    ///
    /// # Errors
    /// Those of the answers.
    pub(crate) fn collect<E>(orders: Orders, mut answer: impl FnMut() -> Result<Answer, E>) -> Result<Self, E> {
        Ok(match orders {
            Orders::Both => Self::Both([answer()?, answer()?]),
            Orders::Straight => Self::Straight(answer()?),
            Orders::Swapped => Self::Swapped(answer()?),
        })
    }

    /// The probability that the first candidate is better, per order; of one order it stands for both.
    fn probabilities(&self) -> [f64; 2] {
        match self {
            Self::Both([straight, swapped]) => {
                [straight.probability_shown_first, 1.0 - swapped.probability_shown_first]
            }
            Self::Straight(answer) => [answer.probability_shown_first; 2],
            Self::Swapped(answer) => [1.0 - answer.probability_shown_first; 2],
        }
    }

    /// The smallest share of the labels.
    fn label_mass(&self) -> f64 {
        match self {
            Self::Both([straight, swapped]) => straight.label_mass.min(swapped.label_mass),
            Self::Straight(answer) | Self::Swapped(answer) => answer.label_mass,
        }
    }
}

impl From<[Answer; 2]> for Answers {
    fn from(answers: [Answer; 2]) -> Self {
        Self::Both(answers)
    }
}

/// What the answers come to. Returns the verdict and the probability that the first candidate is better, per order.
///
/// In this order: labels that share less than `label_mass_min` of the probability, in any order, are no answer; orders
/// that point to different candidates disagree; a mean within `margin` of one half is too close, as is exactly one half.
pub fn decide(answers: impl Into<Answers>, label_mass_min: f64, margin: f64) -> (Verdict, [f64; 2]) {
    let answers = answers.into();
    let probabilities = answers.probabilities();
    let verdict = match answers.label_mass() < label_mass_min {
        true => Verdict::Abstain {
            reason: AbstainReason::OutsideLabels,
        },
        false => agreement(probabilities, margin),
    };
    (verdict, probabilities)
}

/// What both orders together say: `probabilities` are those that the first candidate is better, per order.
pub(crate) fn agreement(probabilities: [f64; 2], margin: f64) -> Verdict {
    match probabilities.map(side) {
        [Some(first), Some(second)] if first != second => Verdict::Abstain {
            reason: AbstainReason::OrdersDisagree,
        },
        [Some(side), Some(_)] if (mean(probabilities) - 0.5).abs() >= margin => Verdict::Preferred { side },
        _ => Verdict::Abstain {
            reason: AbstainReason::TooClose,
        },
    }
}

/// Mean over both orders.
pub(crate) fn mean(probabilities: [f64; 2]) -> f64 {
    0.5 * (probabilities[0] + probabilities[1])
}

fn side(probability_first: f64) -> Option<Side> {
    if probability_first > 0.5 {
        Some(Side::First)
    } else if probability_first < 0.5 {
        Some(Side::Second)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(probability_shown_first: f64) -> Answer {
        Answer {
            probability_shown_first,
            label_mass: 1.0,
        }
    }

    #[test]
    fn probabilities_come_from_the_two_labels_alone() {
        let logits = [0.0, 2.0, 5.0, 1.0];
        let answer = Answer::from_logits(&logits, [1, 3]).unwrap();
        assert!((answer.probability_shown_first - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-12);
        let (e0, e1, e2, e5) = (1.0, 1.0_f64.exp(), 2.0_f64.exp(), 5.0_f64.exp());
        assert!((answer.label_mass - (e1 + e2) / (e0 + e1 + e2 + e5)).abs() < 1e-12);
    }

    #[test]
    fn extreme_logits_stay_finite_and_broken_ones_are_no_answer() {
        let answer = Answer::from_logits(&[-1e30, 1e30, 0.0], [0, 1]).unwrap();
        assert_eq!(answer.probability_shown_first, 0.0);
        assert_eq!(answer.label_mass, 1.0);
        assert_eq!(Answer::from_logits(&[f32::NAN, 0.0], [0, 1]), None);
        assert_eq!(Answer::from_logits(&[0.0, f32::INFINITY], [0, 1]), None);
        assert_eq!(Answer::from_logits(&[0.0, 0.0], [0, 2]), None);
    }

    #[test]
    fn only_agreement_prefers() {
        let check = |shown: [f64; 2], margin: f64, expected: Verdict| {
            let (verdict, _) = decide(shown.map(answer), 0.5, margin);
            assert_eq!(verdict, expected, "{shown:?}");
        };
        let preferred = |side| Verdict::Preferred { side };
        let abstain = |reason| Verdict::Abstain { reason };
        check([0.9, 0.2], 0.0, preferred(Side::First));
        check([0.1, 0.7], 0.0, preferred(Side::Second));
        check([0.9, 0.9], 0.0, abstain(AbstainReason::OrdersDisagree));
        check([0.4, 0.4], 0.0, abstain(AbstainReason::OrdersDisagree));
        check([0.55, 0.45], 0.1, abstain(AbstainReason::TooClose));
        check([0.65, 0.35], 0.1, preferred(Side::First));
        check([0.5, 0.5], 0.0, abstain(AbstainReason::TooClose));
        check([0.5, 0.1], 0.0, abstain(AbstainReason::TooClose));
    }

    #[test]
    fn an_answer_that_is_mostly_no_label_is_none() {
        let outside = Answer {
            probability_shown_first: 0.9,
            label_mass: 0.4,
        };
        let (verdict, probabilities) = decide([answer(0.9), outside], 0.5, 0.0);
        assert_eq!(
            verdict,
            Verdict::Abstain {
                reason: AbstainReason::OutsideLabels
            }
        );
        assert_eq!(probabilities[0], 0.9);
        assert!((probabilities[1] - 0.1).abs() < 1e-12);
    }

    #[test]
    fn one_order_decides_by_itself_whichever_it_is() {
        let preferred = |side| Verdict::Preferred { side };
        let abstain = |reason| Verdict::Abstain { reason };
        let straight = |shown, mass| {
            let answer = Answer {
                label_mass: mass,
                ..answer(shown)
            };
            decide(Answers::Straight(answer), 0.5, 0.1)
        };
        assert_eq!(straight(0.9, 1.0), (preferred(Side::First), [0.9; 2]));
        assert_eq!(straight(0.2, 1.0), (preferred(Side::Second), [0.2; 2]));
        assert_eq!(straight(0.55, 1.0).0, abstain(AbstainReason::TooClose));
        assert_eq!(straight(0.9, 0.4).0, abstain(AbstainReason::OutsideLabels));
        let (verdict, probabilities) = decide(Answers::Swapped(answer(0.75)), 0.5, 0.1);
        assert_eq!((verdict, probabilities), (preferred(Side::Second), [0.25; 2]));
    }

    #[test]
    fn as_many_answers_are_taken_as_orders_were_asked() {
        for (orders, expected) in [
            (Orders::Both, Answers::Both([answer(0.1), answer(0.2)])),
            (Orders::Straight, Answers::Straight(answer(0.1))),
            (Orders::Swapped, Answers::Swapped(answer(0.1))),
        ] {
            let mut shown = [0.1, 0.2].into_iter();
            let taken = Answers::collect(orders, || shown.next().map(answer).ok_or(()));
            assert_eq!(taken, Ok(expected));
            assert_eq!(2 - shown.len(), orders.questions());
            assert_eq!(Answers::pictures(orders).len(), orders.questions());
        }
        assert_eq!(Answers::collect(Orders::Both, || Err("away")), Err("away"));
    }

    #[test]
    fn swapped_candidates_mirror_the_verdict() {
        let answers = [answer(0.8), answer(0.3)];
        let (verdict, probabilities) = decide(answers, 0.0, 0.0);
        let (mirrored, swapped) = decide([answers[1], answers[0]], 0.0, 0.0);
        assert_eq!(verdict, Verdict::Preferred { side: Side::First });
        assert_eq!(mirrored, Verdict::Preferred { side: Side::Second });
        assert!((mean(probabilities) + mean(swapped) - 1.0).abs() < 1e-12);
    }
}
