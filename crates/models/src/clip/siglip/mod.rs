//! SigLIP: encoders of words and pictures as CLIP's, trained with a sigmoid for each pair of the two.

mod config;
mod text;
mod vision;
mod words;

use std::path::Path;

use candle_core::Tensor;
use image::RgbImage;

use self::config::Config;
use self::text::TextEncoder;
use self::vision::VisionEncoder;
use self::words::Words;
use super::Encoders;
use super::picture::{Fit, PictureProcessor};
use crate::load::Placement;
use crate::{LoadError, ModelError, Weights};

/// The encoders of a SigLIP or SigLIP 2 whose pictures have one size.
///
/// # Source
/// transformers `SiglipModel`.
#[derive(Debug)]
pub(super) struct Siglip {
    words: Words,
    text: TextEncoder,
    processor: PictureProcessor,
    vision: VisionEncoder,
    width: usize,
}

impl Siglip {
    pub(super) fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let config = Config::load(dir)?;
        let (text, vision) = (&config.text_config, &config.vision_config);
        let weights = Weights::open(dir, placement)?;
        // Both embeddings have the width of the vision encoder, which has no projection.
        let width = vision.hidden_size;
        let siglip = Self {
            words: Words::load(dir, text.max_position_embeddings)?,
            text: TextEncoder::load(&weights, text, width)?,
            processor: PictureProcessor::load(dir, Some(vision.image_size), Fit::Stretched)?,
            vision: VisionEncoder::load(&weights, vision)?,
            width,
        };
        weights.finish(&[
            "logit_scale",
            "logit_bias",
            "text_model.embeddings.position_ids",
            "vision_model.embeddings.position_ids",
        ])?;
        Ok(siglip)
    }

    /// Reads all of a folder but its weights.
    pub(super) fn check(dir: &Path) -> Result<(), LoadError> {
        let config = Config::load(dir)?;
        Words::load(dir, config.text_config.max_position_embeddings)?;
        PictureProcessor::load(dir, Some(config.vision_config.image_size), Fit::Stretched).map(drop)
    }
}

impl Encoders for Siglip {
    fn width(&self) -> usize {
        self.width
    }

    fn prompt_state(&self, prompt: &str) -> Result<Tensor, ModelError> {
        self.text.forward(&self.words.tokens(prompt)?)
    }

    fn picture_state(&self, picture: &RgbImage) -> Result<Tensor, ModelError> {
        self.vision.forward(&self.processor.pixels(picture)?)
    }
}
