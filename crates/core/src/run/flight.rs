//! The step in flight: its pairs and shards, and what has become ready by them.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::results::{CandidateResult, GroupResult, ShardResult, StepRecord, StepSeconds};
use crate::ids::{Digest, Millis, Step};
use crate::rpo;
use crate::schedule;
use crate::spec::RunSpec;
use crate::work::{AskedMatches, VerdictRecord};

/// A step that is not committed yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepInFlight {
    /// The step.
    pub step: Step,
    /// When it began.
    pub started: Millis,
    /// Its prompts' candidates, by the prompt's index.
    pub groups: Vec<GroupResult>,
    /// Its shards, once they are done; a shard without a decided pair is done without work.
    pub shards: Vec<Option<ShardResult>>,
    /// Groups whose candidates exist.
    pub sampled: u32,
    /// Groups with verdicts.
    pub judged: u32,
    /// Shards that are done.
    pub shards_done: u32,
    /// The groups, by their index, that the held-out judge sees too; none in a run without one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub held_out: BTreeSet<u32>,
    /// The groups, by their index, that are asked in both image orders although the judge has earned trust; absent where all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rechecked: Option<BTreeSet<u32>>,
    /// Seconds so far, without `wall`.
    pub seconds: StepSeconds,
}

impl StepInFlight {
    pub(super) fn new(step: Step, lines: Vec<u32>, shards: u32, held_out: BTreeSet<u32>, now: Millis) -> Self {
        Self {
            step,
            started: now,
            groups: lines
                .into_iter()
                .map(|line| GroupResult {
                    line,
                    ..GroupResult::default()
                })
                .collect(),
            shards: vec![None; shards as usize],
            sampled: 0,
            judged: 0,
            shards_done: 0,
            held_out,
            rechecked: None,
            seconds: StepSeconds::default(),
        }
    }

    /// The same where one image order is enough for all groups but these.
    #[must_use]
    pub(super) fn rechecking(self, rechecked: Option<BTreeSet<u32>>) -> Self {
        Self { rechecked, ..self }
    }

    pub(super) fn count(&self) -> u32 {
        self.groups.len() as u32
    }

    pub(super) fn part(&self, extent: &Range<u32>) -> &[GroupResult] {
        &self.groups[extent.start as usize..extent.end as usize]
    }

    pub(super) fn part_mut(&mut self, extent: &Range<u32>) -> &mut [GroupResult] {
        &mut self.groups[extent.start as usize..extent.end as usize]
    }

    /// Notes sampled candidates and what they were conditioned on; returns the judge chunks of `batch` groups that have all
    /// theirs now.
    pub(super) fn note_samples(
        &mut self,
        extent: &Range<u32>,
        sampled: Vec<(Option<Digest>, Vec<CandidateResult>)>,
        batch: u32,
    ) -> Vec<u32> {
        for (group, sampled) in self.part_mut(extent).iter_mut().zip(sampled) {
            (group.conditioning, group.candidates) = sampled;
        }
        self.sampled += extent.end - extent.start;
        schedule::overlapping(extent, batch)
            .filter(|chunk| {
                let extent = schedule::extent(*chunk, batch, self.count());
                self.part(&extent).iter().all(GroupResult::is_sampled)
            })
            .collect()
    }

    /// Notes each group's verdicts. Shards of `size` groups that have all theirs now and not one decided group are done hereby.
    pub(super) fn note_verdicts(&mut self, extent: &Range<u32>, verdicts: Vec<Vec<VerdictRecord>>, size: u32) {
        for (group, verdicts) in self.part_mut(extent).iter_mut().zip(verdicts) {
            group.verdicts = verdicts;
        }
        self.judged += extent.end - extent.start;
        for shard in schedule::overlapping(extent, size) {
            let groups = self.part(&schedule::extent(shard, size, self.count()));
            if groups.iter().all(GroupResult::is_judged) && !groups.iter().any(GroupResult::is_decided) {
                self.note_shard(shard, ShardResult::default());
            }
        }
    }

    /// The groups of an extent that the held-out judge sees.
    pub(super) fn held_out(&self, extent: &Range<u32>) -> impl Iterator<Item = u32> {
        self.held_out.range(extent.clone()).copied()
    }

    /// Notes what the held-out judge says of its share of these groups.
    pub(super) fn note_held_out(&mut self, extent: &Range<u32>, verdicts: Vec<Vec<VerdictRecord>>) {
        let groups: Vec<u32> = self.held_out(extent).collect();
        for (group, verdicts) in groups.into_iter().zip(verdicts) {
            self.groups[group as usize].held_out = verdicts;
        }
    }

    /// Whether the held-out judge has looked at its whole share. There is nothing to wait for without one.
    pub(super) fn is_watched(&self) -> bool {
        let mut groups = self.held_out.iter();
        groups.all(|group| !self.groups[*group as usize].held_out.is_empty())
    }

    /// Those of these shards of `size` groups that are not done although all their groups are judged.
    pub(super) fn trainable(&self, shards: Range<u32>, size: u32) -> Vec<u32> {
        let judged = |shard: &u32| {
            let groups = self.part(&schedule::extent(*shard, size, self.count()));
            groups.iter().all(GroupResult::is_judged)
        };
        let open = shards.filter(|shard| self.shards[*shard as usize].is_none());
        open.filter(judged).collect()
    }

