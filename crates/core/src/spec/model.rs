//! `[model]`, `[lora]`: what is trained.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::device::{Device, Dtype};
use super::problems::Problems;

/// The architecture of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFamily {
    /// FLUX.1, text to image.
    #[default]
    Flux,
    /// Qwen-Image-Edit, instruction editing.
    QwenImageEdit,
}

impl ModelFamily {
    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flux => "flux",
            Self::QwenImageEdit => "qwen_image_edit",
        }
    }
}

/// `[model]`: the frozen base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSpec {
    /// Architecture.
    pub family: ModelFamily,
    /// Folder in the diffusers layout (`model_index.json` at its root).
    pub path: PathBuf,
    /// Device of samplers and trainers.
    pub device: Device,
    /// Number format of the frozen weights.
    pub dtype: Dtype,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            family: ModelFamily::Flux,
            path: PathBuf::new(),
            device: Device::Cpu,
            dtype: Dtype::Bf16,
        }
    }
}

impl ModelSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require(self.family != ModelFamily::QwenImageEdit, "model.family", || {
            "`qwen_image_edit` (instruction editing) is not part of this version yet: this file holds the published \
             recipe, and training it comes with a later version; use a text-to-image family such as `flux` until then"
                .into()
        });
        problems.require_set(
            &self.path,
            "model.path",
            "the folder of the base model, in the diffusers layout",
        );
    }
}

/// `[lora]`: the adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSpec {
    /// Inner dimension r of A (r x in) and B (out x r).
    pub rank: usize,
    /// Scale numerator: the update is (alpha / rank) B A.
    pub alpha: f64,
    /// Must be 0: a forward with dropped units would not reproduce the sampler's log-probabilities.
    pub dropout: f64,
    /// Names that a module path must end with (after a dot) to carry an adapter, as PEFT matches them.
    pub target_modules: Vec<String>,
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: default_targets(ModelFamily::Flux),
        }
    }
}

impl LoraSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require(self.rank >= 1, "lora.rank", || {
            format!("must be at least 1, not {}", self.rank)
        });
        problems.require(self.alpha > 0.0 && self.alpha.is_finite(), "lora.alpha", || {
            format!("must be a positive number, not {}", self.alpha)
        });
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
    }
}

/// The published target modules of a family.
pub(super) fn default_targets(family: ModelFamily) -> Vec<String> {
    const ATTENTION: [&str; 8] = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    ];
    const FEED_FORWARD: [&str; 4] = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"];
    let names: &[&[&str]] = match family {
        ModelFamily::Flux => &[&ATTENTION, &FEED_FORWARD],
        ModelFamily::QwenImageEdit => &[&ATTENTION],
    };
    names.concat().into_iter().map(str::to_owned).collect()
}
