//! CLIP as a whole: how well a picture fits words. PickScore and its like are the same with other weights.

mod config;
mod head;
mod layer;
mod picture;
mod vision;

use std::path::Path;

use candle_core::{DType, Tensor};
use image::RgbImage;

use self::config::Config;
use self::vision::VisionEncoder;
use crate::layers::{Bias, Linear};
use crate::load::Placement;
use crate::text::{ClipTextEncoder, PromptTokenizer};
use crate::{LoadError, ModelError, Weights};
pub use head::AestheticHead;
pub(crate) use layer::{Layer, LayerNames, LayerSizes};
pub(crate) use picture::{PictureProcessor, patches};

/// What the tokenizer fills at least: the special tokens around a text, and a token between them.
const TOKENS_MIN: usize = 3;
/// The scale may be e to the power of this at most; published models have 4.6.
const LOGIT_SCALE_MAX: f64 = 10.0;

/// The encoders of words and pictures, their projections into one space, and the scale of their products.
///
/// # Source
/// transformers `CLIPModel`.
#[derive(Debug)]
pub struct Clip {
    tokenizer: PromptTokenizer,
    text: ClipTextEncoder,
    text_projection: Linear,
    processor: PictureProcessor,
    vision: VisionEncoder,
    visual_projection: Linear,
    scale: f64,
    width: usize,
}

impl Clip {
    /// Loads a folder in the transformers layout: `config.json`, weights, `tokenizer.json`, `preprocessor_config.json`.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let config = Config::load(dir)?;
        let (text, vision) = (&config.text_config, &config.vision_config);
        let weights = Weights::open(dir, placement)?;
        let projection = |name: &str, width| Linear::load(&weights, name, width, config.projection_dim, Bias::None);
        let clip = Self {
            tokenizer: PromptTokenizer::load_clip(dir)?,
            text_projection: projection("text_projection", text.hidden_size)?,
            visual_projection: projection("visual_projection", vision.hidden_size)?,
            text: ClipTextEncoder::of_clip(&weights, &text.settings())?,
            processor: PictureProcessor::load(dir, Some(vision.image_size))?,
            vision: VisionEncoder::load(&weights, vision)?,
            scale: scale(dir)?,
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

    /// Reads all of a folder but its weights, of which it looks for the file alone.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn check(dir: &Path) -> Result<(), LoadError> {
        let config = Config::load(dir)?;
        PromptTokenizer::load_clip(dir)?;
        PictureProcessor::load(dir, Some(config.vision_config.image_size))?;
        scale(dir).map(drop)
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How well each picture fits the prompt: the cosine of both embeddings times the model's scale. A prompt is read as far as the
    /// encoder's positions go, as by transformers' tokenizer with truncation.
    ///
    /// # Errors
    /// [`ModelError::Value`] for a picture without pixels or one that is too elongated, [`ModelError::Tokenize`],
    /// [`ModelError::NotFinite`].
    pub fn logits(&self, prompt: &str, pictures: &[&RgbImage]) -> Result<Vec<f64>, ModelError> {
        let words = self.prompt_embedding(prompt)?;
        let logit = |picture: &&RgbImage| {
            let seen = self.picture_embedding(picture)?;
            let cosine: f64 = words.iter().zip(&seen).map(|(a, b)| a * b).sum();
            Ok(cosine * self.scale)
        };
        pictures.iter().map(logit).collect()
    }

    /// The prompt's embedding, of length 1.
    ///
    /// # Shapes
    /// (projection_dim,).
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn prompt_embedding(&self, prompt: &str) -> Result<Vec<f64>, ModelError> {
        // Padding behind the end of the text is seen by no state before it.
        let length = self.tokenizer.length(prompt)?.max(TOKENS_MIN);
        let length = length.min(self.text.max_positions());
        let tokens = self.tokenizer.encode(prompt, length)?;
        let pooled = self.text.pooled(&[tokens])?;
        direction(&self.text_projection.forward(&pooled)?, "embedding of the prompt")
    }

    /// The picture's embedding, of length 1.
    ///
    /// # Shapes
    /// (projection_dim,).
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn picture_embedding(&self, picture: &RgbImage) -> Result<Vec<f64>, ModelError> {
        let state = self.vision.forward(&self.processor.pixels(picture)?)?;
        direction(&self.visual_projection.forward(&state)?, "embedding of the picture")
    }
}

/// e to the power of `logit_scale`, which is read in float32 whatever the model computes in: it multiplies every score.
fn scale(dir: &Path) -> Result<f64, LoadError> {
    let weights = Weights::open(dir, &Placement::cpu())?;
    let tensor = weights.get("logit_scale", &[])?;
    let exponent = tensor
        .to_dtype(DType::F64)
        .and_then(|tensor| tensor.to_scalar::<f64>())
        .map_err(|source| weights.candle(source))?;
    match exponent.abs() <= LOGIT_SCALE_MAX {
        true => Ok(exponent.exp()),
        false => Err(LoadError::Unsupported {
            file: dir.to_owned(),
            key: "logit_scale".to_owned(),
            found: exponent.to_string(),
            expected: format!("at most {LOGIT_SCALE_MAX} in size"),
        }),
    }
}

/// A state (1, width) as a vector of length 1.
pub(crate) fn direction(state: &Tensor, part: &'static str) -> Result<Vec<f64>, ModelError> {
    let mut vector = state.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return Err(ModelError::NotFinite { part });
    }
    vector.iter_mut().for_each(|value| *value /= length);
    Ok(vector)
}
