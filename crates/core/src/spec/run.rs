//! `[run]`: name, seed and length.

use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;

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

impl Section for RunSection {
    fn check(&self, problems: &mut Problems) {
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
