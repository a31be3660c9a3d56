//! A vision-language model as the text encoder of a diffusion pipeline.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::config::{Config, Family};
use super::decoder::{Decoder, Prompt};
use super::preprocess::{Grid, ImageProcessor};
use super::vision::VisionTower;
use super::{Seen, expand, towers};
use crate::load::Placement;
use crate::text::WordTokenizer;
use crate::{LoadError, ModelError, Weights};

/// A frozen Qwen2.5-VL without its head: words and pictures in, states out.
///
/// # Source
/// transformers `Qwen2_5_VLForConditionalGeneration` with `output_hidden_states`, as diffusers' Qwen-Image pipelines call it.
/// Deviation: pictures have their own rotary positions, which transformers 5 gives them only when it is told which tokens are
/// pictures; diffusers 0.42 does not tell it.
#[derive(Debug)]
pub(crate) struct VlmEncoder {
    config: Config,
    tokenizer: WordTokenizer,
    /// What pictures go through, where there are any.
    eyes: Option<(ImageProcessor, VisionTower)>,
    decoder: Decoder,
    device: Device,
}

impl VlmEncoder {
    /// Loads the weights and `config.json` of `dir`. `processor` is the folder of the image processor's settings; without it the
    /// encoder reads words alone, and the vision tower stays on the disk.
    pub(crate) fn load(
        dir: &Path,
        processor: Option<&Path>,
        tokenizer: WordTokenizer,
        placement: &Placement,
    ) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, &placement.clone().quantized(None))?;
        let config = qwen2_5(dir)?;
        let (visual, text) = towers(&weights);
        let eyes = match processor {
            Some(processor) => Some((
                ImageProcessor::load(processor, &config.vision)?,
                VisionTower::load(&weights, visual, &config.vision)?,
            )),
            None => None,
        };
        let decoder = Decoder::load(&weights, text, &config.text)?;
        let device = weights.placement().device().clone();
        // Nothing is generated; without pictures nothing is seen.
        weights.finish(&if eyes.is_some() {
            vec!["lm_head."]
        } else {
            vec!["lm_head.", "visual.", "model.visual."]
        })?;
        Ok(Self {
            config,
            tokenizer,
            eyes,
            decoder,
            device,
        })
    }

    /// Looks at the settings and the headers of the weight files. Returns the numbers in the weights.
    pub(crate) fn inspect(dir: &Path, processor: Option<&Path>) -> Result<u64, LoadError> {
        let config = qwen2_5(dir)?;
        if let Some(processor) = processor {
            ImageProcessor::load(processor, &config.vision)?;
        }
        Ok(Weights::open(dir, &Placement::cpu())?.parameters())
    }

    /// The tokenizer, which guards the words of a text.
    pub(crate) fn tokenizer(&self) -> &WordTokenizer {
        &self.tokenizer
    }

    /// The token ids of a text with an image token for each picture, repeated once per merged patch of the picture.
    ///
    /// # Errors
    /// [`ModelError::Value`] for another number of image tokens than pictures, or a picture that is too elongated.
    pub(crate) fn input_ids(&self, text: &str, pictures: &[RgbImage]) -> Result<Vec<u32>, ModelError> {
        let grids: Vec<Grid> = match &self.eyes {
            Some((processor, _)) => pictures
                .iter()
                .map(|picture| processor.grid(picture))
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        expand(&self.tokenizer.encode_text(text)?, self.config.image_token_id, &grids)
    }

    /// The states after the final norm of such a text.
    ///
    /// # Shapes
    /// Returns (tokens, width), in the dtype of the computation.
    ///
    /// # Errors
    /// As [`Self::input_ids`].
    pub(crate) fn states(&self, text: &str, pictures: &[RgbImage]) -> Result<Tensor, ModelError> {
        let ids = self.input_ids(text, pictures)?;
        let seen: Vec<Seen> = match &self.eyes {
            Some((processor, vision)) => pictures
                .iter()
                .map(|picture| {
                    let (patches, grid) = processor.patches(picture)?;
                    let features = vision.forward(&patches, grid, &self.device)?;
                    Ok(Seen { features, grid })
                })
                .collect::<Result<_, ModelError>>()?,
            None => Vec::new(),
        };
        let images: Vec<&Seen> = seen.iter().collect();
        self.decoder.states(&Prompt {
            ids: &ids,
            image_token: self.config.image_token_id,
            images: &images,
        })
    }
}

/// The settings of a Qwen2.5-VL; any other model was not what the denoiser was trained with.
fn qwen2_5(dir: &Path) -> Result<Config, LoadError> {
    let file = dir.join("config.json");
    let config = Config::read(&file)?;
    match config.family {
        Family::Qwen2_5Vl => Ok(config),
        Family::Qwen3Vl => Err(LoadError::Unsupported {
            file,
            key: "model_type".to_owned(),
            found: "\"qwen3_vl\"".to_owned(),
            expected: "`qwen2_5_vl`".to_owned(),
        }),
    }
}
