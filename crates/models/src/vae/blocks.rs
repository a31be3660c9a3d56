//! Blocks that the encoder and the decoder share.

use candle_core::Tensor;

use super::AutoencoderConfig;
use crate::{
    LoadError, ModelError, Weights,
    layers::{Attention, Bias, Conv2d, ConvShape, GroupNorm, Linear, Mask, Then, Upsampling, attention},
};

/// Epsilon of all group norms of an autoencoder.
pub(super) const EPS: f64 = 1e-6;

/// norm, SiLU, convolution, twice, beside a shortcut.
#[derive(Debug)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        inputs: usize,
        outputs: usize,
        groups: usize,
    ) -> Result<Self, LoadError> {
        let shortcut = ConvShape::same(inputs, outputs, 1);
        Ok(Self {
            norm1: GroupNorm::load(weights, &format!("{name}.norm1"), inputs, groups, EPS)?,
            conv1: Conv2d::load(weights, &format!("{name}.conv1"), ConvShape::same(inputs, outputs, 3))?,
            norm2: GroupNorm::load(weights, &format!("{name}.norm2"), outputs, groups, EPS)?,
            conv2: Conv2d::load(weights, &format!("{name}.conv2"), ConvShape::same(outputs, outputs, 3))?,
            shortcut: (inputs != outputs)
                .then(|| Conv2d::load(weights, &format!("{name}.conv_shortcut"), shortcut))
                .transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let hidden = self
            .conv1
            .forward(&self.norm1.forward(x, Then::Silu)?, Upsampling::None)?;
        let hidden = self
            .conv2
            .forward(&self.norm2.forward(&hidden, Then::Silu)?, Upsampling::None)?;
        Ok(match &self.shortcut {
            Some(shortcut) => (shortcut.forward(x, Upsampling::None)? + hidden)?,
            None => (x + hidden)?,
        })
    }
}

/// Single-head attention among the pixels of the coarsest resolution.
#[derive(Debug)]
struct PixelAttention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl PixelAttention {
    fn load(weights: &Weights, name: &str, channels: usize, groups: usize) -> Result<Self, LoadError> {
        let linear = |part: &str| Linear::load(weights, &format!("{name}.{part}"), channels, channels, Bias::Added);
        Ok(Self {
            norm: GroupNorm::load(weights, &format!("{name}.group_norm"), channels, groups, EPS)?,
            q: linear("to_q")?,
            k: linear("to_k")?,
            v: linear("to_v")?,
            out: linear("to_out.0")?,
        })
    }

    /// One image (1, channels, height, width).
    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (_, channels, height, width) = x.dims4()?;
        let normed = self.norm.forward(x, Then::Nothing)?;
        let pixels = normed.reshape((channels, height * width))?.t()?.contiguous()?;
        let all = 0..height * width;
        let shape = Attention {
            heads: 1,
            kv_heads: 1,
            scale: (channels as f64).sqrt().recip(),
            mask: Mask::Segments(std::slice::from_ref(&all)),
            bias: None,
            kernels: self.q.kernels(),
        };
        let (q, k, v) = (
            self.q.forward(&pixels)?,
            self.k.forward(&pixels)?,
            self.v.forward(&pixels)?,
        );
        let mixed = self.out.forward(&attention(shape, &q, &k, &v)?)?;
        Ok((x + mixed.t()?.contiguous()?.reshape(x.dims())?)?)
    }
}

/// The blocks at the coarsest resolution.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: ResnetBlock,
    attention: Option<PixelAttention>,
    second: ResnetBlock,
}

impl MidBlock {
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        channels: usize,
        config: &AutoencoderConfig,
    ) -> Result<Self, LoadError> {
        let groups = config.norm_num_groups;
        let resnet = |i: usize| ResnetBlock::load(weights, &format!("{name}.resnets.{i}"), channels, channels, groups);
        Ok(Self {
            first: resnet(0)?,
            attention: config
                .mid_block_add_attention
                .then(|| PixelAttention::load(weights, &format!("{name}.attentions.0"), channels, groups))
                .transpose()?,
            second: resnet(1)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let mut x = self.first.forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.second.forward(&x)
    }
}
