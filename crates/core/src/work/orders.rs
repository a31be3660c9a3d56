//! In which image orders a judge is asked about a pair, and how often it came to that.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VerdictRecord;

/// In which image orders a judge is asked about a pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Orders {
    /// In both, which have to point to the same candidate.
    #[default]
    Both,
    /// In one: the first candidate is shown first.
    Straight,
    /// In one: the first candidate is shown second.
    Swapped,
}

impl Orders {
    /// Whether both orders are asked.
    pub fn is_both(&self) -> bool {
        *self == Self::Both
    }

    /// How many questions that is.
    pub fn questions(self) -> usize {
        match self {
            Self::Both => 2,
            Self::Straight | Self::Swapped => 1,
        }
    }
}

impl fmt::Display for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both",
            Self::Straight => "straight",
            Self::Swapped => "swapped",
        })
    }
}

/// How the matches of a step, or of a run, were asked; those that could not be judged are in none of the counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AskedMatches {
    /// Asked in one image order.
    pub once: u64,
    /// Asked in both.
    pub twice: u64,
    /// Of those asked in both, the ones whose orders gave different sides.
    pub flipped: u64,
    /// Not asked: their pictures are nearer than `judge.min_distance`.
    pub too_alike: u64,
}

impl AskedMatches {
    /// Counts these verdicts.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a VerdictRecord>) -> Self {
        let mut asked = Self::default();
        for record in records.into_iter().filter(|record| record.is_judged()) {
            match record.orders {
                _ if record.is_too_alike() => asked.too_alike += 1,
                Orders::Both => {
                    asked.twice += 1;
                    asked.flipped += u64::from(!record.orders_agree());
                }
                Orders::Straight | Orders::Swapped => asked.once += 1,
            }
        }
        asked
    }

    /// Adds other matches.
    pub fn add(&mut self, other: &Self) {
        let Self {
            once,
            twice,
            flipped,
            too_alike,
        } = other;
        self.once += once;
        self.twice += twice;
        self.flipped += flipped;
        self.too_alike += too_alike;
    }

    /// Share of the matches that were asked in one order, of all that were asked; `None` without any.
    pub fn share_once(&self) -> Option<f64> {
        share(self.once, self.once + self.twice)
    }

    /// Share of the matches that were left out, of all; `None` without any.
    pub fn share_too_alike(&self) -> Option<f64> {
        share(self.too_alike, self.once + self.twice + self.too_alike)
    }

    /// Share of the matches asked in both orders whose orders gave different sides; `None` without any.
    pub fn flip_rate(&self) -> Option<f64> {
        share(self.flipped, self.twice)
    }
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, PromptIndex};
    use crate::work::{AbstainReason, Side, Verdict};

    #[test]
    fn matches_are_counted_by_how_they_were_asked() {
        let failed = VerdictRecord::failed(PromptIndex(0), "away".into(), Digest([0; 32]));
        let judged = |orders, order_probabilities| VerdictRecord {
            verdict: Verdict::Preferred { side: Side::First },
            orders,
            order_probabilities,
            ..failed.clone()
        };
        let left_out = VerdictRecord {
            verdict: Verdict::Abstain {
                reason: AbstainReason::TooAlike,
            },
            ..failed.clone()
        };
        let records = [
            judged(Orders::Both, [0.9, 0.8]),
            judged(Orders::Both, [0.9, 0.2]),
            judged(Orders::Straight, [0.9; 2]),
            judged(Orders::Swapped, [0.1; 2]),
            judged(Orders::Swapped, [0.6; 2]),
            left_out,
            failed,
        ];
        let asked = AskedMatches::of(&records);
        let expected = AskedMatches {
            once: 3,
            twice: 2,
            flipped: 1,
            too_alike: 1,
        };
        assert_eq!(asked, expected);
        assert_eq!((asked.share_once(), asked.flip_rate()), (Some(0.6), Some(0.5)));
        assert_eq!(asked.share_too_alike(), Some(1.0 / 6.0));
        let mut twofold = asked;
        twofold.add(&asked);
        assert_eq!((twofold.once, twofold.flip_rate()), (6, Some(0.5)));
        let nothing = AskedMatches::default();
        assert_eq!(
            (nothing.share_once(), nothing.flip_rate(), nothing.share_too_alike()),
            (None, None, None)
        );
    }
}
