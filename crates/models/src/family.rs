//! The diffusion families, and the only code that chooses among them.
//!
//! To add a family, write its module beside `flux`, add a variant here, and fill in the arms that the compiler asks for.

use std::fmt;
use std::path::{Path, PathBuf};

use gavel_core::spec::LoraSpec;

use crate::LoadError;
use crate::denoiser::{Denoiser, Inspection, Pipeline};
use crate::flux::{FluxInspection, FluxPipeline, FluxTransformer};
use crate::load::Placement;
use crate::load::read_json;
use crate::qwen::{QwenImageInspection, QwenImagePipeline, QwenImageTransformer};

/// A family of diffusion models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// FLUX text-to-image, in the layout of diffusers' `FluxPipeline`.
    Flux,
    /// Qwen-Image text-to-image, in the layout of diffusers' `QwenImagePipeline`.
    QwenImage,
    /// Qwen-Image-Edit and its successors 2509 and 2511, in the layouts of diffusers' `QwenImageEditPipeline` and
    /// `QwenImageEditPlusPipeline`.
    QwenImageEdit,
}

/// No family has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no model family is called `{found}`{}; the families are {}",
    nearest.map(|nearest| format!(", did you mean `{nearest}`")).unwrap_or_default(),
    names_of(Family::ALL)
)]
pub struct UnknownFamily {
    /// The name that was asked for.
    pub found: String,
    /// The most similar name, if one is similar at all.
    pub nearest: Option<&'static str>,
}

impl gavel_core::Hint for UnknownFamily {
    fn hint(&self) -> Option<String> {
        Some(format!("set `model.family` to one of {}", names_of(Family::ALL)))
    }
}

