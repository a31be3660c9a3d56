//! A layer of CLIP's encoders, which text and pictures have in common.

use candle_core::Tensor;

use crate::{
    LoadError, ModelError, Weights,
    layers::{Activation, Attention, Bias, LayerNorm, Linear, Mask, attention},
};

/// The sizes of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerSizes {
    pub(crate) width: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    pub(crate) eps: f64,
}

/// Attention and a feed-forward network, each behind a norm and beside a residual path.
///
/// # Source
/// transformers `CLIPEncoderLayer`.
#[derive(Debug)]
pub(crate) struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    heads: usize,
    scale: f64,
}

impl Layer {
    /// Takes the layer whose tensors' names begin with `name`.
    pub(crate) fn load(weights: &Weights, name: &str, sizes: LayerSizes) -> Result<Self, LoadError> {
        let LayerSizes {
            width,
            intermediate,
            heads,
            activation,
            eps,
        } = sizes;
        let norm = |part: &str| LayerNorm::load(weights, &format!("{name}.{part}"), width, eps);
        let linear = |part: &str, inputs, outputs| {
            Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, Bias::Added)
        };
        Ok(Self {
            norm1: norm("layer_norm1")?,
            q: linear("self_attn.q_proj", width, width)?,
            k: linear("self_attn.k_proj", width, width)?,
            v: linear("self_attn.v_proj", width, width)?,
            out: linear("self_attn.out_proj", width, width)?,
            norm2: norm("layer_norm2")?,
            fc1: linear("mlp.fc1", width, intermediate)?,
            fc2: linear("mlp.fc2", intermediate, width)?,
            activation,
            heads,
            scale: (width as f64 / heads as f64).sqrt().recip(),
        })
    }

    /// From states (positions, width) to the next ones.
    pub(crate) fn forward(&self, x: &Tensor, mask: Mask<'_>) -> Result<Tensor, ModelError> {
        let normed = self.norm1.forward(x)?;
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.heads,
            scale: self.scale,
            mask,
            bias: None,
            kernels: self.q.kernels(),
        };
        let (q, k, v) = (
            self.q.forward(&normed)?,
            self.k.forward(&normed)?,
            self.v.forward(&normed)?,
        );
        let x = (x + self.out.forward(&attention(shape, &q, &k, &v)?)?)?;
        let hidden = self.activation.forward(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        Ok((x + self.fc2.forward(&hidden)?)?)
    }
}
