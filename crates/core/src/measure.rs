//! Figures about judges and policies, each defined once: shares with their uncertainty, how good a judge is on pairs with a
//! known answer, and how often the tuned policy wins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::work::{AbstainReason, Side, Verdict, VerdictRecord};

/// A share with its 95 % Wilson score interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// The share itself, in [0, 1].
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Proportion {
    /// The share `successes / trials`; `None` without trials. Half successes are allowed, so that an undecided comparison can
    /// count half for each side.
    ///
    /// # Source
    /// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    pub fn of(successes: f64, trials: usize) -> Option<Self> {
        if trials == 0 {
            return None;
        }
        let n = trials as f64;
        let p = (successes / n).clamp(0.0, 1.0);
        let denominator = 1.0 + Z * Z / n;
        let centre = (p + Z * Z / (2.0 * n)) / denominator;
        let half = Z / denominator * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        // The bounds meet 0 and 1 only up to rounding; the interval always contains the share itself.
        Some(Self {
            value: p,
            low: (centre - half).clamp(0.0, p),
            high: (centre + half).clamp(p, 1.0),
        })
    }
}

/// Two-sided exact p value of McNemar's test: how likely a split as uneven as `only_first` to `only_second`, or more so, is when
/// each of these pairs falls to either side like a coin. 1 without such pairs.
///
/// # Source
/// Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947, in its
/// exact binomial form.
pub fn mcnemar(only_first: u64, only_second: u64) -> f64 {
    let (fewer, n) = (only_first.min(only_second), only_first + only_second);
    // ln of C(n, k) / 2^n, from k to k + 1: powers of a half would underflow.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=fewer {
        tail += libm::exp(term);
        term += libm::log((n - k) as f64 / (k + 1) as f64);
    }
    f64::min(2.0 * tail, 1.0)
}

/// Verdicts on pairs with a known answer, counted. The shares of these counts are what Gavel means by them everywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct JudgeCounts {
    /// Pairs that the judge looked at, decided or not.
    pub judged: usize,
    /// Judged pairs with a decision.
    pub decided: usize,
    /// Decided pairs whose better picture the judge named.
    pub right: usize,
    /// Judged pairs whose two image orders lean to the same picture.
    pub consistent: usize,
    /// Answers that lean to the picture shown first; a judged pair gives two answers, and one that leans to neither counts half.
    pub first_chosen: f64,
    /// Judged pairs without a decision.
    pub abstentions: Abstentions,
    /// Pairs that could not be judged; no part of any share.
    pub failed: usize,
}

/// Abstentions by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Abstentions {
    /// The two image orders gave different answers.
    pub orders_disagree: usize,
    /// The probability was too close to one half.
    pub too_close: usize,
    /// The model wanted to say something else than a label.
    pub outside_labels: usize,
    /// Any other reason.
    pub other: usize,
}

/// Whether a verdict names the better picture.
pub fn is_right(record: &VerdictRecord, preferred: Side) -> bool {
    record.verdict == Verdict::Preferred { side: preferred }
}

impl JudgeCounts {
    /// Counts verdicts, each with the side that is known to be better.
    pub fn of<'a>(judged: impl IntoIterator<Item = (&'a VerdictRecord, Side)>) -> Self {
        let mut counts = Self::default();
        for (record, preferred) in judged {
            counts.add(record, preferred);
        }
        counts
    }

    fn add(&mut self, record: &VerdictRecord, preferred: Side) {
        match record.verdict {
            Verdict::Failed { .. } => {
                self.failed += 1;
                return;
            }
            Verdict::Abstain { reason } => self.abstentions.add(reason),
            Verdict::Preferred { .. } => {
                self.decided += 1;
                self.right += usize::from(is_right(record, preferred));
            }
        }
        self.judged += 1;
        self.consistent += usize::from(record.orders_agree());
        let [straight, swapped] = record.order_probabilities;
        self.first_chosen += leaning(straight) + leaning(1.0 - swapped);
    }

    /// Judged pairs without a decision.
    pub fn abstained(&self) -> usize {
        self.judged - self.decided
    }

    /// Share of the judged pairs whose better picture the judge named: an abstention counts as wrong, and a pair that could not
    /// be judged says nothing about the judge.
    pub fn accuracy(&self) -> Option<Proportion> {
        Proportion::of(self.right as f64, self.judged)
    }

    /// Share of the decided pairs whose better picture the judge named.
    pub fn accuracy_decided(&self) -> Option<Proportion> {
        Proportion::of(self.right as f64, self.decided)
    }

    /// Share of the judged pairs whose two image orders lean to the same picture.
    pub fn order_consistency(&self) -> Option<Proportion> {
        Proportion::of(self.consistent as f64, self.judged)
    }

    /// Share of the answers that lean to the picture shown first; one half for a judge without positional bias. Each judged
    /// pair gives two answers, which the interval takes for independent.
    pub fn first_chosen(&self) -> Option<Proportion> {
        Proportion::of(self.first_chosen, 2 * self.judged)
    }

    /// Share of the judged pairs without a decision.
    pub fn abstained_share(&self) -> Option<Proportion> {
        Proportion::of(self.abstained() as f64, self.judged)
    }
}

