//! From latents to pixels.

use candle_core::Tensor;

use super::{
    AutoencoderConfig,
    blocks::{EPS, MidBlock, ResnetBlock},
};
use crate::{
    LoadError, ModelError, Weights,
    layers::{Conv2d, ConvShape, GroupNorm, Then, Upsampling},
};

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid: MidBlock,
    blocks: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug)]
struct UpBlock {
    resnets: Vec<ResnetBlock>,
    /// The convolution after the image is doubled.
    upsampler: Option<Conv2d>,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &AutoencoderConfig) -> Result<Self, LoadError> {
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (finest, coarsest) = (widths[0], widths[widths.len() - 1]);
        let mut inputs = coarsest;
        let mut blocks = Vec::with_capacity(widths.len());
        for (i, &outputs) in widths.iter().rev().enumerate() {
            let name = format!("decoder.up_blocks.{i}");
            let resnets = (0..=config.layers_per_block)
                .map(|j| {
                    let inputs = if j == 0 { inputs } else { outputs };
                    ResnetBlock::load(weights, &format!("{name}.resnets.{j}"), inputs, outputs, groups)
                })
                .collect::<Result<_, _>>()?;
            let shape = ConvShape::same(outputs, outputs, 3);
            let upsampler = (i + 1 < widths.len())
                .then(|| Conv2d::load(weights, &format!("{name}.upsamplers.0.conv"), shape))
                .transpose()?;
            blocks.push(UpBlock { resnets, upsampler });
            inputs = outputs;
        }
        let conv_in = ConvShape::same(config.latent_channels, coarsest, 3);
        Ok(Self {
            conv_in: Conv2d::load(weights, "decoder.conv_in", conv_in)?,
            mid: MidBlock::load(weights, "decoder.mid_block", coarsest, config)?,
            blocks,
            norm_out: GroupNorm::load(weights, "decoder.conv_norm_out", finest, groups, EPS)?,
            conv_out: Conv2d::load(
                weights,
                "decoder.conv_out",
                ConvShape::same(finest, config.out_channels, 3),
            )?,
        })
    }

    /// One latent to (1, channels, height * scale, width * scale).
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
