//! Rewards of a group of candidates, by a tournament in which each meets each other once.

use crate::work::{Side, Verdict, VerdictRecord};

/// The matches of a tournament among `candidates`, in order: (0, 1), (0, 2), ..., (1, 2), ... Two candidates have one match.
pub fn matches(candidates: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..candidates).flat_map(move |first| (first + 1..candidates).map(move |second| (first, second)))
}

/// How many matches a tournament has.
pub fn match_count(candidates: usize) -> usize {
    candidates * candidates.saturating_sub(1) / 2
}

/// The candidates' ranks, 1 being the best, from the verdicts on their [`matches()`]. A win counts two points, an abstention
/// one for each side; equal points share a rank, and the next rank follows without a gap.
///
/// `None` where the judge does not set the candidates apart: all have the same points, or a match could not be judged, so that
/// points would say who was looked at rather than who is better.
pub fn ranks(candidates: usize, verdicts: &[VerdictRecord]) -> Option<Vec<u32>> {
    if verdicts.len() != match_count(candidates) {
        return None;
    }
    let mut points = vec![0_u32; candidates];
    for ((first, second), record) in matches(candidates).zip(verdicts) {
        match record.verdict {
            Verdict::Preferred { side: Side::First } => points[first] += 2,
            Verdict::Preferred { side: Side::Second } => points[second] += 2,
            Verdict::Abstain { .. } => {
                points[first] += 1;
                points[second] += 1;
            }
            Verdict::Failed { .. } => return None,
        }
    }
    let mut levels = points.clone();
    levels.sort_unstable_by(|a, b| b.cmp(a));
    levels.dedup();
    if levels.len() < 2 {
        return None;
    }
    let rank = |points: &u32| 1 + levels.iter().take_while(|level| *level > points).count() as u32;
    Some(points.iter().map(rank).collect())
}

/// The rewards of ranked candidates: `preferred` for rank 1, `dispreferred` for the worst, and those between at equal
/// distances. With the published 1 and -0.1 that is `1 - (rank - 1) / (worst - 1) * 1.1`.
pub fn rewards(ranks: &[u32], preferred: f64, dispreferred: f64) -> Vec<f64> {
    let worst = ranks.iter().copied().max().unwrap_or(1);
    let reward = |rank: &u32| match *rank {
        1 => preferred,
        // No arithmetic: the configured number itself.
        rank if rank == worst => dispreferred,
        rank => preferred - f64::from(rank - 1) / f64::from(worst - 1) * (preferred - dispreferred),
    };
    ranks.iter().map(reward).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Digest, PromptIndex};
    use crate::work::{AbstainReason, Orders};

    fn record(verdict: Verdict) -> VerdictRecord {
        VerdictRecord {
            prompt_index: PromptIndex(0),
            verdict,
            probability_first: 0.5,
            order_probabilities: [0.5; 2],
            orders: Orders::Both,
            rubric: Digest([0; 32]),
            votes: Vec::new(),
            reasons: Vec::new(),
            difference: None,
            scores: None,
        }
    }

    /// `>` first, `<` second, `=` abstains, `!` failed; in the order of [`matches()`].
    fn tournament(text: &str) -> Vec<VerdictRecord> {
        let verdict = |sign: char| match sign {
            '>' => Verdict::Preferred { side: Side::First },
            '<' => Verdict::Preferred { side: Side::Second },
            '=' => Verdict::Abstain {
                reason: AbstainReason::OrdersDisagree,
            },
            _ => Verdict::Failed {
                reason: "unreachable".into(),
            },
        };
        text.chars().map(|sign| record(verdict(sign))).collect()
    }

    #[test]
    fn a_pair_has_one_match_and_the_configured_rewards() {
        assert_eq!(matches(2).collect::<Vec<_>>(), [(0, 1)]);
        assert_eq!(ranks(2, &tournament(">")), Some(vec![1, 2]));
        assert_eq!(ranks(2, &tournament("<")), Some(vec![2, 1]));
        assert_eq!(rewards(&[2, 1], 1.0, -0.1), [-0.1, 1.0]);
        for undecided in ["=", "!", "", ">>"] {
            assert_eq!(ranks(2, &tournament(undecided)), None, "{undecided}");
        }
    }

    #[test]
    fn groups_are_ranked_by_points() {
        assert_eq!(matches(4).count(), match_count(4));
        // 0 beats all, 1 beats 2 and 3, 2 beats 3.
        assert_eq!(ranks(4, &tournament(">>>>>>")), Some(vec![1, 2, 3, 4]));
        // A draw between 0 and 1, both ahead of 2.
        assert_eq!(ranks(3, &tournament("=>>")), Some(vec![1, 1, 2]));
        // A circle says nothing.
        assert_eq!(ranks(3, &tournament("><>")), None);
        assert_eq!(ranks(3, &tournament(">>!")), None);
    }

    #[test]
    fn ranking_rewards_are_the_published_ones() {
        let found = rewards(&[1, 2, 3, 4, 5], 1.0, -0.1);
        for (rank, reward) in (1..=5).zip(&found) {
            let published = 1.0 - f64::from(rank - 1) / 4.0 * 1.1;
            assert!((reward - published).abs() < 1e-15, "rank {rank}: {reward}");
        }
        assert_eq!((found[0], found[4]), (1.0, -0.1));
    }

    proptest! {
        #[test]
        fn ranks_are_without_gaps_and_follow_a_change_of_names(text in "[<>=]{6}", turn in 0_usize..4) {
            let verdicts = tournament(&text);
            let Some(found) = ranks(4, &verdicts) else { return Ok(()) };
            let worst = *found.iter().max().unwrap();
            for rank in 1..=worst {
                prop_assert!(found.contains(&rank));
            }
            // Candidate k is called (k + turn) % 4.
            let renamed: Vec<VerdictRecord> = matches(4).map(|(first, second)| {
                let old = |name: usize| (name + 4 - turn) % 4;
                let (a, b) = (old(first), old(second));
                let index = matches(4).position(|played| played == (a.min(b), a.max(b))).unwrap();
                match (&verdicts[index].verdict, a < b) {
                    (Verdict::Preferred { side: Side::First }, false) => record(Verdict::Preferred { side: Side::Second }),
                    (Verdict::Preferred { side: Side::Second }, false) => record(Verdict::Preferred { side: Side::First }),
                    (verdict, _) => record(verdict.clone()),
                }
            }).collect();
            let turned = ranks(4, &renamed).unwrap();
            for (candidate, rank) in found.iter().enumerate() {
                prop_assert_eq!(turned[(candidate + turn) % 4], *rank);
            }
        }
    }
}
