//! What a judge says of a pair.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Orders;
use crate::bounds::is_figure;
use crate::ids::{Digest, PromptIndex};

/// Which of two candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Candidate 0, or the base's image in an evaluation.
    First,
    /// Candidate 1, or the tuned policy's image in an evaluation.
    Second,
}

/// The outcome of judging one pair. Only `Preferred` ever reaches a gradient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Verdict {
    /// One candidate is better, in every image order that was asked.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbstainReason {
    /// The two image orders gave different answers.
    OrdersDisagree,
    /// The probability was too close to one half (`judge.margin`).
    TooClose,
    /// The likeliest next token was not one of the labels, by more than the template allows.
    OutsideLabels,
    /// The members of an ensemble that decide weigh the same on both sides, or none decides.
    NoMajority,
    /// A member of the ensemble with a veto prefers the other candidate.
    Vetoed,
    /// The judge was not asked: the two pictures are nearer than `judge.min_distance`.
    TooAlike,
}

/// A verdict with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictRecord {
    /// The pair: its prompt's index in the step, the held-out set or the labelled set.
    #[serde(rename = "prompt")]
    pub prompt_index: PromptIndex,
    /// The decision.
    pub verdict: Verdict,
    /// Mean over both orders of the probability that the first candidate is better, in [0, 1].
    pub probability_first: f64,
    /// The same per order: (first candidate shown first, first candidate shown second). Where one order was asked, both have its
    /// probability.
    pub order_probabilities: [f64; 2],
    /// In which image orders the pair was asked.
    #[serde(default, skip_serializing_if = "Orders::is_both")]
    pub orders: Orders,
    /// Fingerprint of the rubric text that the judge read.
    pub rubric: Digest,
    /// What each member of an ensemble says, in the ensemble's order; empty for one judge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<Vote>,
    /// For people: what each theme of the rubric says by itself, in the rubric's order. Empty for a pair that `judge.reasons`
    /// does not cover. Nothing is rewarded for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// How far apart the two pictures are: the mean absolute difference of their RGB values, in [0, 1]. `None` where nobody
    /// looked, where their sizes differ, and in records of before it was measured. Nothing is rewarded for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// What a judge that scores pictures gave the first candidate and the second; `None` of every other judge. Nothing is rewarded for their size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<[f64; 2]>,
}

/// What a member of an ensemble says of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Vote {
    /// The member's name.
    pub judge: String,
    /// How much it counts.
    pub weight: f64,
    /// Its own decision. One that failed is left out of the vote.
    pub verdict: Verdict,
    /// Whether no candidate wins over the one that it prefers, and none at all where it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub veto: bool,
}

/// What the judge says of a pair under one theme of the rubric alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// The theme's name; `None` for a theme without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theme: Option<String>,
    /// The decision under this theme.
    pub verdict: Verdict,
    /// Mean over both orders of the probability that the first candidate is better, in [0, 1].
    pub probability_first: f64,
    /// Why, in a sentence that calls the first candidate 1 and the second 2; `None` where the theme does not decide or the
    /// model wrote nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
}

/// What an ensemble's votes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// This side leads, and no veto is against it.
    For(Side),
    /// Both sides weigh the same, or nobody decides.
    Tied,
    /// A side leads that somebody with a veto does not prefer, but the other.
    Vetoed,
    /// Somebody with a veto failed, or everybody whose vote weighs anything.
    Void,
}

/// Counts votes by their weights, then asks those with a veto.
pub fn poll(votes: &[Vote]) -> Poll {
    poll_for(votes, majority(votes))
}

/// What becomes of the side that leads, by whatever rule: it may be vetoed, and nothing leads where nobody is heard.
pub fn poll_for(votes: &[Vote], leading: Option<Side>) -> Poll {
    let failed = |vote: &Vote| matches!(vote.verdict, Verdict::Failed { .. });
    let is_heard = votes.iter().any(|vote| vote.weight > 0.0 && !failed(vote));
    if !is_heard || votes.iter().any(|vote| vote.veto && failed(vote)) {
        return Poll::Void;
    }
    let Some(side) = leading else {
        return Poll::Tied;
    };
    let is_against = |vote: &Vote| matches!(vote.verdict, Verdict::Preferred { side: preferred } if preferred != side);
    match votes.iter().any(|vote| vote.veto && is_against(vote)) {
        true => Poll::Vetoed,
        false => Poll::For(side),
    }
}

/// The side for which the heavier votes are; `None` when both sides weigh the same.
fn majority(votes: &[Vote]) -> Option<Side> {
    let weight = |side| -> f64 {
        let for_it = votes.iter().filter(|vote| vote.verdict == Verdict::Preferred { side });
        for_it.map(|vote| vote.weight).sum()
    };
    match weight(Side::First).partial_cmp(&weight(Side::Second))? {
        std::cmp::Ordering::Greater => Some(Side::First),
        std::cmp::Ordering::Less => Some(Side::Second),
        std::cmp::Ordering::Equal => None,
    }
}

