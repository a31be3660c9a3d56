//! `[evaluation]`: what a run measures on held-out prompts.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// An independent metric on held-out pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatorName {
    /// The pixel rules of the quickstart's scenes.
    Scenes,
    /// The pixel rules of edited scenes: whether the instruction is carried out, and whether the rest is left alone.
    Edits,
}

/// `[evaluation]`: base against tuned on held-out prompts, and the judge on labelled pairs. Without this section there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// The metric that the judge does not use; left out, only the win rate is measured.
    pub evaluator: Option<EvaluatorName>,
    /// How many of the held-out prompts are painted, from the first on; left out, all of them.
    #[schemars(range(min = 1))]
    pub prompts: Option<u32>,
    /// Steps between two probes, which measure the policy of the moment on the first held-out prompts; left out, there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub every: Option<u32>,
    /// How many of the held-out prompts a probe paints, from the first on; left out, 32, or all where there are fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub subset: Option<u32>,
    /// Held-out prompts that a sampler leases at a time.
    #[schemars(range(min = 1, max = bounds::PER_STEP.most))]
    pub batch: u32,
    /// Labelled pairs on which the judge itself is measured.
    pub labelled: Option<PathBuf>,
}

/// Held-out prompts of a probe, where `subset` says nothing.
const SUBSET: u32 = 32;

impl EvaluationSpec {
    /// How many held-out prompts a probe paints, of as many as the evaluation paints; 0 without probes.
    pub fn probed(&self, held_out: usize) -> usize {
        let most = self.every.map_or(0, |_| self.subset.unwrap_or(SUBSET));
        held_out.min(most as usize)
    }

    /// The most pictures that the probes of so many steps paint.
    pub(super) fn probed_pictures(&self, steps: u32) -> u64 {
        let probes = steps / self.every.unwrap_or(u32::MAX).max(1);
        u64::from(probes) * u64::from(self.subset.unwrap_or(SUBSET))
    }
}

impl Default for EvaluationSpec {
    fn default() -> Self {
        Self {
            evaluator: None,
            prompts: None,
            every: None,
            subset: None,
            batch: 1,
            labelled: None,
        }
    }
}

impl Section for EvaluationSpec {
    fn check(&self, problems: &mut Problems) {
        problems.at_least_one(self.prompts.unwrap_or(1), "evaluation.prompts");
        problems.at_least_one(self.every.unwrap_or(1), "evaluation.every");
        problems.at_least_one(self.subset.unwrap_or(1), "evaluation.subset");
        problems.require(
            self.subset.is_none() || self.every.is_some(),
            "evaluation.subset",
            || "says how many prompts a probe paints, and there are no probes: set evaluation.every too".into(),
        );
        problems.count(self.batch.into(), bounds::PER_STEP, "evaluation.batch");
        if let Some(path) = &self.labelled {
            problems.require_set(path, "evaluation.labelled", "a file of labelled pairs, or leave it out");
        }
    }
}
