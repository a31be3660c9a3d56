//! `[prompts]`: what is painted, or edited.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// To how many pixels source pictures are resized. Their aspect ratio is kept as far as the model's multiples of pixels allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceAreas {
    /// For the autoencoder, whose latents the denoiser reads.
    #[schemars(range(min = 1, max = bounds::PIXELS.most))]
    pub latents: usize,
    /// For the text encoder.
    #[schemars(range(min = 1, max = bounds::PIXELS.most))]
    pub text: usize,
}

/// `[prompts]`: the files of the prompts or, for a family that edits, of the edits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["train"]))]
pub struct PromptsSpec {
    /// Training prompts.
    pub train: PathBuf,
    /// Prompts that are never trained on; evaluation needs them.
    pub held_out: Option<PathBuf>,
    /// Prompts, and so pairs, of one optimizer step over the whole fleet.
    #[schemars(range(min = 1, max = bounds::PER_STEP.most))]
    pub per_step: u32,
    /// Tokens of the encoded words. Where words alone are encoded longer prompts are cut; an edit's are refused.
    #[schemars(range(min = 1, max = bounds::SEQUENCE.most))]
    pub max_sequence_length: usize,
    /// Pixels of the source pictures of edits; without it those of the model's own pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_areas: Option<SourceAreas>,
}

impl Default for PromptsSpec {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            held_out: None,
            per_step: 8,
            max_sequence_length: 512,
            source_areas: None,
        }
    }
}

impl Section for PromptsSpec {
    fn check(&self, problems: &mut Problems) {
        problems.require_set(
            &self.train,
            "prompts.train",
            "a file of prompts or edits, one on each line",
        );
        if let Some(path) = &self.held_out {
            problems.require_set(
                path,
                "prompts.held_out",
                "a file of prompts or edits, one on each line, or leave it out",
            );
        }
        problems.count(self.per_step.into(), bounds::PER_STEP, "prompts.per_step");
        let sequence = self.max_sequence_length as u64;
        problems.count(sequence, bounds::SEQUENCE, "prompts.max_sequence_length");
        if let Some(areas) = self.source_areas {
            problems.count(areas.latents as u64, bounds::PIXELS, "prompts.source_areas.latents");
            problems.count(areas.text as u64, bounds::PIXELS, "prompts.source_areas.text");
        }
    }
}
