//! SigLIP's encoder of pictures.

use candle_core::Tensor;

use super::config::VisionConfig;
use crate::clip::{Layer, LayerNames, LayerSizes, patches};
use crate::layers::{Activation, Attention, Bias, LayerNorm, Linear, Mask, attention};
use crate::{LoadError, ModelError, Weights};

/// A transformer over patches, whose states are pooled by attention.
///
/// # Source
/// transformers `SiglipVisionModel`.
#[derive(Debug)]
pub(super) struct VisionEncoder {
    patch_embedding: Linear,
    /// (patches, width).
    position_embedding: Tensor,
    layers: Vec<Layer>,
    post_norm: LayerNorm,
    pooling: Pooling,
    side: usize,
    patch: usize,
}

/// A learnt query that looks at all states, and a feed-forward network behind it.
///
/// # Source
/// transformers `SiglipMultiheadAttentionPoolingHead`.
#[derive(Debug)]
struct Pooling {
    /// (1, width).
    probe: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    heads: usize,
}

impl VisionEncoder {
    pub(super) fn load(weights: &Weights, config: &VisionConfig) -> Result<Self, LoadError> {
        let (width, patch, side, root) = (config.hidden_size, config.patch_size, config.image_size, "vision_model");
        let count = (side / patch) * (side / patch);
        let kernel = weights.get(
            &format!("{root}.embeddings.patch_embedding.weight"),
            &[width, 3, patch, patch],
        )?;
        let bias = weights.get(&format!("{root}.embeddings.patch_embedding.bias"), &[width])?;
        let patch_embedding = kernel
            .reshape((width, 3 * patch * patch))
            .and_then(|kernel| Linear::new(&kernel, Some(bias), weights.kernels()))
            .map_err(|source| weights.candle(source))?;
        let sizes = LayerSizes {
            width,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let layer = |index| {
            Layer::load(
                weights,
                &format!("{root}.encoder.layers.{index}"),
                sizes,
                &LayerNames::CLIP,
            )
        };
        Ok(Self {
            patch_embedding,
            position_embedding: weights
                .get(&format!("{root}.embeddings.position_embedding.weight"), &[count, width])?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            post_norm: LayerNorm::load(weights, &format!("{root}.post_layernorm"), width, config.layer_norm_eps)?,
            pooling: Pooling::load(weights, &format!("{root}.head"), config)?,
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
        let depth = 3 * self.patch * self.patch;
        let count = patches.len() / depth;
        let (device, dtype) = (self.position_embedding.device(), self.position_embedding.dtype());
        let patches = Tensor::from_vec(patches, (count, depth), device)?.to_dtype(dtype)?;
        let mut states = (self.patch_embedding.forward(&patches)? + &self.position_embedding)?;
        let all = 0..count;
        for layer in &self.layers {
            states = layer.forward(&states, Mask::Segments(std::slice::from_ref(&all)))?;
        }
        self.pooling.forward(&self.post_norm.forward(&states)?)
    }
}

impl Pooling {
    fn load(weights: &Weights, name: &str, config: &VisionConfig) -> Result<Self, LoadError> {
        let width = config.hidden_size;
        let linear = |part: &str, inputs, outputs| {
            Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, Bias::Added)
        };
        // PyTorch keeps the three projections of its own attention one below the other.
        let joint = weights.get(&format!("{name}.attention.in_proj_weight"), &[3 * width, width])?;
        let biases = weights.get(&format!("{name}.attention.in_proj_bias"), &[3 * width])?;
        let part = |index: usize| {
            let rows = joint.narrow(0, index * width, width)?.contiguous()?;
            let bias = biases.narrow(0, index * width, width)?.contiguous()?;
            Linear::new(&rows, Some(bias), weights.kernels())
        };
        let part = |index| part(index).map_err(|source| weights.candle(source));
        let probe = weights.get(&format!("{name}.probe"), &[1, 1, width])?;
        Ok(Self {
            probe: probe.reshape((1, width)).map_err(|source| weights.candle(source))?,
            q: part(0)?,
            k: part(1)?,
            v: part(2)?,
            out: linear("attention.out_proj", width, width)?,
            norm: LayerNorm::load(weights, &format!("{name}.layernorm"), width, config.layer_norm_eps)?,
            fc1: linear("mlp.fc1", width, config.intermediate_size)?,
            fc2: linear("mlp.fc2", config.intermediate_size, width)?,
            activation: config.hidden_act,
            heads: config.num_attention_heads,
        })
    }

    /// From states (patches, width) to the one (1, width) that stands for them.
    fn forward(&self, states: &Tensor) -> Result<Tensor, ModelError> {
        let width = states.dims2()?.1;
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.heads,
            scale: (width as f64 / self.heads as f64).sqrt().recip(),
            // The one query counts as the last row, which sees all.
            mask: Mask::Causal,
            bias: None,
            kernels: self.q.kernels(),
        };
        let (q, k, v) = (
            self.q.forward(&self.probe)?,
            self.k.forward(states)?,
            self.v.forward(states)?,
        );
        let pooled = self.out.forward(&attention(shape, &q, &k, &v)?)?;
        let hidden = self.fc1.forward(&self.norm.forward(&pooled)?)?;
        let hidden = self.activation.forward(self.fc1.kernels(), &hidden)?;
        Ok((pooled + self.fc2.forward(&hidden)?)?)
    }
}
