//! `[prompts]`: what is painted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;

/// `[prompts]`: the prompt files, one prompt on each line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptsSpec {
    /// Training prompts.
    pub train: PathBuf,
    /// Prompts that are never trained on; evaluation needs them.
    pub held_out: Option<PathBuf>,
    /// Prompts, and so pairs, of one optimizer step over the whole fleet.
    pub per_step: u32,
    /// Tokens that the T5 encoder sees; longer prompts are cut.
    pub max_sequence_length: usize,
}

impl Default for PromptsSpec {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            held_out: None,
            per_step: 8,
            max_sequence_length: 512,
        }
    }
}

impl Section for PromptsSpec {
    fn check(&self, problems: &mut Problems) {
        problems.require_set(&self.train, "prompts.train", "a text file with one prompt on each line");
        if let Some(path) = &self.held_out {
            problems.require_set(
                path,
                "prompts.held_out",
                "a text file with one prompt on each line, or leave it out",
            );
        }
        problems.at_least_one(self.per_step, "prompts.per_step");
        problems.at_least_one(self.max_sequence_length as u64, "prompts.max_sequence_length");
    }
}
