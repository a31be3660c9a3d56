//! The encoders of CLIP.

use std::path::Path;

use candle_core::Tensor;
use image::RgbImage;

use super::Encoders;
use super::config::Config;
use super::picture::{Fit, PictureProcessor};
use super::vision::VisionEncoder;
use crate::layers::{Bias, Linear};
use crate::load::Placement;
use crate::text::{ClipTextEncoder, PromptTokenizer};
use crate::{LoadError, ModelError, Weights};

/// What the tokenizer fills at least: the special tokens around a text, and a token between them.
const TOKENS_MIN: usize = 3;

/// The encoders of words and pictures, and their projections into one space.
///
/// # Source
/// transformers `CLIPModel`.
#[derive(Debug)]
pub(super) struct OpenAiClip {
    tokenizer: PromptTokenizer,
    text: ClipTextEncoder,
    text_projection: Linear,
    processor: PictureProcessor,
    vision: VisionEncoder,
    visual_projection: Linear,
    width: usize,
}

impl OpenAiClip {
    pub(super) fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let config = Config::load(dir)?;
        let (text, vision) = (&config.text_config, &config.vision_config);
        let weights = Weights::open(dir, placement)?;
        let projection = |name: &str, width| Linear::load(&weights, name, width, config.projection_dim, Bias::None);
        let clip = Self {
            tokenizer: PromptTokenizer::load_clip(dir)?,
            text_projection: projection("text_projection", text.hidden_size)?,
            visual_projection: projection("visual_projection", vision.hidden_size)?,
            text: ClipTextEncoder::of_clip(&weights, &text.settings())?,
            processor: PictureProcessor::load(dir, Some(vision.image_size), Fit::Cut)?,
            vision: VisionEncoder::load(&weights, vision)?,
            width: config.projection_dim,
        };
        let ignored = [
            "logit_scale",
            "text_model.embeddings.position_ids",
            "vision_model.embeddings.position_ids",
        ];
        weights.finish(&ignored)?;
        Ok(clip)
    }

    /// Reads all of a folder but its weights.
    pub(super) fn check(dir: &Path) -> Result<(), LoadError> {
        let config = Config::load(dir)?;
        PromptTokenizer::load_clip(dir)?;
        PictureProcessor::load(dir, Some(config.vision_config.image_size), Fit::Cut).map(drop)
    }
}

impl Encoders for OpenAiClip {
    fn width(&self) -> usize {
        self.width
    }

    fn prompt_state(&self, prompt: &str) -> Result<Tensor, ModelError> {
        // Padding behind the end of the text is seen by no state before it.
        let length = self.tokenizer.length(prompt)?.max(TOKENS_MIN);
        let length = length.min(self.text.max_positions());
        let tokens = self.tokenizer.encode(prompt, length)?;
        let pooled = self.text.pooled(&[tokens])?;
        self.text_projection.forward(&pooled)
    }

    fn picture_state(&self, picture: &RgbImage) -> Result<Tensor, ModelError> {
        let state = self.vision.forward(&self.processor.pixels(picture)?)?;
        self.visual_projection.forward(&state)
    }
}
