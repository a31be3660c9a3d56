//! A layer of the encoders of CLIP and DINOv2, which text and pictures have in common.

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

/// What a model calls the parts of a layer.
#[derive(Debug)]
pub(crate) struct LayerNames {
    norms: [&'static str; 2],
    /// Query, key, value and output.
    attention: [&'static str; 4],
    /// Factors of both residual paths, where there are any.
    scales: Option<[&'static str; 2]>,
}

impl LayerNames {
    /// transformers `CLIPEncoderLayer`.
    pub(crate) const CLIP: Self = Self {
        norms: ["layer_norm1", "layer_norm2"],
        attention: [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
        ],
        scales: None,
    };
    /// transformers `Dinov2Layer`, as files have it.
    pub(crate) const DINOV2: Self = Self {
        norms: ["norm1", "norm2"],
        attention: [
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
        ],
        scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
    };
}

/// Attention and a feed-forward network, each behind a norm and beside a residual path.
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
    /// Each (1, width).
    residual_scales: Option<[Tensor; 2]>,
}

impl Layer {
    /// Takes the layer whose tensors' names begin with `name`.
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        sizes: LayerSizes,
        names: &LayerNames,
    ) -> Result<Self, LoadError> {
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
        let scale = |part: &str| {
            let scale = weights.get(&format!("{name}.{part}"), &[width])?;
            scale.reshape((1, width)).map_err(|source| weights.candle(source))
        };
        let LayerNames {
            norms: [norm1, norm2],
            attention: [q, k, v, out],
            scales,
        } = names;
        let residual_scales = match scales {
            Some([first, second]) => Some([scale(first)?, scale(second)?]),
            None => None,
        };
        Ok(Self {
            norm1: norm(norm1)?,
            q: linear(q, width, width)?,
            k: linear(k, width, width)?,
            v: linear(v, width, width)?,
            out: linear(out, width, width)?,
            norm2: norm(norm2)?,
            fc1: linear("mlp.fc1", width, intermediate)?,
            fc2: linear("mlp.fc2", intermediate, width)?,
            activation,
            heads,
            scale: (width as f64 / heads as f64).sqrt().recip(),
            residual_scales,
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
        let attended = self.out.forward(&attention(shape, &q, &k, &v)?)?;
        let x = (x + self.scaled(0, attended)?)?;
        let hidden = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let hidden = self.activation.forward(self.fc1.kernels(), &hidden)?;
        Ok((x + self.scaled(1, self.fc2.forward(&hidden)?)?)?)
    }

    /// What a residual path adds.
    fn scaled(&self, path: usize, y: Tensor) -> Result<Tensor, ModelError> {
        match &self.residual_scales {
            Some(scales) => Ok(y.broadcast_mul(&scales[path])?),
            None => Ok(y),
        }
    }
}