impl VerdictRecord {
    /// A pair that a judge did not work on.
    pub fn failed(prompt: PromptIndex, reason: String, rubric: Digest) -> Self {
        Self {
            prompt_index: prompt,
            verdict: Verdict::Failed { reason },
            probability_first: 0.5,
            order_probabilities: [0.5; 2],
            orders: Orders::Both,
            rubric,
            votes: Vec::new(),
            reasons: Vec::new(),
            difference: None,
            scores: None,
        }
    }

    /// A pair that no judge was asked about, because its pictures are too near each other.
    pub fn too_alike(prompt: PromptIndex, rubric: Digest) -> Self {
        let reason = AbstainReason::TooAlike;
        Self {
            verdict: Verdict::Abstain { reason },
            ..Self::failed(prompt, String::new(), rubric)
        }
    }

    /// Whether every number is one: probabilities and the difference in 0 to 1, scores and weights that can be added up.
    pub fn is_numeric(&self) -> bool {
        let [first, second] = self.order_probabilities;
        let reasons = self.reasons.iter().map(|reason| reason.probability_first);
        let shares = [self.probability_first, first, second].into_iter();
        let mut shares = shares.chain(reasons).chain(self.difference);
        let mut scores = self.scores.iter().flatten();
        shares.all(|share| (0.0..=1.0).contains(&share))
            && scores.all(|score| is_figure(*score))
            && self.votes.iter().all(|vote| is_figure(vote.weight))
    }

    /// Whether there is a verdict: a judge has looked at the pair, decided or not, or its pictures are too alike for a question.
    pub fn is_judged(&self) -> bool {
        !matches!(self.verdict, Verdict::Failed { .. })
    }

    /// Whether nobody was asked because the pictures are too near each other.
    pub fn is_too_alike(&self) -> bool {
        let reason = AbstainReason::TooAlike;
        self.verdict == Verdict::Abstain { reason }
    }

    /// Whether both image orders lean to the same side. Exactly one half leans to the second.
    pub fn orders_agree(&self) -> bool {
        (self.order_probabilities[0] > 0.5) == (self.order_probabilities[1] > 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(verdict: Verdict, weight: f64, veto: bool) -> Vote {
        Vote {
            judge: "member".into(),
            weight,
            verdict,
            veto,
        }
    }

    /// Everything that a member can say, with the weights 0 and 1, with and without a veto.
    fn all_votes() -> Vec<Vote> {
        let verdicts = [
            Verdict::Preferred { side: Side::First },
            Verdict::Preferred { side: Side::Second },
            Verdict::Abstain {
                reason: AbstainReason::TooClose,
            },
            Verdict::Failed { reason: "away".into() },
        ];
        let weights = [(0.0, true), (1.0, true), (1.0, false), (3.0, false)];
        let votes = verdicts.iter().flat_map(|verdict| {
            weights
                .iter()
                .map(|(weight, veto)| vote(verdict.clone(), *weight, *veto))
        });
        votes.collect()
    }

    fn mirrored(vote: &Vote) -> Vote {
        let verdict = match &vote.verdict {
            Verdict::Preferred { side: Side::First } => Verdict::Preferred { side: Side::Second },
            Verdict::Preferred { side: Side::Second } => Verdict::Preferred { side: Side::First },
            other => other.clone(),
        };
        Vote {
            verdict,
            ..vote.clone()
        }
    }

    #[test]
    fn whatever_three_members_say_no_side_wins_against_a_veto_or_without_one_that_failed() {
        let all = all_votes();
        let mut seen = std::collections::BTreeSet::new();
        for (first, second, third) in all
            .iter()
            .flat_map(|first| all.iter().map(move |second| (first, second)))
            .flat_map(|(first, second)| all.iter().map(move |third| (first, second, third)))
        {
            let votes = [first.clone(), second.clone(), third.clone()];
            let found = poll(&votes);
            let vetoes = || votes.iter().filter(|vote| vote.veto);
            match found {
                Poll::For(side) => {
                    assert!(vetoes().all(|vote| match &vote.verdict {
                        Verdict::Preferred { side: preferred } => *preferred == side,
                        Verdict::Abstain { .. } => true,
                        Verdict::Failed { .. } => false,
                    }));
                }
                Poll::Vetoed => assert!(vetoes().any(|vote| matches!(vote.verdict, Verdict::Preferred { .. }))),
                Poll::Tied | Poll::Void => {}
            }
            let swapped = poll(&votes.each_ref().map(mirrored));
            let expected = match found {
                Poll::For(Side::First) => Poll::For(Side::Second),
                Poll::For(Side::Second) => Poll::For(Side::First),
                other => other,
            };
            assert_eq!(swapped, expected, "{votes:?}");
            seen.insert(format!("{found:?}"));
        }
        assert_eq!(seen.len(), 5, "every outcome occurs: {seen:?}");
    }

    #[test]
    fn votes_of_before_there_were_vetoes_are_read_and_written_as_they_were() {
        let text = r#"{"judge":"a","weight":1.0,"verdict":{"kind":"abstain","reason":"too_close"}}"#;
        let vote: Vote = serde_json::from_str(text).unwrap();
        assert!(!vote.veto);
        assert_eq!(serde_json::to_string(&vote).unwrap(), text);
    }
}
