//! `[run]`, `[checkpoints]`, `[evaluation]`: the run as a whole.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// `[run]`: name, seed and length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSection {
    /// The run's id and the name of its folder: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Every random number of the run is derived from this.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u32,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            seed: 0,
            steps: 300,
        }
    }
}

impl RunSection {
    pub(super) fn check(&self, problems: &mut Problems) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &self.name;
        problems.require(
            !name.is_empty() && name.len() <= 100 && name.chars().all(allowed) && !name.starts_with('.'),
            "run.name",
            || {
                format!(
                    "must be 1 to 100 letters, digits, `-`, `_` or `.`, and not begin with a dot, not `{}`",
                    name.escape_debug()
                )
            },
        );
        problems.at_least_one(self.steps, "run.steps");
    }
}

/// `[checkpoints]`: which policies are written to the run's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Steps between two checkpoints; 0 writes only the final adapter.
    pub every: u32,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self { every: 50 }
    }
}

/// An independent metric on held-out pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatorName {
    /// The pixel rules of the quickstart's scenes.
    Scenes,
}

/// `[evaluation]`: base against tuned on held-out prompts, and the judge on labelled pairs. Without this section there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// The metric that the judge does not use; left out, only the win rate is measured.
    pub evaluator: Option<EvaluatorName>,
    /// How many of the held-out prompts are painted, from the first on; left out, all of them.
    pub prompts: Option<u32>,
    /// Held-out prompts that a sampler leases at a time.
    pub batch: u32,
    /// Labelled pairs on which the judge itself is measured.
    pub labelled: Option<PathBuf>,
}

impl Default for EvaluationSpec {
    fn default() -> Self {
        Self {
            evaluator: None,
            prompts: None,
            batch: 1,
            labelled: None,
        }
    }
}

impl EvaluationSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.at_least_one(self.prompts.unwrap_or(1), "evaluation.prompts");
        problems.at_least_one(self.batch, "evaluation.batch");
        if let Some(path) = &self.labelled {
            problems.require_set(path, "evaluation.labelled", "a file of labelled pairs, or leave it out");
        }
    }
}
