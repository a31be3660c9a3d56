//! CLIP's encoder of pictures.

use candle_core::Tensor;

use super::config::VisionConfig;
use super::layer::{Layer, LayerNames, LayerSizes};
use super::picture::patches;
use crate::layers::{LayerNorm, Linear, Mask};
use crate::{LoadError, ModelError, Weights};

/// A transformer over patches and a class token, whose last state stands for the picture.
///
/// # Source
/// transformers `CLIPVisionTransformer`.
#[derive(Debug)]
pub(super) struct VisionEncoder {
    patch_embedding: Linear,
    /// (1, width).
    class_embedding: Tensor,
    /// (1 + patches, width).
    position_embedding: Tensor,
    pre_norm: LayerNorm,
    layers: Vec<Layer>,
    post_norm: LayerNorm,
    side: usize,
    patch: usize,
}

impl VisionEncoder {
    pub(super) fn load(weights: &Weights, config: &VisionConfig) -> Result<Self, LoadError> {
        let (width, patch, side) = (config.hidden_size, config.patch_size, config.image_size);
        let root = "vision_model";
        let patches = (side / patch) * (side / patch);
        let kernel = weights.get(
            &format!("{root}.embeddings.patch_embedding.weight"),
            &[width, 3, patch, patch],
        )?;
        let patch_embedding = kernel
            .reshape((width, 3 * patch * patch))
            .and_then(|kernel| Linear::new(&kernel, None, weights.kernels()))
            .map_err(|source| weights.candle(source))?;
        let class_embedding = weights
            .get(&format!("{root}.embeddings.class_embedding"), &[width])?
            .reshape((1, width))
            .map_err(|source| weights.candle(source))?;
        let position_embedding = weights.get(
            &format!("{root}.embeddings.position_embedding.weight"),
            &[1 + patches, width],
        )?;
        let norm = |name: &str| LayerNorm::load(weights, &format!("{root}.{name}"), width, config.layer_norm_eps);
        let sizes = LayerSizes {
            width,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let layers = (0..config.num_hidden_layers).map(|index| {
            Layer::load(
                weights,
                &format!("{root}.encoder.layers.{index}"),
                sizes,
                &LayerNames::CLIP,
            )
        });
        Ok(Self {
            patch_embedding,
            class_embedding,
            position_embedding,
            // transformers spells it so.
            pre_norm: norm("pre_layrnorm")?,
            layers: layers.collect::<Result<_, _>>()?,
            post_norm: norm("post_layernorm")?,
            side,
            patch,
        })
    }

    /// The state that stands for a picture.
    ///
    /// # Shapes
    /// From pixels (3, side, side), row by row, to (1, width).
    pub(super) fn forward(&self, pixels: &[f32]) -> Result<Tensor, ModelError> {
        let patches = patches(pixels, self.side, self.patch);
        let count = patches.len() / (3 * self.patch * self.patch);
        let device = self.class_embedding.device();
        let patches = Tensor::from_vec(patches, (count, 3 * self.patch * self.patch), device)?
            .to_dtype(self.class_embedding.dtype())?;
        let embedded = self.patch_embedding.forward(&patches)?;
        let states = Tensor::cat(&[&self.class_embedding, &embedded], 0)?;
        let mut states = self.pre_norm.forward(&(states + &self.position_embedding)?)?;
        let all = 0..count + 1;
        for layer in &self.layers {
            states = layer.forward(&states, Mask::Segments(std::slice::from_ref(&all)))?;
        }
        self.post_norm.forward(&states.narrow(0, 0, 1)?.contiguous()?)
    }
}
