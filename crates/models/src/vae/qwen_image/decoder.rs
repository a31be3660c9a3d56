//! From latents to pixels.

use candle_core::Tensor;

use super::{
    AutoencoderKlQwenImageConfig,
    blocks::{MidBlock, ResidualBlock, VIDEO_AXES, load_conv, pass_time_conv},
};
use crate::{
    LoadError, ModelError, Weights,
    layers::{ChannelNorm, Conv2d, ConvShape, Then, Upsampling},
};

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid: MidBlock,
    blocks: Vec<UpBlock>,
    norm_out: ChannelNorm,
    conv_out: Conv2d,
}

#[derive(Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    /// The convolution after the image is doubled; it halves the channels.
    upsampler: Option<Conv2d>,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &AutoencoderKlQwenImageConfig) -> Result<Self, LoadError> {
        let widths = config.widths();
        let coarsest = widths[widths.len() - 1];
        let mut inputs = coarsest;
        let mut blocks = Vec::with_capacity(widths.len());
        for (level, &outputs) in widths.iter().enumerate().rev() {
            let name = format!("decoder.up_blocks.{}", blocks.len());
            let mut resnets = Vec::with_capacity(config.num_res_blocks + 1);
            for i in 0..=config.num_res_blocks {
                let name = format!("{name}.resnets.{i}");
                resnets.push(ResidualBlock::load(weights, &name, inputs, outputs)?);
                inputs = outputs;
            }
            let mut upsampler = None;
            if level > 0 {
                let name = format!("{name}.upsamplers.0");
                inputs = outputs / 2;
                let shape = ConvShape::same(outputs, inputs, 3);
                upsampler = Some(Conv2d::load(weights, &format!("{name}.resample.1"), shape)?);
                if config.temperal_downsample[level - 1] {
                    pass_time_conv(weights, &name, outputs, 2 * outputs)?;
                }
            }
            blocks.push(UpBlock { resnets, upsampler });
        }
        Ok(Self {
            conv_in: load_conv(weights, "decoder.conv_in", ConvShape::same(config.z_dim, coarsest, 3))?,
            mid: MidBlock::load(weights, "decoder.mid_block", coarsest)?,
            blocks,
            norm_out: ChannelNorm::load(weights, "decoder.norm_out", inputs, VIDEO_AXES)?,
            conv_out: load_conv(weights, "decoder.conv_out", ConvShape::same(inputs, 3, 3))?,
        })
    }

    /// One latent to (1, 3, height * scale, width * scale).
    pub(super) fn forward(&self, latent: &Tensor) -> Result<Tensor, ModelError> {
        let mut x = self.mid.forward(&self.conv_in.forward(latent, Upsampling::None)?)?;
        for block in &self.blocks {
            for resnet in &block.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(upsampler) = &block.upsampler {
                x = upsampler.forward(&x, Upsampling::Nearest2)?;
            }
        }
        self.conv_out
            .forward(&self.norm_out.forward(&x, Then::Silu)?, Upsampling::None)
    }
}
