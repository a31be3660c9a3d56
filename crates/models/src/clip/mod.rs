//! CLIP as a whole: how well a picture fits words. PickScore and its like are the same with other weights, SigLIP the same with other encoders.

mod config;
mod head;
mod layer;
mod openai;
mod picture;
mod siglip;
mod vision;

use std::fmt::Debug;
use std::path::Path;

use candle_core::{DType, Tensor};
use image::RgbImage;
use serde::Deserialize;

use self::openai::OpenAiClip;
use self::siglip::Siglip;
use crate::load::{Placement, read_config};
use crate::{LoadError, ModelError, Weights};
pub use head::AestheticHead;
pub(crate) use layer::{Layer, LayerNames, LayerSizes};
pub(crate) use picture::{Fit, PictureProcessor, patches};

/// The scale may be e to the power of this at most; published models have 4.6 and 4.8.
const LOGIT_SCALE_MAX: f64 = 10.0;

/// The encoders of words and pictures into one space, and the scale of their products.
///
/// # Source
/// transformers `CLIPModel` and `SiglipModel`.
#[derive(Debug)]
pub struct Clip {
    encoders: Box<dyn Encoders>,
    scale: f64,
    /// Added to every logit: 0, but of SigLIP.
    bias: f64,
}

/// Encoders of words and of pictures into one space.
trait Encoders: Debug + Send + Sync {
    /// Numbers of a state.
    fn width(&self) -> usize;

    /// The state (1, width) that stands for a prompt.
    fn prompt_state(&self, prompt: &str) -> Result<Tensor, ModelError>;

    /// The state (1, width) that stands for a picture.
    fn picture_state(&self, picture: &RgbImage) -> Result<Tensor, ModelError>;
}

/// Whose encoders a folder holds, as `model_type` says.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Clip,
    Siglip,
}

impl Kind {
    fn of(dir: &Path) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Config {
            model_type: Option<String>,
        }
        let file = dir.join("config.json");
        let config: Config = read_config(&file)?;
        match config.model_type.as_deref() {
            Some("clip") => Ok(Self::Clip),
            Some("siglip") => Ok(Self::Siglip),
            other => config::unsupported(
                &file,
                "model_type",
                other.unwrap_or("nothing").to_owned(),
                "clip or siglip".to_owned(),
            ),
        }
    }
}

impl Clip {
    /// Loads a folder in the transformers layout: `config.json`, weights, `tokenizer.json`, `preprocessor_config.json`.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let kind = Kind::of(dir)?;
        let encoders: Box<dyn Encoders> = match kind {
            Kind::Clip => Box::new(OpenAiClip::load(dir, placement)?),
            Kind::Siglip => Box::new(Siglip::load(dir, placement)?),
        };
        let (scale, bias) = scale_and_bias(dir, kind)?;
        Ok(Self { encoders, scale, bias })
    }

    /// Reads all of a folder but its weights, of which it looks at few numbers.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn check(dir: &Path) -> Result<(), LoadError> {
        let kind = Kind::of(dir)?;
        match kind {
            Kind::Clip => OpenAiClip::check(dir)?,
            Kind::Siglip => Siglip::check(dir)?,
        }
        scale_and_bias(dir, kind).map(drop)
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> usize {
        self.encoders.width()
    }

    /// How well each picture fits the prompt: the cosine of both embeddings times the model's scale, and its bias. A prompt is read as far as the
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
            Ok(cosine * self.scale + self.bias)
        };
        pictures.iter().map(logit).collect()
    }

    /// The prompt's embedding, of length 1.
    ///
    /// # Shapes
    /// (width,).
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn prompt_embedding(&self, prompt: &str) -> Result<Vec<f64>, ModelError> {
        direction(&self.encoders.prompt_state(prompt)?, "embedding of the prompt")
    }

    /// The picture's embedding, of length 1.
    ///
    /// # Shapes
    /// (width,).
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn picture_embedding(&self, picture: &RgbImage) -> Result<Vec<f64>, ModelError> {
        direction(&self.encoders.picture_state(picture)?, "embedding of the picture")
    }
}

/// e to the power of `logit_scale`, and `logit_bias`, which are read in float32 whatever the model computes in: they are part of every score.
fn scale_and_bias(dir: &Path, kind: Kind) -> Result<(f64, f64), LoadError> {
    let weights = Weights::open(dir, &Placement::cpu())?;
    let number = |name: &str, shape: &[usize]| {
        let tensor = weights.get(name, shape)?;
        let number = tensor
            .flatten_all()
            .and_then(|tensor| tensor.get(0)?.to_dtype(DType::F64)?.to_scalar::<f64>());
        number.map_err(|source| weights.candle(source))
    };
    let (exponent, bias) = match kind {
        Kind::Clip => (number("logit_scale", &[])?, 0.0),
        Kind::Siglip => (number("logit_scale", &[1])?, number("logit_bias", &[1])?),
    };
    for (key, found, most) in [
        ("logit_scale", exponent, LOGIT_SCALE_MAX),
        ("logit_bias", bias, LOGIT_SCALE_MAX.exp()),
    ] {
        if found.is_nan() || found.abs() > most {
            return config::unsupported(dir, key, found.to_string(), format!("at most {most} in size"));
        }
    }
    Ok((exponent.exp(), bias))
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