impl Abstentions {
    fn add(&mut self, reason: AbstainReason) {
        match reason {
            AbstainReason::OrdersDisagree => self.orders_disagree += 1,
            AbstainReason::TooClose => self.too_close += 1,
            AbstainReason::OutsideLabels => self.outside_labels += 1,
            AbstainReason::NoMajority | AbstainReason::Vetoed | AbstainReason::TooAlike => self.other += 1,
        }
    }
}

/// 1 for an answer that leans to the picture shown first, one half for none.
fn leaning(probability_shown_first: f64) -> f64 {
    match probability_shown_first.partial_cmp(&0.5) {
        Some(std::cmp::Ordering::Greater) => 1.0,
        Some(std::cmp::Ordering::Less) => 0.0,
        Some(std::cmp::Ordering::Equal) | None => 0.5,
    }
}

/// The judge measured on the labelled pairs of a run; see [`JudgeCounts`] for what the shares mean. 0 stands for a share of
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JudgeMeasure {
    /// Labelled pairs.
    pub pairs: u32,
    /// Pairs judged so far.
    pub judged: u32,
    /// [`JudgeCounts::accuracy`].
    pub accuracy: f64,
    /// [`JudgeCounts::accuracy_decided`].
    pub accuracy_decided: f64,
    /// [`JudgeCounts::order_consistency`].
    pub order_consistency: f64,
    /// Judged pairs on which it abstained.
    pub abstained: u32,
    /// Pairs that could not be judged.
    pub failed: u32,
}

impl JudgeMeasure {
    /// The figures of `counts` among `pairs` labelled pairs.
    pub fn new(pairs: usize, counts: &JudgeCounts) -> Self {
        let value = |share: Option<Proportion>| share.map_or(0.0, |share| share.value);
        Self {
            pairs: pairs as u32,
            judged: counts.judged as u32,
            accuracy: value(counts.accuracy()),
            accuracy_decided: value(counts.accuracy_decided()),
            order_consistency: value(counts.order_consistency()),
            abstained: counts.abstained() as u32,
            failed: counts.failed as u32,
        }
    }
}

/// How often the judge prefers the tuned policy's picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WinRate {
    /// Prompts that were compared and judged: wins + losses + abstained.
    pub prompts: u32,
    /// Tuned preferred.
    pub wins: u32,
    /// Base preferred.
    pub losses: u32,
    /// No preference; counts as half a win.
    pub abstained: u32,
    /// Prompts that could not be judged; no part of the rate.
    pub failed: u32,
    /// (wins + abstained / 2) / prompts.
    pub value: f64,
    /// Lower end of the 95 % Wilson interval.
    pub low: f64,
    /// Upper end of the 95 % Wilson interval.
    pub high: f64,
}

