//! Which conditionings a run hands to its samplers, so that a task is encoded once however often it is sampled.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Run;
use crate::ids::{Digest, Step};
use crate::schedule;

/// The conditioning of each task that was sampled and will be sampled again, by its line in the prompt file: at most one for
/// each task. A result names it first; whether a later sampler is handed it or encodes the task changes no byte of what it
/// makes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Conditionings(BTreeMap<u32, Digest>);

impl Conditionings {
    /// The blob that a sampler of this line is handed.
    pub(super) fn get(&self, line: u32) -> Option<Digest> {
        self.0.get(&line).copied()
    }

    /// Every such blob.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.0.values().copied()
    }

    /// Notes what a result names; the first one counts.
    pub(super) fn learn(&mut self, line: u32, blob: Digest) {
        self.0.entry(line).or_insert(blob);
    }

    /// Forgets blobs that cannot be used.
    pub(super) fn forget(&mut self, blobs: &BTreeSet<Digest>) {
        self.0.retain(|_, known| !blobs.contains(known));
    }
}

impl Run {
    /// To be called when a step is committed and when the run is to have another number of steps: forgets what no later step
    /// samples.
    pub(super) fn let_conditionings_go(&mut self) {
        if self.conditionings.0.is_empty() {
            return;
        }
        let run = &self.spec.run;
        let later = schedule::painted_later(
            run.seed,
            self.assets.prompts.len() as u32,
            self.committed(),
            Step(run.steps),
            self.spec.prompts.per_step,
        );
        self.conditionings
            .0
            .retain(|line, _| later.get(*line as usize).copied().unwrap_or_default());
    }
}
