//! What verdicts on labelled pairs say about a judge.

use gavel_core::measure::{Abstentions, JudgeCounts, Proportion, is_right, mcnemar};
use gavel_core::work::{Side, Verdict, VerdictRecord};
use serde::Serialize;

/// A judge under one rubric; [`JudgeCounts`] says what the shares mean. They come with their 95 % Wilson intervals; `None` where
/// there is nothing to count.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    /// Labelled pairs.
    pub(super) pairs: usize,
    /// Those that the judge looked at.
    pub(super) judged: usize,
    /// Share of the judged pairs with the right verdict; no decision counts as wrong.
    pub(super) accuracy: Option<Proportion>,
    /// Share of the decided pairs with the right verdict.
    pub(super) accuracy_decided: Option<Proportion>,
    /// Share of the judged pairs whose two image orders lean to the same picture.
    pub(super) order_consistency: Option<Proportion>,
    /// Share of the answers that lean to the picture shown first; one half for a judge without positional bias. Each judged
    /// pair gives two answers, which the interval takes for independent.
    pub(super) first_chosen: Option<Proportion>,
    /// Share of the judged pairs without a decision.
    pub(super) abstained: Option<Proportion>,
    /// Why it abstained.
    pub(super) abstentions: Abstentions,
    /// Pairs that could not be judged.
    pub(super) failed: usize,
}

/// A way to judge the pairs, with its figures and what it costs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Way {
    /// What decides.
    pub(super) name: &'static str,
    /// The figures.
    #[serde(flatten)]
    pub(super) measured: Measured,
    /// Questions about a pair, both image orders counted; a mean where prompts have sets of different lengths.
    pub(super) questions_per_pair: f64,
    /// Tokens for a pair, of those that were asked about now; `None` where nobody counts them.
    pub(super) tokens_per_pair: Option<f64>,
    /// Against the way before this one: *with* is this one.
    pub(super) against_before: Option<Compared>,
}

/// The same pairs judged in two ways.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Compared {
    /// Right with the rubric and not without it.
    pub(super) only_with: u64,
    /// Right without the rubric and not under it.
    pub(super) only_without: u64,
    /// McNemar's test, exact and two-sided: how likely a difference like this is when the rubric does not matter.
    pub(super) p_value: f64,
}

/// The judge under one theme alone.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ThemeMeasured {
    /// The theme's name.
    pub(super) theme: String,
    /// Share of the judged pairs where its verdict is right.
    pub(super) accuracy: Option<Proportion>,
    /// Share of the pairs decided under it and under the whole rubric where both verdicts are the same.
    pub(super) agreement: Option<Proportion>,
    /// Share of the judged pairs without a decision.
    pub(super) abstained: Option<Proportion>,
}

impl Measured {
    /// Counts; `preferred` holds the label of each record.
    pub(super) fn of(records: &[VerdictRecord], preferred: &[Side]) -> Self {
        let counts = JudgeCounts::of(records.iter().zip(preferred.iter().copied()));
        Self {
            pairs: records.len(),
            judged: counts.judged,
            accuracy: counts.accuracy(),
            accuracy_decided: counts.accuracy_decided(),
            order_consistency: counts.order_consistency(),
            first_chosen: counts.first_chosen(),
            abstained: counts.abstained_share(),
            abstentions: counts.abstentions,
            failed: counts.failed,
        }
    }
}

impl Compared {
    /// Counts pair by pair.
    pub(super) fn of(with: &[VerdictRecord], without: &[VerdictRecord], preferred: &[Side]) -> Self {
        let (mut only_with, mut only_without) = (0, 0);
        for ((with, without), preferred) in with.iter().zip(without).zip(preferred) {
            match (is_right(with, *preferred), is_right(without, *preferred)) {
                (true, false) => only_with += 1,
                (false, true) => only_without += 1,
                _ => {}
            }
        }
        Self {
            only_with,
            only_without,
            p_value: mcnemar(only_with, only_without),
        }
    }
}

impl ThemeMeasured {
    /// Compares the verdicts under a theme with the labels and with those under the whole rubric.
    pub(super) fn of(theme: String, records: &[VerdictRecord], whole: &[VerdictRecord], preferred: &[Side]) -> Self {
        let measured = Measured::of(records, preferred);
        let (mut both, mut same) = (0, 0);
        for (record, whole) in records.iter().zip(whole) {
            if let (Verdict::Preferred { side }, Verdict::Preferred { side: other }) = (&record.verdict, &whole.verdict)
            {
                both += 1;
                same += usize::from(side == other);
            }
        }
        Self {
            theme,
            accuracy: measured.accuracy,
            agreement: Proportion::of(same as f64, both),
            abstained: measured.abstained,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as a judge without margin gives it; probabilities that the first candidate is better.
    fn record(straight: f64, swapped: f64) -> VerdictRecord {
        let verdict = match (straight > 0.5, swapped > 0.5) {
            (true, true) => "{\"kind\": \"preferred\", \"side\": \"first\"}",
            (false, false) => "{\"kind\": \"preferred\", \"side\": \"second\"}",
            _ => "{\"kind\": \"abstain\", \"reason\": \"orders_disagree\"}",
        };
        let rubric = gavel_core::ids::Digest::of(b"");
        let text = format!(
            "{{\"prompt\": 0, \"verdict\": {verdict}, \"probability_first\": 0.5, \"order_probabilities\": [{straight}, {swapped}], \
             \"rubric\": \"{rubric}\"}}"
        );
        serde_json::from_str(&text).unwrap()
    }

    fn value(share: Option<Proportion>) -> f64 {
        share.unwrap().value
    }

    #[test]
    fn a_judge_that_always_takes_the_first_picture_is_found_out() {
        let records = vec![record(0.9, 0.1); 4];
        let measured = Measured::of(&records, &[Side::First; 4]);
        assert_eq!(value(measured.first_chosen), 1.0);
        assert_eq!(
            (value(measured.order_consistency), value(measured.accuracy)),
            (0.0, 0.0)
        );
        assert_eq!(
            (value(measured.abstained), measured.abstentions.orders_disagree),
            (1.0, 4)
        );
        assert!(measured.accuracy_decided.is_none());
    }

    #[test]
    fn a_fair_judge_is_counted_pair_by_pair() {
        let labels = [Side::First, Side::Second, Side::First, Side::First];
        let with = [record(0.9, 0.8), record(0.2, 0.1), record(0.1, 0.2), record(0.9, 0.2)];
        let measured = Measured::of(&with, &labels);
        assert_eq!(
            (value(measured.accuracy), value(measured.accuracy_decided)),
            (0.5, 2.0 / 3.0)
        );
        assert_eq!(
            (value(measured.first_chosen), value(measured.order_consistency)),
            (5.0 / 8.0, 0.75)
        );
        let without = [record(0.9, 0.8), record(0.9, 0.9), record(0.9, 0.9), record(0.1, 0.1)];
        let compared = Compared::of(&with, &without, &labels);
        assert_eq!(
            (compared.only_with, compared.only_without, compared.p_value),
            (1, 1, 1.0)
        );
        let theme = ThemeMeasured::of("T".into(), &without, &with, &labels);
        assert_eq!((value(theme.agreement), value(theme.accuracy)), (1.0 / 3.0, 0.5));
    }
}
