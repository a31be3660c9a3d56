//! The step in flight: its pairs and shards, and what has become ready by them.

use std::ops::Range;

use super::results::{CandidateResult, PairResult, ShardResult, StepRecord, StepSeconds};
use crate::ids::{Millis, Step};
use crate::schedule;
use crate::spec::ObjectiveSpec;
use crate::verdict::{Verdict, VerdictRecord};

/// A step that is not committed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct StepInFlight {
    /// The step.
    pub step: Step,
    /// When it began.
    pub started: Millis,
    /// Its pairs, by place.
    pub pairs: Vec<PairResult>,
    /// Its shards, once they are done; a shard without a decided pair is done without work.
    pub shards: Vec<Option<ShardResult>>,
    /// Pairs whose candidates exist.
    pub sampled: u32,
    /// Pairs with a verdict.
    pub judged: u32,
    /// Shards that are done.
    pub shards_done: u32,
    /// Seconds so far, without `wall`.
    pub seconds: StepSeconds,
}

impl StepInFlight {
    pub(super) fn new(step: Step, lines: Vec<u32>, shards: u32, now: Millis) -> Self {
        Self {
            step,
            started: now,
            pairs: lines
                .into_iter()
                .map(|line| PairResult {
                    line,
                    ..PairResult::default()
                })
                .collect(),
            shards: vec![None; shards as usize],
            sampled: 0,
            judged: 0,
            shards_done: 0,
            seconds: StepSeconds::default(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.pairs.len() as u32
    }

    pub(super) fn part(&self, places: &Range<u32>) -> &[PairResult] {
        &self.pairs[places.start as usize..places.end as usize]
    }

    pub(super) fn part_mut(&mut self, places: &Range<u32>) -> &mut [PairResult] {
        &mut self.pairs[places.start as usize..places.end as usize]
    }

    /// Notes sampled candidates; returns the judge chunks of `batch` pairs that have all theirs now.
    pub(super) fn note_samples(
        &mut self,
        places: &Range<u32>,
        candidates: Vec<[CandidateResult; 2]>,
        batch: u32,
    ) -> Vec<u32> {
        for (pair, candidates) in self.part_mut(places).iter_mut().zip(candidates) {
            pair.candidates = Some(candidates);
        }
        self.sampled += places.end - places.start;
        schedule::overlapping(places, batch)
            .filter(|chunk| {
                let extent = schedule::extent(*chunk, batch, self.count());
                self.part(&extent).iter().all(|pair| pair.candidates.is_some())
            })
            .collect()
    }

    /// Notes verdicts. Shards of `size` pairs that have all theirs now and not one decided pair are done hereby.
    pub(super) fn note_verdicts(&mut self, places: &Range<u32>, verdicts: Vec<VerdictRecord>, size: u32) {
        for (pair, verdict) in self.part_mut(places).iter_mut().zip(verdicts) {
            pair.verdict = Some(verdict);
        }
        self.judged += places.end - places.start;
        for shard in schedule::overlapping(places, size) {
            let pairs = self.part(&schedule::extent(shard, size, self.count()));
            let judged = pairs.iter().all(|pair| pair.verdict.is_some());
            if judged && !pairs.iter().any(PairResult::is_decided) {
                self.note_shard(shard, ShardResult::default());
            }
        }
    }

    /// Those of these shards of `size` pairs that are not done although all their pairs are judged.
    pub(super) fn trainable(&self, shards: Range<u32>, size: u32) -> Vec<u32> {
        let judged = |shard: &u32| {
            let pairs = self.part(&schedule::extent(*shard, size, self.count()));
            pairs.iter().all(|pair| pair.verdict.is_some())
        };
        let open = shards.filter(|shard| self.shards[*shard as usize].is_none());
        open.filter(judged).collect()
    }

    /// Takes back the samples of these places with all that followed from them. Returns the judge chunks of `batch` pairs and
    /// the shards of `size` pairs that they had a part in.
    pub(super) fn forget_samples(&mut self, places: &Range<u32>, batch: u32, size: u32) -> (Range<u32>, Range<u32>) {
        let lost = self
            .part(places)
            .iter()
            .filter(|pair| pair.candidates.is_some())
            .count();
        self.sampled -= lost as u32;
        for pair in self.part_mut(places) {
            pair.candidates = None;
        }
        let chunks = schedule::overlapping(places, batch);
        let judged = chunks.start * batch..self.count().min(chunks.end * batch);
        for pair in self.part_mut(&judged) {
            pair.skipped = None;
        }
        let lost = self.part(&judged).iter().filter(|pair| pair.verdict.is_some()).count();
        self.judged -= lost as u32;
        for pair in self.part_mut(&judged) {
            pair.verdict = None;
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

    /// Whether every pair has been judged and not one of them could be; the last reason then.
    pub(super) fn unjudgeable(&self) -> Option<&str> {
        let mut last = None;
        for pair in &self.pairs {
            match &pair.verdict {
                Some(VerdictRecord {
                    verdict: Verdict::Failed { reason },
                    ..
                }) => last = Some(reason.as_str()),
                _ => return None,
            }
        }
        last
    }

    /// Takes all verdicts back, for another try.
    pub(super) fn forget_verdicts(&mut self) {
        for pair in &mut self.pairs {
            pair.verdict = None;
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
    pub(super) fn record(
        &self,
        objective: &ObjectiveSpec,
        grad_norm: f64,
        learning_rate: f64,
        now: Millis,
    ) -> StepRecord {
        let (mut decided, mut abstained, mut failed, mut skipped, mut consistent) = (0, 0, 0, 0, 0);
        for pair in &self.pairs {
            let Some(record) = &pair.verdict else { continue };
            match record.verdict {
                Verdict::Preferred { .. } => decided += 1,
                Verdict::Abstain { .. } => abstained += 1,
                Verdict::Failed { .. } => failed += 1,
            }
            skipped += u32::from(pair.skipped.is_some());
            consistent += u32::from(record.is_judged() && record.orders_agree());
        }
        let terms = self.terms();
        let mean = |sum: f64| if terms == 0 { 0.0 } else { sum / terms as f64 };
        let shards = || self.shards.iter().flatten().map(|shard| &shard.statistics);
        let judged = decided + abstained;
        StepRecord {
            step: self.step,
            pairs: self.count(),
            decided,
            abstained,
            failed,
            skipped,
            order_consistency: if judged == 0 {
                0.0
            } else {
                f64::from(consistent) / f64::from(judged)
            },
            reward_mean: if decided == 0 {
                0.0
            } else {
                (objective.reward_preferred + objective.reward_dispreferred) / 2.0
            },
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
                wall: now.0.saturating_sub(self.started.0) as f64 / 1000.0,
                ..self.seconds
            },
        }
    }
}

impl PairResult {
    /// Whether one candidate is preferred.
    pub fn is_decided(&self) -> bool {
        matches!(
            &self.verdict,
            Some(VerdictRecord {
                verdict: Verdict::Preferred { .. },
                ..
            })
        )
    }
}
