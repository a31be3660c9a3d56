//! `[model]`: what is trained.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::device::{DEVICE, Device, Dtype, PROCESSOR, Quantization};
use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// The name of an architecture. Which names there are is known to those who load models.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct FamilyName(String);

/// A text that cannot be the name of an architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of an architecture: small letters, digits and `_`")]
pub struct InvalidFamilyName(pub String);

impl FamilyName {
    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for FamilyName {
    fn default() -> Self {
        Self("flux".to_owned())
    }
}

impl fmt::Display for FamilyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FamilyName {
    type Error = InvalidFamilyName;

    fn try_from(name: String) -> Result<Self, InvalidFamilyName> {
        let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        match !name.is_empty() && name.chars().all(allowed) {
            true => Ok(Self(name)),
            false => Err(InvalidFamilyName(name)),
        }
    }
}

impl From<FamilyName> for String {
    fn from(name: FamilyName) -> Self {
        name.0
    }
}

/// `[model]`: the frozen base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct ModelSpec {
    /// Architecture.
    pub family: FamilyName,
    /// Folder in the diffusers layout (`model_index.json` at its root).
    pub path: PathBuf,
    /// Device of samplers and trainers.
    #[schemars(with = "String", regex(pattern = DEVICE))]
    pub device: Device,
    /// Number format of the frozen weights.
    pub dtype: Dtype,
    /// Where text encoders compute; without it where all else does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = PROCESSOR))]
    pub text_encoder_device: Option<Device>,
    /// Narrower format of the large frozen weights; without it they are kept as `dtype` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            family: FamilyName::default(),
            path: PathBuf::new(),
            device: Device::Cpu,
            dtype: Dtype::Bf16,
            text_encoder_device: None,
            quantization: None,
        }
    }
}

impl Section for ModelSpec {
    fn check(&self, problems: &mut Problems) {
        problems.length(self.family.as_str(), bounds::NAME, "model.family");
        problems.require_set(
            &self.path,
            "model.path",
            "the folder of the base model, in the diffusers layout",
        );
        problems.require(self.dtype != Dtype::F16, "model.dtype", || {
            "f16 cannot train: the gradient of a picture is smaller than its smallest numbers; set \"bf16\" or \"f32\"".into()
        });
        let elsewhere = self.text_encoder_device.filter(|device| device.is_gpu());
        problems.require(elsewhere.is_none(), "model.text_encoder_device", || {
            "text encoders compute on `model.device` or on the processor; set \"cpu\", or leave the key out".into()
        });
    }
}
