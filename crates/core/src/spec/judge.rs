//! `[judge]`: the frozen vision-language model that gives the verdicts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::device::{Device, Dtype};
use super::problems::Problems;

/// The judge's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeFamily {
    /// Qwen2.5-VL, hosted in the judge worker.
    #[default]
    #[serde(rename = "qwen2_5_vl")]
    Qwen2_5Vl,
}

/// `[judge]`: model, template and rubric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSpec {
    /// Architecture.
    pub family: JudgeFamily,
    /// Folder in the transformers layout (`config.json` at its root).
    pub path: PathBuf,
    /// The prompt template around pair, caption and rubric.
    pub template: PathBuf,
    /// The rubric set: TOML, or a bare text of criteria.
    pub rubric: PathBuf,
    /// The judge abstains when the mean probability is closer than this to one half.
    pub margin: f64,
    /// Pairs that a judge leases at a time.
    pub batch: u32,
    /// Device.
    pub device: Device,
    /// Number format.
    pub dtype: Dtype,
}

impl Default for JudgeSpec {
    fn default() -> Self {
        Self {
            family: JudgeFamily::Qwen2_5Vl,
            path: PathBuf::new(),
            template: PathBuf::new(),
            rubric: PathBuf::new(),
            margin: 0.0,
            batch: 1,
            device: Device::Cpu,
            dtype: Dtype::Bf16,
        }
    }
}

impl JudgeSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require_set(
            &self.path,
            "judge.path",
            "the folder of the judge model, in the transformers layout",
        );
        problems.require_set(
            &self.template,
            "judge.template",
            "a judge template such as configs/judge/instruct.toml",
        );
        problems.require_set(&self.rubric, "judge.rubric", "a rubric set, or a text file of criteria");
        problems.require(self.margin >= 0.0 && self.margin < 0.5, "judge.margin", || {
            format!("must lie in 0 to 0.5, 0.5 excluded, not {}", self.margin)
        });
        problems.at_least_one(self.batch, "judge.batch");
    }
}