fn names_of(families: &[Family]) -> String {
    let names: Vec<String> = families.iter().map(|family| format!("`{family}`")).collect();
    names.join(", ")
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Family {
    /// Every family.
    pub const ALL: &[Self] = &[Self::Flux, Self::QwenImage, Self::QwenImageEdit];

    /// The name that `model.family` gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flux => "flux",
            Self::QwenImage => "qwen_image",
            Self::QwenImageEdit => "qwen_image_edit",
        }
    }

    /// The family of that name.
    ///
    /// # Errors
    /// [`UnknownFamily`].
    pub fn from_name(name: &str) -> Result<Self, UnknownFamily> {
        /// Half of the letters.
        const SIMILAR: f64 = 0.5;
        if let Some(family) = Self::ALL.iter().find(|family| family.name() == name) {
            return Ok(*family);
        }
        let nearest = Self::ALL
            .iter()
            .map(|family| (strsim::normalized_levenshtein(name, family.name()), family.name()))
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, nearest)| nearest);
        Err(UnknownFamily {
            found: name.to_owned(),
            nearest,
        })
    }

    /// The family of a pipeline folder, by the class that its `model_index.json` names.
    ///
    /// # Errors
    /// Any [`LoadError`]; [`LoadError::Unsupported`] for the class of no family.
    pub fn of_folder(dir: &Path) -> Result<Self, LoadError> {
        if !dir.is_dir() {
            return Err(LoadError::FolderMissing { dir: dir.to_owned() });
        }
        let file = dir.join("model_index.json");
        let key = "_class_name";
        let class = &read_json(&file)?[key];
        let found = Self::ALL
            .iter()
            .find(|family| family.pipeline_classes().iter().any(|known| class == known));
        found.copied().ok_or_else(|| {
            let classes = Self::ALL.iter().flat_map(|family| family.pipeline_classes());
            let classes: Vec<String> = classes.map(|class| format!("`{class}`")).collect();
            LoadError::Unsupported {
                file,
                key: key.to_owned(),
                found: class.to_string(),
                expected: classes.join(" or "),
            }
        })
    }

    /// The pipeline classes that `model_index.json` may name.
    pub(crate) fn pipeline_classes(self) -> &'static [&'static str] {
        match self {
            Self::Flux => &["FluxPipeline"],
            Self::QwenImage => &["QwenImagePipeline"],
            Self::QwenImageEdit => &["QwenImageEditPipeline", "QwenImageEditPlusPipeline"],
        }
    }

    /// Whether a task has source pictures, which the family edits.
    pub fn takes_sources(self) -> bool {
        match self {
            Self::Flux | Self::QwenImage => false,
            Self::QwenImageEdit => true,
        }
    }

    /// The layers that the published recipe adapts.
    pub fn published_targets(self) -> &'static [&'static str] {
        match self {
            Self::Flux => &LoraSpec::PUBLISHED_TARGETS,
            Self::QwenImage | Self::QwenImageEdit => QwenImageTransformer::PUBLISHED_TARGETS,
        }
    }

    /// The folder of the denoiser in a pipeline folder, which is what fingerprints are of.
    pub fn denoiser_dir(self, dir: &Path) -> PathBuf {
        match self {
            Self::Flux | Self::QwenImage | Self::QwenImageEdit => dir.join("transformer"),
        }
    }

    /// Loads the denoiser of a pipeline folder and nothing else.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load_denoiser(self, dir: &Path, placement: &Placement) -> Result<Box<dyn Denoiser>, LoadError> {
        let dir = self.denoiser_dir(dir);
        match self {
            Self::Flux => Ok(Box::new(FluxTransformer::load(&dir, placement)?)),
            Self::QwenImage | Self::QwenImageEdit => Ok(Box::new(QwenImageTransformer::load(self, &dir, placement)?)),
        }
    }

    /// Loads a whole pipeline folder.
    ///
    /// # Errors
    /// Any [`LoadError`]; [`LoadError::Unsupported`] when the folder holds another family.
    pub fn load_pipeline(self, dir: &Path, placement: &Placement) -> Result<Box<dyn Pipeline>, LoadError> {
        match self {
            Self::Flux => Ok(Box::new(FluxPipeline::load(dir, placement)?)),
            Self::QwenImage | Self::QwenImageEdit => Ok(Box::new(QwenImagePipeline::load(self, dir, placement)?)),
        }
    }

    /// Looks into a pipeline folder without loading it.
    ///
    /// # Errors
    /// As [`Self::load_pipeline`], for what settings and headers show.
    pub fn inspect(self, dir: &Path) -> Result<Box<dyn Inspection>, LoadError> {
        match self {
            Self::Flux => Ok(Box::new(FluxInspection::read(dir)?)),
            Self::QwenImage | Self::QwenImageEdit => Ok(Box::new(QwenImageInspection::read(self, dir)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_found_by_its_name() {
        for family in Family::ALL {
            assert_eq!(Family::from_name(family.name()), Ok(*family));
        }
    }

    #[test]
    fn a_folder_names_its_family_or_is_refused() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        assert_eq!(Family::of_folder(&models.join("tiny-flux")).unwrap(), Family::Flux);
        let absent = Family::of_folder(&models.join("none")).unwrap_err();
        assert!(matches!(absent, LoadError::FolderMissing { .. }), "{absent}");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model_index.json");
        std::fs::write(&file, r#"{"_class_name": "StableDiffusionPipeline"}"#).unwrap();
        let other = Family::of_folder(folder.path()).unwrap_err().to_string();
        assert!(
            other.contains("StableDiffusionPipeline") && other.contains("`FluxPipeline`"),
            "{other}"
        );
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        assert_eq!(
            Family::from_name("fluks").unwrap_err().to_string(),
            "no model family is called `fluks`, did you mean `flux`; the families are `flux`, `qwen_image`, `qwen_image_edit`"
        );
        assert_eq!(
            Family::from_name("sd3").unwrap_err().to_string(),
            "no model family is called `sd3`; the families are `flux`, `qwen_image`, `qwen_image_edit`"
        );
    }
}
