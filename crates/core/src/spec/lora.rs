//! `[lora]`: the adapter.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// `[lora]`: the adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSpec {
    /// Inner dimension r of A (r x in) and B (out x r).
    #[schemars(range(min = 1, max = bounds::RANK.most))]
    pub rank: usize,
    /// Scale numerator: the update is (alpha / rank) B A.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: f64,
    /// Must be 0: a forward with dropped units would not reproduce the sampler's log-probabilities.
    #[schemars(range(min = 0, max = 0))]
    pub dropout: f64,
    /// Names that a module path must end with (after a dot) to carry an adapter, as PEFT matches them.
    #[schemars(length(min = 1, max = bounds::MODULES.most))]
    pub target_modules: Vec<String>,
    /// The adapter that policy 0 is: a folder, or one weight file. Without it policy 0 is a fresh adapter, which changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: Self::PUBLISHED_TARGETS.map(str::to_owned).to_vec(),
            init: None,
        }
    }
}

impl LoraSpec {
    /// The published target modules of the default family. Those of another family are filled in by whoever reads the
    /// configuration and knows the families.
    pub const PUBLISHED_TARGETS: [&'static str; 12] = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    ];
}

impl Section for LoraSpec {
    fn check(&self, problems: &mut Problems) {
        problems.count(self.rank as u64, bounds::RANK, "lora.rank");
        problems.positive(self.alpha, "lora.alpha");
        problems.require(self.dropout == 0.0, "lora.dropout", || {
            format!(
                "must be 0, not {}: with dropout the trainer's forward would not reproduce the sampler's log-probabilities",
                self.dropout
            )
        });
        problems.require(!self.target_modules.is_empty(), "lora.target_modules", || {
            "must name at least one module".into()
        });
        problems.require(
            self.target_modules.iter().all(|name| !name.trim().is_empty()),
            "lora.target_modules",
            || "contains an empty name".into(),
        );
        problems.at_most(self.target_modules.len() as u64, bounds::MODULES, "lora.target_modules");
        for name in &self.target_modules {
            problems.length(name, bounds::NAME, "lora.target_modules");
        }
    }
}
