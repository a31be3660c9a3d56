//! What a judge says of a pair.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, PromptIndex};

/// Which of two candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Candidate 0, or the base's image in an evaluation.
    First,
    /// Candidate 1, or the tuned policy's image in an evaluation.
    Second,
}

/// The outcome of judging one pair. Only `Preferred` ever reaches a gradient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Verdict {
    /// One candidate is better, in both image orders.
    Preferred {
        /// The better one.
        side: Side,
    },
    /// The judge worked and does not decide; the pair gives no gradient.
    Abstain {
        /// Why.
        reason: AbstainReason,
    },
    /// The judge did not work on this pair after every attempt; recorded, no gradient.
    Failed {
        /// The last failure.
        reason: String,
    },
}

/// Why a judge abstains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbstainReason {
    /// The two image orders gave different answers.
    OrdersDisagree,
    /// The probability was too close to one half (`judge.margin`).
    TooClose,
    /// The likeliest next token was not one of the labels, by more than the template allows.
    OutsideLabels,
}

/// A verdict with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// The pair: its prompt's place in the step, the held-out set or the labelled set.
    pub prompt: PromptIndex,
    /// The decision.
    pub verdict: Verdict,
    /// Mean over both orders of the probability that the first candidate is better, in [0, 1].
    pub probability_first: f64,
    /// The same per order: (first candidate shown first, first candidate shown second).
    pub order_probabilities: [f64; 2],
    /// Fingerprint of the rubric text that the judge read.
    pub rubric: Digest,
}

impl VerdictRecord {
    /// Whether a judge has looked at the pair, decided or not.
    pub fn is_judged(&self) -> bool {
        !matches!(self.verdict, Verdict::Failed { .. })
    }

    /// Whether both image orders lean to the same side. Exactly one half leans to the second.
    pub fn orders_agree(&self) -> bool {
        (self.order_probabilities[0] > 0.5) == (self.order_probabilities[1] > 0.5)
    }
}
