//! What other verdicts would have changed.

use gavel_core::ids::{Digest, PromptIndex, Step};
use gavel_core::rpo::{ranks, rewards};
use gavel_core::work::{Side, Verdict, VerdictRecord};
use serde::Serialize;

/// What became of some matches under other verdicts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Matches that were judged again.
    pub matches: u64,
    /// Those that the run's judge decided.
    pub decided_before: u64,
    /// Those that are decided now.
    pub decided_after: u64,
    /// Decided both times, for the same side.
    pub same: u64,
    /// Decided both times, for the other side.
    pub flipped: u64,
    /// Those that could not be judged now.
    pub failed: u64,
    /// Candidates in these matches' groups.
    pub candidates: u64,
    /// Candidates whose reward would have been another one, none included.
    pub rewards_changed: u64,
}

impl Change {
    /// Of the matches that are decided both times the share with the same side, in [0, 1]; `None` without such a match.
    pub fn agreement(&self) -> Option<f64> {
        let both = self.same + self.flipped;
        (both > 0).then(|| self.same as f64 / both as f64)
    }

    /// Adds one match.
    pub(super) fn count(&mut self, before: &VerdictRecord, after: &VerdictRecord) {
        self.matches += 1;
        self.failed += u64::from(!after.is_judged());
        let (before, after) = (side(before), side(after));
        self.decided_before += u64::from(before.is_some());
        self.decided_after += u64::from(after.is_some());
        if before.is_some() && after.is_some() {
            match before == after {
                true => self.same += 1,
                false => self.flipped += 1,
            }
        }
    }

    /// Adds what a group's candidates would have been rewarded with: `preferred` for the best, `dispreferred` for the worst.
    pub(super) fn count_rewards(
        &mut self,
        candidates: usize,
        [before, after]: [&[VerdictRecord]; 2],
        (preferred, dispreferred): (f64, f64),
    ) {
        let rewarded = [before, after].map(|verdicts| rewarded(candidates, verdicts, (preferred, dispreferred)));
        self.candidates += candidates as u64;
        self.rewards_changed += match rewarded.into() {
            (Some(before), Some(after)) => before
                .iter()
                .zip(&after)
                .filter(|(before, after)| before != after)
                .count(),
            (None, None) => 0,
            _ => candidates,
        } as u64;
    }

    pub(super) fn add(&mut self, other: &Self) {
        let Self {
            matches,
            decided_before,
            decided_after,
            same,
            flipped,
            failed,
            candidates,
            rewards_changed,
        } = other;
        self.matches += matches;
        self.decided_before += decided_before;
        self.decided_after += decided_after;
        self.same += same;
        self.flipped += flipped;
        self.failed += failed;
        self.candidates += candidates;
        self.rewards_changed += rewards_changed;
    }
}

/// What each candidate is rewarded with under these verdicts; `None` where they do not set the candidates apart.
pub(super) fn rewarded(
    candidates: usize,
    verdicts: &[VerdictRecord],
    (preferred, dispreferred): (f64, f64),
) -> Option<Vec<f64>> {
    Some(rewards(&ranks(candidates, verdicts)?, preferred, dispreferred))
}

/// A prompt's candidates whose verdicts would have been others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangedGroup {
    /// The step.
    pub step: Step,
    /// The prompt's index in the step.
    pub prompt_index: PromptIndex,
    /// Its words.
    pub prompt: String,
    /// The candidates' pictures, PNG blobs.
    pub pictures: Vec<Digest>,
    /// As it was in the run.
    pub before: Decided,
    /// As it would have been.
    pub after: Decided,
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decided {
    /// On each of its matches, in the order (0, 1), (0, 2), ..., (1, 2), ...
    pub verdicts: Vec<Verdict>,
    /// Of each candidate; `None` where the verdicts do not set them apart: then it trains nothing.
    pub rewards: Option<Vec<f64>>,
}

impl Decided {
    /// Of a group of so many candidates.
    pub(super) fn of(candidates: usize, records: &[VerdictRecord], bounds: (f64, f64)) -> Self {
        Self {
            verdicts: records.iter().map(|record| record.verdict.clone()).collect(),
            rewards: rewarded(candidates, records, bounds),
        }
    }

    /// Whether the same side is preferred in each match, or none.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let sides = |decided: &Self| decided.verdicts.iter().map(preferred).collect::<Vec<_>>();
        sides(self) == sides(other)
    }
}

fn preferred(verdict: &Verdict) -> Option<Side> {
    match verdict {
        Verdict::Preferred { side } => Some(*side),
        Verdict::Abstain { .. } | Verdict::Failed { .. } => None,
    }
}

fn side(record: &VerdictRecord) -> Option<Side> {
    preferred(&record.verdict)
}

#[cfg(test)]
mod tests {
    use gavel_core::work::AbstainReason;

    use super::*;

    fn record(verdict: Verdict) -> VerdictRecord {
        VerdictRecord {
            verdict,
            ..VerdictRecord::failed(PromptIndex(0), String::new(), Digest([0; 32]))
        }
    }

    #[test]
    fn each_way_in_which_a_verdict_can_change_is_counted_and_what_it_does_to_rewards() {
        let first = || record(Verdict::Preferred { side: Side::First });
        let second = || record(Verdict::Preferred { side: Side::Second });
        let abstained = || {
            record(Verdict::Abstain {
                reason: AbstainReason::TooClose,
            })
        };
        let failed = || record(Verdict::Failed { reason: "away".into() });
        let mut change = Change::default();
        for (before, after) in [
            (first(), first()),
            (first(), second()),
            (second(), abstained()),
            (abstained(), first()),
            (abstained(), abstained()),
            (second(), failed()),
        ] {
            change.count(&before, &after);
            change.count_rewards(2, [&[before], &[after]], (1.0, -0.1));
        }
        assert_eq!(
            change,
            Change {
                matches: 6,
                decided_before: 4,
                decided_after: 3,
                same: 1,
                flipped: 1,
                failed: 1,
                candidates: 12,
                rewards_changed: 8,
            }
        );
        assert_eq!(change.agreement(), Some(0.5));
        assert_eq!(Change::default().agreement(), None);
    }

    #[test]
    fn in_a_larger_group_a_flip_may_change_some_rewards_alone() {
        // Three candidates, matches (0, 1), (0, 2), (1, 2): the order 0, 1, 2 becomes 0, 2, 1.
        let preferred = |side| record(Verdict::Preferred { side });
        let before = [preferred(Side::First), preferred(Side::First), preferred(Side::First)];
        let after = [preferred(Side::First), preferred(Side::First), preferred(Side::Second)];
        let mut change = Change::default();
        change.count_rewards(3, [&before, &after], (1.0, -0.1));
        assert_eq!((change.candidates, change.rewards_changed), (3, 2));
        let [before, after] = [before, after].map(|records| Decided::of(3, &records, (1.0, -0.1)));
        assert!(before.is_as(&before) && !before.is_as(&after));
        assert_eq!(before.rewards.unwrap()[0], 1.0);
    }
}
