//! Which of the Qwen-Image pipelines a folder holds.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::denoiser::model_index::check_model_index;
use crate::{Family, LoadError};

/// The pipelines, which share their parts and differ in what they make of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `QwenImagePipeline`.
    TextToImage,
    /// `QwenImageEditPipeline`: one source picture.
    Edit,
    /// `QwenImageEditPlusPipeline` of 2509 and 2511: several.
    EditPlus,
}

/// The parts of every pipeline and the classes that this implementation computes.
const PARTS: &[(&str, &[&str])] = &[
    ("transformer", &["QwenImageTransformer2DModel"]),
    ("vae", &["AutoencoderKLQwenImage"]),
    ("text_encoder", &["Qwen2_5_VLForConditionalGeneration"]),
    ("tokenizer", &["Qwen2Tokenizer", "Qwen2TokenizerFast"]),
    ("scheduler", &["FlowMatchEulerDiscreteScheduler"]),
];
/// What only the edit pipelines have.
const EDIT_PARTS: &[(&str, &[&str])] = &[("processor", &["Qwen2VLProcessor", "Qwen2_5_VLProcessor"])];

impl Kind {
    /// The kind of a folder that must hold `family`.
    ///
    /// # Errors
    /// [`LoadError::FolderMissing`]; [`LoadError::Unsupported`] when `model_index.json` names classes of another family.
    pub(super) fn of(family: Family, dir: &Path) -> Result<Self, LoadError> {
        let class = check_model_index(dir, family.pipeline_classes(), PARTS)?;
        let kind = match class.as_str() {
            "QwenImagePipeline" => Self::TextToImage,
            "QwenImageEditPipeline" => Self::Edit,
            _ => Self::EditPlus,
        };
        if kind != Self::TextToImage {
            check_model_index(dir, family.pipeline_classes(), EDIT_PARTS)?;
        }
        Ok(kind)
    }

    /// How many source pictures a task has. Of 2509 and 2511 more than three are not advised by those who trained them.
    pub(super) fn source_pictures(self) -> RangeInclusive<usize> {
        match self {
            Self::TextToImage => 0..=0,
            Self::Edit => 1..=1,
            Self::EditPlus => 1..=3,
        }
    }

    /// The folders of a pipeline that may hold its tokenizer, the one that the pipeline itself reads first.
    pub(super) fn tokenizer_dirs(self, dir: &Path) -> Vec<PathBuf> {
        let names: &[&str] = match self {
            Self::TextToImage => &["tokenizer"],
            Self::Edit | Self::EditPlus => &["processor", "tokenizer"],
        };
        names.iter().map(|name| dir.join(name)).collect()
    }
}
