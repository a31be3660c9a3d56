//! What is written of each step, so that many are read in a moment: rows without names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::past::Commit;
use super::super::results::{StepRecord, StepSeconds};
use crate::ids::{Digest, Fence, Step, WorkerId};
use crate::work::{AskedMatches, Policy};

/// A step's figures: step; pairs, decided, abstained, failed, skipped; terms; order consistency, mean reward, loss, KL, clip
/// fraction, ratio deviation, gradient norm, learning rate; seconds of sampling, judging, training, commit, wall; diversity; pairs that
/// the held-out judge decided too, and its agreement; how its matches were asked; the mean scores of judge and held-out judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RecordRow(Figures);

type Figures = (
    Step,
    [u32; 5],
    u64,
    [f64; 8],
    [f64; 5],
    Option<f64>,
    Option<u32>,
    Option<f64>,
    Option<AskedMatches>,
    [Option<f64>; 2],
);

impl From<&StepRecord> for RecordRow {
    fn from(record: &StepRecord) -> Self {
        // Each field is named, so that a new one does not compile before it has a place in the row.
        let StepRecord {
            step,
            pairs,
            decided,
            abstained,
            failed,
            skipped,
            order_consistency,
            asked,
            diversity,
            score,
            held_out_score,
            held_out_pairs,
            held_out_agreement,
            reward_mean,
            loss,
            kl,
            clip_fraction,
            ratio_deviation,
            grad_norm,
            learning_rate,
            terms,
            seconds:
                StepSeconds {
                    sample,
                    judge,
                    train,
                    commit,
                    wall,
                },
        } = *record;
        Self((
            step,
            [pairs, decided, abstained, failed, skipped],
            terms,
            [
                order_consistency,
                reward_mean,
                loss,
                kl,
                clip_fraction,
                ratio_deviation,
                grad_norm,
                learning_rate,
            ],
            [sample, judge, train, commit, wall],
            diversity,
            held_out_pairs,
            held_out_agreement,
            asked,
            [score, held_out_score],
        ))
    }
}

impl From<RecordRow> for StepRecord {
    fn from(RecordRow(row): RecordRow) -> Self {
        let (step, counts, terms, figures, seconds, diversity, held_out_pairs, held_out_agreement, asked, scores) = row;
        let [score, held_out_score] = scores;
        let [pairs, decided, abstained, failed, skipped] = counts;
        let [
            order_consistency,
            reward_mean,
            loss,
            kl,
            clip_fraction,
            ratio_deviation,
            grad_norm,
            learning_rate,
        ] = figures;
        let [sample, judge, train, commit, wall] = seconds;
        Self {
            step,
            pairs,
            decided,
            abstained,
            failed,
            skipped,
            order_consistency,
            asked,
            diversity,
            score,
            held_out_score,
            held_out_pairs,
            held_out_agreement,
            reward_mean,
            loss,
            kl,
            clip_fraction,
            ratio_deviation,
            grad_norm,
            learning_rate,
            terms,
            seconds: StepSeconds {
                sample,
                judge,
                train,
                commit,
                wall,
            },
        }
    }
}

/// A policy: adapter, optimizer state, averaged adapter; manifest and number of tensors where they are not those of the policy
/// before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PolicyRow(Digest, Digest, Option<Digest>, Option<(Digest, u32)>);

impl PolicyRow {
    /// The rows of policies with their versions.
    pub(super) fn of<'a>(policies: impl Iterator<Item = (usize, &'a Policy)>) -> Vec<(usize, Self)> {
        let mut shape = None;
        let row = |(version, policy): (usize, &Policy)| {
            let Policy {
                adapter,
                optimizer,
                averaged,
                manifest,
                tensors,
            } = *policy;
            let other = (shape != Some((manifest, tensors))).then_some((manifest, tensors));
            shape = Some((manifest, tensors));
            (version, Self(adapter, optimizer, averaged, other))
        };
        policies.map(row).collect()
    }

    /// The policies of such rows. A first row without a shape is none that [`PolicyRow::of`] writes, and gets that of nothing.
    pub(super) fn policies(rows: Vec<(usize, Self)>) -> Vec<(usize, Policy)> {
        let (mut manifest, mut tensors) = (Digest([0; 32]), 0);
        let policy = |(version, Self(adapter, optimizer, averaged, other))| {
            (manifest, tensors) = other.unwrap_or((manifest, tensors));
            let policy = Policy {
                adapter,
                optimizer,
                averaged,
                manifest,
                tensors,
            };
            (version, policy)
        };
        rows.into_iter().map(policy).collect()
    }
}

/// A commit: the step's figures, the policy, the grant, the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct CommitRow(RecordRow, PolicyRow, Fence, WorkerId);

impl From<Commit> for CommitRow {
    fn from(commit: Commit) -> Self {
        let Commit {
            record,
            policy,
            fence,
            worker,
        } = commit;
        let Policy {
            adapter,
            optimizer,
            averaged,
            manifest,
            tensors,
        } = policy;
        let policy = PolicyRow(adapter, optimizer, averaged, Some((manifest, tensors)));
        Self(RecordRow::from(&record), policy, fence, worker)
    }
}

impl From<CommitRow> for Commit {
    fn from(CommitRow(record, policy, fence, worker): CommitRow) -> Self {
        let PolicyRow(adapter, optimizer, averaged, shape) = policy;
        // None is written without its shape.
        let (manifest, tensors) = shape.unwrap_or((Digest([0; 32]), 0));
        Self {
            record: record.into(),
            policy: Policy {
                adapter,
                optimizer,
                averaged,
                manifest,
                tensors,
            },
            fence,
            worker,
        }
    }
}

/// Numbers for workers: a snapshot names each once.
#[derive(Debug, Default)]
pub(super) struct WorkerNumbers(BTreeMap<WorkerId, usize>);

impl WorkerNumbers {
    /// The worker's number, a new one where it has none.
    pub(super) fn of(&mut self, worker: &WorkerId) -> usize {
        if let Some(number) = self.0.get(worker) {
            return *number;
        }
        let number = self.0.len();
        self.0.insert(worker.clone(), number);
        number
    }

    /// The workers in the order of their numbers.
    pub(super) fn names(self) -> Vec<WorkerId> {
        let mut numbered: Vec<_> = self.0.into_iter().collect();
        numbered.sort_by_key(|(_, number)| *number);
        numbered.into_iter().map(|(worker, _)| worker).collect()
    }
}
