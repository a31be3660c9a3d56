//! What one criterion says of a pair, as a number that can be weighed.

use gavel_core::work::{AbstainReason, Verdict, VerdictRecord};

/// The greatest lean to either side, in nats: a probability of 0.9933. A label that a server wrote without its likelihood is one, and
/// no single criterion can be so sure that the others do not count.
pub const LEAN_MOST: f64 = 5.0;

/// How far a verdict under one criterion leans to the first picture: the log-odds of first over second in each image order (first shown
/// first, first shown second), within [`LEAN_MOST`]. A criterion whose orders disagree, or whose answer is none of the labels, or a vetoed one is
/// unsure and leans nowhere. `None` of a pair that could not be judged.
pub fn leans(record: &VerdictRecord) -> Option<[f64; 2]> {
    match record.verdict {
        Verdict::Failed { .. } => None,
        Verdict::Abstain {
            reason:
                AbstainReason::OrdersDisagree
                | AbstainReason::OutsideLabels
                | AbstainReason::NoMajority
                | AbstainReason::Vetoed
                | AbstainReason::TooAlike,
        } => Some([0.0; 2]),
        Verdict::Preferred { .. }
        | Verdict::Abstain {
            reason: AbstainReason::TooClose,
        } => Some(record.order_probabilities.map(log_odds)),
    }
}

/// The mean of both orders' leans.
pub(crate) fn lean(record: &VerdictRecord) -> Option<f64> {
    leans(record).map(|[straight, swapped]| 0.5 * (straight + swapped))
}

/// The probability with these log-odds.
pub fn logistic(log_odds: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-log_odds))
}

fn log_odds(probability: f64) -> f64 {
    libm::log(probability / (1.0 - probability)).clamp(-LEAN_MOST, LEAN_MOST)
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::{Digest, PromptIndex};
    use gavel_core::work::Side;

    use super::*;

    fn leans_of(verdict: Verdict, order_probabilities: [f64; 2]) -> Option<[f64; 2]> {
        leans(&VerdictRecord {
            verdict,
            order_probabilities,
            ..VerdictRecord::failed(PromptIndex(0), String::new(), Digest::of(b""))
        })
    }

    #[test]
    fn certainty_is_bounded_and_what_is_unsure_leans_nowhere() {
        let first = Verdict::Preferred { side: Side::First };
        assert_eq!(leans_of(first.clone(), [1.0, 1.0]), Some([LEAN_MOST; 2]));
        let second = Verdict::Preferred { side: Side::Second };
        assert_eq!(leans_of(second, [0.0, 1e-300]), Some([-LEAN_MOST; 2]));
        let [straight, swapped] = leans_of(first, [0.75, 0.6]).unwrap();
        // ln 3 and ln 1.5.
        assert!((straight - 1.098_612_288_668_11).abs() < 1e-12);
        assert!((swapped - 0.405_465_108_108_164).abs() < 1e-12);
        let close = Verdict::Abstain {
            reason: AbstainReason::TooClose,
        };
        assert_eq!(leans_of(close, [0.5, 0.5]), Some([0.0; 2]));
        for reason in [
            AbstainReason::OrdersDisagree,
            AbstainReason::OutsideLabels,
            AbstainReason::NoMajority,
            AbstainReason::Vetoed,
        ] {
            assert_eq!(leans_of(Verdict::Abstain { reason }, [0.9, 0.2]), Some([0.0; 2]));
        }
        let failed = Verdict::Failed { reason: "away".into() };
        assert_eq!(leans_of(failed, [0.5; 2]), None);
    }

    #[test]
    fn log_odds_and_logistic_undo_each_other() {
        for probability in [0.01, 0.3, 0.5, 0.75, 0.99] {
            assert!((logistic(log_odds(probability)) - probability).abs() < 1e-15);
        }
        assert_eq!((logistic(1e9), logistic(-1e9)), (1.0, 0.0));
    }
}
