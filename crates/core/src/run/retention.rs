//! Which blobs a run still needs.

use std::collections::BTreeSet;

use super::Run;
use super::results::{GroupResult, ShardResult};
use crate::ids::{Digest, PromptIndex, Step};
use crate::work::{Part, rules};

impl Run {
    /// Every blob that a unit of this run may still read, and what is kept by rule besides:
    ///
    /// - the rubrics that were written, by which the same prompts are judged in later steps;
    /// - the pictures that were submitted with the run, and those of the held-out prompts, which its report shows;
    /// - the conditioning of tasks that a later step samples again;
    /// - all that the steps in flight have made, because a blob that is lost has its readers do their units again;
    /// - whole policies: checkpoints, the latest, those that the steps below start from, those that a probe still measures, and
    ///   the best of the measured ones;
    /// - what the latest `coordinator.keep_steps` committed steps have made, for people and for `gavel verify`.
    pub fn retained(&self) -> BTreeSet<Digest> {
        let mut blobs = BTreeSet::new();
        blobs.extend(digests(self.assets.blobs()));
        blobs.extend(self.written_rubrics().filter_map(|(_, rubric)| rubric));
        blobs.extend(self.results.base_images.iter().flatten());
        blobs.extend(self.results.tuned_images.iter().flatten());
        blobs.extend(
            self.results
                .probes
                .iter()
                .flat_map(|probe| probe.images.iter().flatten()),
        );
        for (version, policy) in self.results.policies.numbered() {
            if self.keeps_policy(version as u32) {
                blobs.extend(digests(policy.blobs()));
            }
        }
        blobs.extend(self.conditionings.blobs());
        for flight in &self.flights {
            blobs.extend(of_step(&flight.groups, flight.shards.iter().flatten()));
        }
        let kept_from = self.kept_from.0.saturating_sub(1) as usize;
        for step in self.results.steps.from_index(kept_from) {
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
        if let Some(step) = oldest.and_then(|index| self.results.steps.get(index as usize)) {
            blobs.extend(of_step(&step.groups, &step.shards));
        }
        let policies = self.released_policies.iter();
        for policy in policies.filter_map(|step| self.results.policies.get(step.0 as usize)) {
            blobs.extend(digests(policy.blobs()));
        }
        let retained = self.retained();
        blobs.retain(|blob| !retained.contains(blob));
        blobs
    }

    /// The latest policies, those that the steps in the window or in flight start from, the checkpoints, and those that are kept
    /// for what probes say of them.
    pub fn keeps_policy(&self, version: u32) -> bool {
        let first = self.kept_from;
        rules::is_checkpoint(&self.spec, Step(version))
            || version >= rules::sampling_version(&self.spec, first)
            || self.kept_for_probes.contains(&Step(version))
    }

    /// Notes which policies are kept no more now that a step is committed. Each is released once, however long the run goes on.
    pub(super) fn let_policies_go(&mut self) {
        self.held_policies.insert(self.committed());
        if self.committed() == Step(1) {
            self.held_policies.insert(Step(0));
        }
        let held = std::mem::take(&mut self.held_policies);
        let (kept, gone) = held.into_iter().partition(|step| self.keeps_policy(step.0));
        (self.held_policies, self.released_policies) = (kept, gone);
    }

    /// The first of the latest `coordinator.keep_steps` committed steps.
    pub(super) fn window(&self) -> Step {
        Step(self.committed().0.saturating_sub(self.spec.coordinator.keep_steps) + 1)
    }
}

fn digests(blobs: impl Iterator<Item = (Digest, Part)>) -> impl Iterator<Item = Digest> {
    blobs.map(|(digest, _)| digest)
}

fn of_step<'a>(
    groups: &'a [GroupResult],
    shards: impl IntoIterator<Item = &'a ShardResult>,
) -> impl Iterator<Item = Digest> {
    let groups = (0..).map(PromptIndex).zip(groups);
    let sampled = groups.flat_map(|(index, group)| digests(group.blobs(index)));
    sampled.chain(shards.into_iter().filter_map(|shard| shard.gradient))
}
