//! From pixels to the moments of the latent distribution.

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
pub(super) struct Encoder {
    conv_in: Conv2d,
    blocks: Vec<DownBlock>,
    mid: MidBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock>,
    downsampler: Option<Conv2d>,
}

impl Encoder {
    pub(super) fn load(weights: &Weights, config: &AutoencoderConfig) -> Result<Self, LoadError> {
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (finest, coarsest) = (widths[0], widths[widths.len() - 1]);
        let mut inputs = finest;
        let mut blocks = Vec::with_capacity(widths.len());
        for (i, &outputs) in widths.iter().enumerate() {
            let name = format!("encoder.down_blocks.{i}");
            let resnets = (0..config.layers_per_block)
                .map(|j| {
                    let inputs = if j == 0 { inputs } else { outputs };
                    ResnetBlock::load(weights, &format!("{name}.resnets.{j}"), inputs, outputs, groups)
                })
                .collect::<Result<_, _>>()?;
            let downsampler = (i + 1 < widths.len())
                .then(|| {
                    Conv2d::load(
                        weights,
                        &format!("{name}.downsamplers.0.conv"),
                        ConvShape::halving(outputs),
                    )
                })
                .transpose()?;
            blocks.push(DownBlock { resnets, downsampler });
            inputs = outputs;
        }
        let moments = ConvShape::same(coarsest, 2 * config.latent_channels, 3);
        Ok(Self {
            conv_in: Conv2d::load(
                weights,
                "encoder.conv_in",
                ConvShape::same(config.in_channels, finest, 3),
            )?,
            blocks,
            mid: MidBlock::load(weights, "encoder.mid_block", coarsest, config)?,
            norm_out: GroupNorm::load(weights, "encoder.conv_norm_out", coarsest, groups, EPS)?,
            conv_out: Conv2d::load(weights, "encoder.conv_out", moments)?,
        })
    }

    /// One image to (1, 2 * latent channels, height / scale, width / scale).
    pub(super) fn forward(&self, image: &Tensor) -> Result<Tensor, ModelError> {
        let mut x = self.conv_in.forward(image, Upsampling::None)?;
        for block in &self.blocks {
            for resnet in &block.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(downsampler) = &block.downsampler {
                x = downsampler.forward(&x, Upsampling::None)?;
            }
        }
        let x = self.norm_out.forward(&self.mid.forward(&x)?, Then::Silu)?;
        self.conv_out.forward(&x, Upsampling::None)
    }
}