impl WinRate {
    /// Counts comparisons whose first image is the base's; `None` when none of them could be judged.
    pub fn of<'a>(comparisons: impl IntoIterator<Item = &'a VerdictRecord>) -> Option<Self> {
        let (mut wins, mut losses, mut abstained, mut failed) = (0_u32, 0_u32, 0_u32, 0_u32);
        for record in comparisons {
            match record.verdict {
                Verdict::Preferred { side: Side::Second } => wins += 1,
                Verdict::Preferred { side: Side::First } => losses += 1,
                Verdict::Abstain { .. } => abstained += 1,
                Verdict::Failed { .. } => failed += 1,
            }
        }
        let prompts = wins + losses + abstained;
        let Proportion { value, low, high } =
            Proportion::of(f64::from(wins) + f64::from(abstained) / 2.0, prompts as usize)?;
        Some(Self {
            prompts,
            wins,
            losses,
            abstained,
            failed,
            value,
            low,
            high,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Digest, PromptIndex};

    #[test]
    fn wilson_gives_the_published_figures() {
        // R: prop.test(81, 263, correct = FALSE)$conf.int, as in Newcombe 1998, table I.
        let found = Proportion::of(81.0, 263).unwrap();
        assert!(
            (found.low - 0.2553).abs() < 5e-5 && (found.high - 0.3662).abs() < 5e-5,
            "{found:?}"
        );
        let none = Proportion::of(0.0, 20).unwrap();
        assert!(none.low == 0.0 && (none.high - 0.1611).abs() < 5e-5, "{none:?}");
        assert_eq!(Proportion::of(0.0, 0), None);
    }

    #[test]
    fn mcnemar_gives_the_binomial_tail() {
        // R: binom.test(c(1, 9))$p.value, binom.test(c(5, 15))$p.value.
        assert!((mcnemar(1, 9) - 0.021_484_375).abs() < 1e-12);
        assert!((mcnemar(15, 5) - 0.041_389_465_332).abs() < 1e-9);
        assert_eq!((mcnemar(0, 0), mcnemar(3, 3)), (1.0, 1.0));
        assert!(mcnemar(900, 1100) > 0.0 && mcnemar(900, 1100) < 1e-4);
    }

    fn record(verdict: Verdict, order_probabilities: [f64; 2]) -> VerdictRecord {
        VerdictRecord {
            verdict,
            order_probabilities,
            ..VerdictRecord::failed(PromptIndex(0), String::new(), Digest::of(b""))
        }
    }

    #[test]
    fn accuracy_counts_abstentions_as_wrong_and_leaves_failures_out() {
        let first = Verdict::Preferred { side: Side::First };
        let close = Verdict::Abstain {
            reason: AbstainReason::TooClose,
        };
        let away = Verdict::Failed { reason: "away".into() };
        let records = [
            record(first.clone(), [0.9, 0.8]),
            record(first, [0.9, 0.8]),
            record(close, [0.5, 0.4]),
            record(away, [0.5, 0.5]),
        ];
        let preferred = [Side::First, Side::Second, Side::First, Side::First];
        let counts = JudgeCounts::of(records.iter().zip(preferred));
        let value = |share: Option<Proportion>| share.unwrap().value;
        assert_eq!(
            (counts.judged, counts.decided, counts.right, counts.failed),
            (3, 2, 1, 1)
        );
        assert_eq!(value(counts.accuracy()), 1.0 / 3.0);
        assert_eq!(value(counts.accuracy_decided()), 0.5);
        assert_eq!(value(counts.abstained_share()), 1.0 / 3.0);
        // 0.9 and 0.9 lean to the picture shown first; 0.8 and 0.8 do so when the first candidate is shown second: to the other.
        assert_eq!(counts.first_chosen, 1.0 + 1.0 + 0.5 + 1.0);
        let measure = JudgeMeasure::new(5, &counts);
        assert_eq!((measure.pairs, measure.judged, measure.abstained), (5, 3, 1));
        assert_eq!(measure.accuracy, 1.0 / 3.0);
    }

    #[test]
    fn win_rate_counts_an_abstention_as_half_and_leaves_failures_out() {
        let preferred = |side| record(Verdict::Preferred { side }, [0.5; 2]);
        let close = Verdict::Abstain {
            reason: AbstainReason::TooClose,
        };
        let records = [
            preferred(Side::Second),
            preferred(Side::Second),
            preferred(Side::First),
            record(close, [0.5; 2]),
            record(Verdict::Failed { reason: String::new() }, [0.5; 2]),
        ];
        let rate = WinRate::of(&records).unwrap();
        assert_eq!(
            (rate.prompts, rate.wins, rate.losses, rate.abstained, rate.failed),
            (4, 2, 1, 1, 1)
        );
        assert_eq!(rate.value, 0.625);
        assert_eq!(WinRate::of(&records[4..]), None);
        // 8 of 10: the textbook's Wilson interval is 0.490 to 0.943.
        let eight: Vec<_> = (0..10)
            .map(|index| preferred(if index < 8 { Side::Second } else { Side::First }))
            .collect();
        let rate = WinRate::of(&eight).unwrap();
        assert!(
            (rate.low - 0.490).abs() < 1e-3 && (rate.high - 0.943).abs() < 1e-3,
            "{rate:?}"
        );
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_share_and_mirrors(trials in 1usize..500, part in 0.0f64..=1.0) {
            let successes = (part * trials as f64).round();
            let p = Proportion::of(successes, trials).unwrap();
            prop_assert!(0.0 <= p.low && p.low <= p.value && p.value <= p.high && p.high <= 1.0);
            let mirrored = Proportion::of(trials as f64 - successes, trials).unwrap();
            prop_assert!((mirrored.low - (1.0 - p.high)).abs() < 1e-12);
        }
    }
}
