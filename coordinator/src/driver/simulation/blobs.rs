//! The blob store: which blobs are gone, and which are not what they should be.

use std::collections::BTreeSet;

use gavel_core::ids::Digest;
use gavel_core::work::{Assignment, Fault, Outcome, Unusable};

use super::chance::Chance;

/// Blobs that make trouble; all others are there.
#[derive(Default)]
pub(super) struct Blobs {
    lost: BTreeSet<Digest>,
    misleading: BTreeSet<Digest>,
    /// What the coordinator deleted because nobody needs it.
    deleted: BTreeSet<Digest>,
    /// Whether something was lost or misled: then steps may be taken again, and need what they once needed.
    troubled: bool,
    /// What was stored, in order; policies, on which everything else rests, once more.
    stored: Vec<Digest>,
    policies: Vec<Digest>,
}

impl Blobs {
    /// Loses one that somebody may still need. Returns whether there was one.
    pub(super) fn lose(&mut self, chance: &mut Chance) -> bool {
        let (among, window) = match chance.happens(0.3) {
            true => (&self.policies, 3),
            false => (&self.stored, 40),
        };
        if among.is_empty() {
            return false;
        }
        let back = chance.below(among.len().min(window) as u64) as usize;
        let which = among[among.len() - 1 - back];
        self.troubled = true;
        self.lost.insert(which)
    }

    /// Deletes what the coordinator says that nobody needs.
    pub(super) fn delete(&mut self, blobs: BTreeSet<Digest>) -> u64 {
        let count = blobs.len() as u64;
        self.deleted.extend(blobs);
        count
    }

    /// Whether the coordinator deleted one of these although nothing was lost.
    pub(super) fn deleted_in_use(&self, unusable: &[Unusable]) -> bool {
        !self.troubled && unusable.iter().any(|input| self.deleted.contains(&input.blob))
    }

    /// Stores a result's blobs, also in place of lost ones.
    pub(super) fn store(&mut self, outcome: &Outcome) {
        for blob in outputs(outcome) {
            self.lost.remove(&blob);
            self.deleted.remove(&blob);
            self.stored.push(blob);
        }
        if let Outcome::Initialised { .. } | Outcome::Committed { .. } = outcome {
            self.policies.extend(outputs(outcome));
        }
    }

    /// A blob that was stored is not what it should be.
    pub(super) fn mislead(&mut self, blob: Digest) {
        self.troubled = true;
        self.misleading.insert(blob);
    }

    pub(super) fn misleads(&self, outcome: &Outcome) -> bool {
        outputs(outcome).iter().any(|blob| self.misleading.contains(blob))
    }

    /// What somebody who does this unit finds unusable.
    pub(super) fn unusable(&self, assignment: &Assignment) -> Vec<Unusable> {
        let found = inputs(assignment).into_iter().filter_map(|blob| {
            let fault = match () {
                () if self.lost.contains(&blob) || self.deleted.contains(&blob) => Fault::Storage,
                () if self.misleading.contains(&blob) => Fault::Producer,
                () => return None,
            };
            Some(Unusable { blob, fault })
        });
        found.collect()
    }
}

/// The blobs that somebody who does this reads.
pub(super) fn inputs(assignment: &Assignment) -> Vec<Digest> {
    match assignment {
        Assignment::Initialise | Assignment::EvaluateSample { policy: None, .. } => vec![],
        Assignment::Sample { policy, .. } => vec![policy.adapter],
        Assignment::EvaluateSample {
            policy: Some(policy), ..
        } => vec![policy.averaged.unwrap_or(policy.adapter)],
        Assignment::Judge { pairs } => pairs.iter().flat_map(|pair| [pair.first, pair.second]).collect(),
        Assignment::Gradient { groups, policy, .. } => {
            let trajectories = groups.iter().flat_map(|group| &group.candidates);
            let trajectories = trajectories.map(|candidate| candidate.trajectory);
            trajectories.chain([policy.adapter]).collect()
        }
        Assignment::Commit { gradients, policy, .. } => {
            let policy = [policy.adapter, policy.optimizer].into_iter().chain(policy.averaged);
            gradients.iter().copied().chain(policy).collect()
        }
    }
}

/// The blobs that are stored with a result.
pub(super) fn outputs(outcome: &Outcome) -> Vec<Digest> {
    match outcome {
        Outcome::Initialised { policy, .. } | Outcome::Committed { policy, .. } => {
            let files = [policy.adapter, policy.optimizer].into_iter();
            files.chain(policy.averaged).collect()
        }
        Outcome::Sampled { samples, .. } => {
            let blobs = samples
                .iter()
                .flat_map(|sample| [Some(sample.image), sample.trajectory]);
            blobs.flatten().collect()
        }
        Outcome::Gradient { gradient, .. } => gradient.iter().copied().collect(),
        Outcome::Judged { .. } => vec![],
    }
}