    /// Takes back the samples of these prompts with all that followed from them. Returns the judge chunks of `batch` groups and
    /// the shards of `size` groups that they had a part in.
    pub(super) fn forget_samples(&mut self, extent: &Range<u32>, batch: u32, size: u32) -> (Range<u32>, Range<u32>) {
        let lost = self.part(extent).iter().filter(|group| group.is_sampled()).count();
        self.sampled -= lost as u32;
        for group in self.part_mut(extent) {
            group.candidates.clear();
            group.conditioning = None;
        }
        let chunks = schedule::overlapping(extent, batch);
        let judged = chunks.start * batch..self.count().min(chunks.end * batch);
        let lost = self.part(&judged).iter().filter(|group| group.is_judged()).count();
        self.judged -= lost as u32;
        for group in self.part_mut(&judged) {
            group.skipped = None;
            group.verdicts.clear();
            group.held_out.clear();
        }
        let shards = schedule::overlapping(&judged, size);
        for shard in shards.clone() {
            self.forget_shard(shard);
        }
        (chunks, shards)
    }

    /// Takes a shard's gradient back.
    pub(super) fn forget_shard(&mut self, shard: u32) {
        if self.shards[shard as usize].take().is_some() {
            self.shards_done -= 1;
        }
    }

    pub(super) fn note_shard(&mut self, shard: u32, result: ShardResult) {
        self.shards[shard as usize] = Some(result);
        self.shards_done += 1;
    }

    pub(super) fn is_trained(&self) -> bool {
        self.shards_done as usize == self.shards.len()
    }

    /// Whether every group has been judged and not one of them could be; the last reason then.
    pub(super) fn unjudgeable(&self) -> Option<&str> {
        let mut last = None;
        for group in &self.groups {
            last = Some(group.failure()?);
        }
        last
    }

    /// Takes all verdicts back, for another try.
    pub(super) fn forget_verdicts(&mut self) {
        for group in &mut self.groups {
            group.verdicts.clear();
        }
        self.shards.fill(None);
        self.judged = 0;
        self.shards_done = 0;
    }

    /// Number of trained terms.
    pub(super) fn terms(&self) -> u64 {
        self.shards.iter().flatten().map(|shard| shard.statistics.terms).sum()
    }

    /// The step in figures, when it is committed.
    pub(super) fn record(&self, spec: &RunSpec, grad_norm: f64, learning_rate: f64, now: Millis) -> StepRecord {
        let (mut decided, mut abstained, mut failed, mut skipped) = (0, 0, 0, 0);
        let objective = &spec.objective;
        let mut reward_mean = 0.0;
        for group in &self.groups {
            match group.ranks() {
                Some(ranks) => {
                    decided += 1;
                    let rewards = rpo::rewards(&ranks, objective.reward_preferred, objective.reward_dispreferred);
                    reward_mean += rewards.iter().sum::<f64>() / rewards.len() as f64;
                }
                None if group.failure().is_some() => failed += 1,
                None => abstained += 1,
            }
            skipped += u32::from(group.skipped.is_some());
        }
        let asked = AskedMatches::of(self.groups.iter().flat_map(|group| &group.verdicts));
        let judged = self.groups.iter().flat_map(|group| &group.verdicts);
        let differences: Vec<f64> = judged.filter_map(|record| record.difference).collect();
        let diversity = (!differences.is_empty()).then(|| differences.iter().sum::<f64>() / differences.len() as f64);
        let agreements = self.groups.iter().map(GroupResult::agreement);
        let (both, alike) = agreements.fold((0, 0), |(pairs, alike), of| (pairs + of.0, alike + of.1));
        let terms = self.terms();
        let mean = |sum: f64| if terms == 0 { 0.0 } else { sum / terms as f64 };
        let shards = || self.shards.iter().flatten().map(|shard| &shard.statistics);
        StepRecord {
            step: self.step,
            pairs: self.count(),
            decided,
            abstained,
            failed,
            skipped,
            order_consistency: (asked.twice - asked.flipped) as f64 / asked.twice.max(1) as f64,
            asked: spec.judge.counts_questions().then_some(asked),
            diversity,
            score: score(self.groups.iter().flat_map(|group| &group.verdicts)),
            held_out_score: score(self.groups.iter().flat_map(|group| &group.held_out)),
            held_out_pairs: (!self.held_out.is_empty()).then_some(both),
            held_out_agreement: (both > 0).then(|| f64::from(alike) / f64::from(both)),
            reward_mean: reward_mean / f64::from(decided.max(1)),
            loss: mean(shards().map(|statistics| statistics.loss).sum()),
            kl: mean(shards().map(|statistics| statistics.kl).sum()),
            clip_fraction: mean(shards().map(|statistics| statistics.clipped).sum::<u64>() as f64),
            ratio_deviation: shards()
                .map(|statistics| statistics.ratio_deviation)
                .fold(0.0, f64::max),
            grad_norm,
            learning_rate,
            terms,
            seconds: StepSeconds {
                wall: now.since(self.started) as f64 / 1000.0,
                ..self.seconds
            },
        }
    }
}

/// The mean score over these matches' candidates; each candidate of a group stands in as many matches as any other.
fn score<'a>(records: impl Iterator<Item = &'a VerdictRecord>) -> Option<f64> {
    let scores: Vec<f64> = records.filter_map(|record| record.scores).flatten().collect();
    (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
}
