//! `[run]`: name, seed and length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// `[run]`: name, seed and length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct RunSection {
    /// The run's id and the name of its folder: letters, digits, `-`, `_`, `.`.
    #[schemars(length(min = 1, max = bounds::RUN_NAME.most), regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"))]
    pub name: String,
    /// Every random number of the run is derived from this.
    #[schemars(range(max = bounds::SEED.most))]
    pub seed: u64,
    /// Optimizer steps; with 0 the run trains nothing, and evaluates what it begins with.
    #[schemars(range(max = bounds::STEPS.most))]
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
        check_name(&self.name, problems);
        problems.at_most(self.seed, bounds::SEED, "run.seed");
        check_steps(self.steps, problems);
    }
}

pub(super) fn check_steps(steps: u32, problems: &mut Problems) {
    problems.at_most(steps.into(), bounds::STEPS, "run.steps");
}

/// Says whether a run may have this name.
///
/// # Errors
/// It is empty, too long, or has characters that have a meaning to folders and addresses.
pub fn check_run_name(name: &str) -> Result<(), Problems> {
    let mut problems = Problems::default();
    check_name(name, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// A run's name is the name of a folder and a part of addresses.
fn check_name(name: &str, problems: &mut Problems) {
    let most = bounds::RUN_NAME.most;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_short = !name.is_empty() && bounds::RUN_NAME.admits(name.len() as u64);
    let is_plain = name.chars().all(allowed) && !name.starts_with('.');
    problems.require(is_short && is_plain, "run.name", || {
        let found = match is_short {
            true => format!("`{}`", name.escape_debug()),
            false => format!("{} bytes", name.len()),
        };
        format!("must be 1 to {most} letters, digits, `-`, `_` or `.`, and not begin with a dot, not {found}")
    });
}
