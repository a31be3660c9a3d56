//! Which blobs a run still needs.

use std::collections::BTreeSet;

use super::Run;
use super::results::{CandidateResult, GroupResult, ShardResult};
use crate::ids::{Digest, Step};
use crate::work::Policy;

impl Run {
    /// Every blob that a unit of this run may still read, that a checkpoint consists of, or that the latest
    /// `coordinator.keep_steps` committed steps left for people and for `gavel verify`.
    pub fn retained(&self) -> BTreeSet<Digest> {
        let mut blobs = BTreeSet::new();
        for labelled in &self.assets.labelled {
            blobs.extend([labelled.first, labelled.second]);
        }
        blobs.extend(self.results.base_images.iter().flatten());
        blobs.extend(self.results.tuned_images.iter().flatten());
        for (version, policy) in (0..).zip(&self.results.policies) {
            if self.keeps_policy(version) {
                blobs.extend(of_policy(policy));
            }
        }
        for flight in &self.flights {
            blobs.extend(of_step(&flight.groups, flight.shards.iter().flatten()));
        }
        for step in self
            .results
            .steps
            .iter()
            .rev()
            .take(self.spec.coordinator.keep_steps as usize)
        {
            blobs.extend(of_step(&step.groups, &step.shards));
        }
        blobs
    }

    /// The blobs that the latest commit made superfluous, unless something else needs the same bytes: of the step and of the
    /// policies that it pushed out of the window.
    pub fn released(&self) -> BTreeSet<Digest> {
        let committed = self.committed().0;
        let mut blobs = BTreeSet::new();
        let oldest = committed.checked_sub(self.spec.coordinator.keep_steps + 1);
        if let Some(step) = oldest.and_then(|place| self.results.steps.get(place as usize)) {
            blobs.extend(of_step(&step.groups, &step.shards));
        }
        for (version, policy) in (0..).zip(&self.results.policies) {
            if !self.keeps_policy(version) {
                blobs.extend(of_policy(policy));
            }
        }
        let retained = self.retained();
        blobs.retain(|blob| !retained.contains(blob));
        blobs
    }

    /// The latest policies, those that the steps in the window or in flight start from, and the checkpoints.
    fn keeps_policy(&self, version: u32) -> bool {
        let every = self.spec.checkpoints.every;
        let checkpoint = every > 0 && version > 0 && version.is_multiple_of(every);
        let first = self.committed().0.saturating_sub(self.spec.coordinator.keep_steps) + 1;
        checkpoint || version >= self.sampling_version(Step(first))
    }
}

fn of_policy(policy: &Policy) -> impl Iterator<Item = Digest> {
    [policy.adapter, policy.optimizer].into_iter().chain(policy.averaged)
}

fn of_step<'a>(
    groups: &'a [GroupResult],
    shards: impl IntoIterator<Item = &'a ShardResult>,
) -> impl Iterator<Item = Digest> {
    let candidates = groups.iter().flat_map(|group| &group.candidates);
    let made = candidates.flat_map(|CandidateResult { trajectory, image }| [*trajectory, *image]);
    made.chain(shards.into_iter().filter_map(|shard| shard.gradient))
}
