//! Blocks that the encoder and the decoder share.

use candle_core::Tensor;

use crate::{
    LoadError, ModelError, Weights,
    layers::{Attention, ChannelNorm, Conv2d, ConvShape, Linear, Mask, Then, Upsampling, attention},
};

/// Trailing ones in the stored shape of a norm's weight: norms of videos have three.
pub(super) const VIDEO_AXES: usize = 3;
/// The attention norms single frames.
const IMAGE_AXES: usize = 2;

/// Takes the part of a causal convolution that a single frame meets.
///
/// The kernel (outputs, inputs, frames, rows, columns) is as long as it is wide, and the video is padded with zero frames in
/// front only: the first frame lies under the last slice, and all other slices lie under zeros.
///
/// # Source
/// diffusers 0.42 `QwenImageCausalConv3d`.
pub(super) fn load_conv(weights: &Weights, name: &str, shape: ConvShape) -> Result<Conv2d, LoadError> {
    let ConvShape {
        inputs,
        outputs,
        kernel,
        ..
    } = shape;
    let video = weights.get(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel, kernel])?;
    // Copied, so that the slices that are never read do not stay in memory.
    let frame = video
        .narrow(2, kernel - 1, 1)
        .and_then(|frame| frame.squeeze(2)?.force_contiguous())
        .map_err(|source| weights.candle(source))?;
    Ok(Conv2d::new(
        frame,
        weights.get(&format!("{name}.bias"), &[outputs])?,
        shape,
        weights.kernels(),
    ))
}

/// Takes the convolution over time of a resampling from or to more frames, without reading it: a single frame passes it by.
pub(super) fn pass_time_conv(weights: &Weights, name: &str, inputs: usize, outputs: usize) -> Result<(), LoadError> {
    weights.check(&format!("{name}.time_conv.weight"), &[outputs, inputs, 3, 1, 1])?;
    weights.check(&format!("{name}.time_conv.bias"), &[outputs])
}

/// norm, SiLU, convolution, twice, beside a shortcut.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: ChannelNorm,
    conv1: Conv2d,
    norm2: ChannelNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    pub(super) fn load(weights: &Weights, name: &str, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        let conv = |part: &str, inputs: usize, kernel: usize| {
            load_conv(
                weights,
                &format!("{name}.{part}"),
                ConvShape::same(inputs, outputs, kernel),
            )
        };
        Ok(Self {
            norm1: ChannelNorm::load(weights, &format!("{name}.norm1"), inputs, VIDEO_AXES)?,
            conv1: conv("conv1", inputs, 3)?,
            norm2: ChannelNorm::load(weights, &format!("{name}.norm2"), outputs, VIDEO_AXES)?,
            conv2: conv("conv2", outputs, 3)?,
            shortcut: (inputs != outputs)
                .then(|| conv("conv_shortcut", inputs, 1))
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
    norm: ChannelNorm,
    /// Queries, keys and values, one after the other.
    qkv: Linear,
    out: Linear,
}

impl PixelAttention {
    fn load(weights: &Weights, name: &str, channels: usize) -> Result<Self, LoadError> {
        let pointwise = |part: &str, outputs: usize| {
            let weight = weights.get(&format!("{name}.{part}.weight"), &[outputs, channels, 1, 1])?;
            let bias = weights.get(&format!("{name}.{part}.bias"), &[outputs])?;
            weight
                .reshape((outputs, channels))
                .and_then(|weight| Linear::new(&weight, Some(bias), weights.kernels()))
                .map_err(|source| weights.candle(source))
        };
        Ok(Self {
            norm: ChannelNorm::load(weights, &format!("{name}.norm"), channels, IMAGE_AXES)?,
            qkv: pointwise("to_qkv", 3 * channels)?,
            out: pointwise("proj", channels)?,
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
            kernels: self.qkv.kernels(),
        };
        let qkv = self.qkv.forward(&pixels)?;
        let part = |index: usize| qkv.narrow(1, index * channels, channels);
        let mixed = self.out.forward(&attention(shape, &part(0)?, &part(1)?, &part(2)?)?)?;
        Ok((x + mixed.t()?.contiguous()?.reshape(x.dims())?)?)
    }
}

/// The blocks at the coarsest resolution.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: ResidualBlock,
    attention: PixelAttention,
    second: ResidualBlock,
}

impl MidBlock {
    pub(super) fn load(weights: &Weights, name: &str, channels: usize) -> Result<Self, LoadError> {
        let resnet = |i: usize| ResidualBlock::load(weights, &format!("{name}.resnets.{i}"), channels, channels);
        Ok(Self {
            first: resnet(0)?,
            attention: PixelAttention::load(weights, &format!("{name}.attentions.0"), channels)?,
            second: resnet(1)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.second.forward(&self.attention.forward(&self.first.forward(x)?)?)
    }
}
