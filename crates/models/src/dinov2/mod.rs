//! DINOv2: how alike two pictures are in what they show, where pixels need not be.

mod config;
mod positions;

use std::path::Path;

use candle_core::{DType, Tensor};
use image::RgbImage;

use self::config::Config;
use crate::clip::{Fit, Layer, LayerNames, LayerSizes, PictureProcessor, direction, patches};
use crate::layers::{LayerNorm, Linear, Mask};
use crate::load::Placement;
use crate::{LoadError, ModelError, Weights};

/// A vision transformer whose class token stands for a picture.
///
/// # Source
/// transformers `Dinov2Model`.
#[derive(Debug)]
pub struct Dinov2 {
    processor: PictureProcessor,
    patch_embedding: Linear,
    /// (1, width).
    class_embedding: Tensor,
    /// (1 + patches, width), for the pictures that the processor makes.
    position_embedding: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    patch: usize,
}

impl Dinov2 {
    /// Loads a folder in the transformers layout: `config.json`, weights, `preprocessor_config.json`.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let config = Config::load(dir)?;
        let processor = PictureProcessor::load(dir, None, Fit::Cut)?;
        config.check_side(dir, processor.side())?;
        let weights = Weights::open(dir, placement)?;
        let (width, patch) = (config.hidden_size, config.patch_size);
        let candle = |source| weights.candle(source);
        let root = "embeddings.patch_embeddings.projection";
        let kernel = weights.get(&format!("{root}.weight"), &[width, 3, patch, patch])?;
        let bias = weights.get(&format!("{root}.bias"), &[width])?;
        let kernel = kernel.reshape((width, 3 * patch * patch)).map_err(candle)?;
        let class = weights.get("embeddings.cls_token", &[1, 1, width])?;
        let learnt = config.image_size / patch;
        let positions = weights.get("embeddings.position_embeddings", &[1, 1 + learnt * learnt, width])?;
        let positions = positions.squeeze(0).map_err(candle)?;
        let sizes = LayerSizes {
            width,
            intermediate: config.mlp_ratio * width,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&weights, &format!("encoder.layer.{index}"), sizes, &LayerNames::DINOV2));
        let model = Self {
            patch_embedding: Linear::new(&kernel, Some(bias), weights.kernels()).map_err(candle)?,
            class_embedding: class.reshape((1, width)).map_err(candle)?,
            position_embedding: positions::resized(&positions, learnt, processor.side() / patch).map_err(candle)?,
            layers: layers.collect::<Result<_, _>>()?,
            norm: LayerNorm::load(&weights, "layernorm", width, config.layer_norm_eps)?,
            processor,
            patch,
        };
        weights.finish(&["embeddings.mask_token"])?;
        Ok(model)
    }

    /// The picture's embedding, of length 1: the state of the class token.
    ///
    /// # Shapes
    /// (hidden_size,).
    ///
    /// # Errors
    /// [`ModelError::Value`] for a picture without pixels or one that is too elongated, [`ModelError::NotFinite`].
    pub fn embedding(&self, picture: &RgbImage) -> Result<Vec<f64>, ModelError> {
        let patches = patches(&self.processor.pixels(picture)?, self.processor.side(), self.patch);
        let size = 3 * self.patch * self.patch;
        let count = patches.len() / size;
        let device = self.class_embedding.device();
        let patches = Tensor::from_vec(patches, (count, size), device)?.to_dtype(self.class_embedding.dtype())?;
        let embedded = self.patch_embedding.forward(&patches)?;
        let states = Tensor::cat(&[&self.class_embedding, &embedded], 0)?;
        let mut states = (states + &self.position_embedding)?;
        let all = 0..count + 1;
        for layer in &self.layers {
            states = layer.forward(&states, Mask::Segments(std::slice::from_ref(&all)))?;
        }
        let class = self.norm.forward(&states.narrow(0, 0, 1)?.contiguous()?)?;
        direction(&class.to_dtype(DType::F32)?, "embedding of the picture")
    }
}
