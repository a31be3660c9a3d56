//! Judges whose model is in the judge worker's own memory.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::back_end::BackEnd;
use crate::spec::device::{DEVICE, Device, Dtype};
use crate::spec::problems::Problems;

/// The architecture of a model that a judge worker loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum InProcessFamily {
    /// The one that the folder's `config.json` names.
    #[serde(rename = "auto")]
    Auto,
    /// Qwen2.5-VL.
    #[default]
    #[serde(rename = "qwen2_5_vl")]
    Qwen2_5Vl,
    /// Qwen3-VL.
    #[serde(rename = "qwen3_vl")]
    Qwen3Vl,
}

/// A model in the judge worker's own memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InProcessSpec {
    /// Architecture.
    pub family: InProcessFamily,
    /// Folder in the transformers layout (`config.json` at its root).
    pub path: PathBuf,
    /// Device.
    #[schemars(with = "String", regex(pattern = DEVICE))]
    pub device: Device,
    /// Number format.
    pub dtype: Dtype,
}

impl Default for InProcessSpec {
    fn default() -> Self {
        Self {
            family: InProcessFamily::default(),
            path: PathBuf::new(),
            device: Device::Cpu,
            dtype: Dtype::Bf16,
        }
    }
}

impl BackEnd for InProcessSpec {
    const FAMILIES: &'static [&'static str] = &["qwen2_5_vl", "qwen3_vl", "auto"];
    const HARMLESS: &'static [&'static str] = &["device", "dtype"];

    fn check(&self, at: &str, problems: &mut Problems) {
        problems.require_set(
            &self.path,
            &format!("{at}.path"),
            "the folder of the judge model, in the transformers layout",
        );
    }
}
