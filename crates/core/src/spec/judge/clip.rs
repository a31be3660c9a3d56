//! Judges that are CLIP's scores: of two pictures the one that fits the words better is preferred.

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::back_end::BackEnd;
use super::in_process::InProcessSpec;
use crate::spec::device::{DEVICE, Device, Dtype};
use crate::spec::problems::Problems;

/// The architecture of a model that scores pictures in the judge worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClipFamily {
    /// CLIP, and what has its architecture, such as PickScore, or SigLIP.
    #[default]
    Clip,
}

/// A CLIP in the judge worker's own memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClipSpec {
    /// Architecture.
    pub family: ClipFamily,
    /// Folder in the transformers layout (`config.json` at its root).
    pub path: PathBuf,
    /// Subfolder of `path` with the weights of a head that scores a picture by its embedding, whatever its prompt says; without one the score
    /// is how well the picture fits the words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Device.
    #[schemars(with = "String", regex(pattern = DEVICE))]
    pub device: Device,
    /// Number format.
    pub dtype: Dtype,
    /// How far apart two scores are that make a probability of 0.73: it is the logistic of their difference over this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

impl Default for ClipSpec {
    fn default() -> Self {
        let InProcessSpec {
            path, device, dtype, ..
        } = InProcessSpec::default();
        Self {
            family: ClipFamily::default(),
            path,
            head: None,
            device,
            dtype,
            temperature: 1.0,
        }
    }
}

impl BackEnd for ClipSpec {
    const FAMILIES: &'static [&'static str] = &["clip"];

    fn check(&self, at: &str, problems: &mut Problems) {
        problems.require_set(
            &self.path,
            &format!("{at}.path"),
            "the folder of the CLIP model, in the transformers layout",
        );
        if let Some(head) = &self.head {
            let is_name = Path::new(head).components().eq([Component::Normal(head.as_ref())]);
            problems.require(is_name, &format!("{at}.head"), || {
                format!("must be the name of a folder in {at}.path, not `{head}`")
            });
        }
        problems.positive(self.temperature, &format!("{at}.temperature"));
    }
}
