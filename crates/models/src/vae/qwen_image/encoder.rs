//! From pixels to the moments of the latent distribution.

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
pub(super) struct Encoder {
    conv_in: Conv2d,
    /// Blocks of all resolutions in one row, as in the file.
    layers: Vec<Layer>,
    mid: MidBlock,
    norm_out: ChannelNorm,
    conv_out: Conv2d,
}

#[derive(Debug)]
enum Layer {
    Block(ResidualBlock),
    Downsampling(Conv2d),
}

impl Encoder {
    pub(super) fn load(weights: &Weights, config: &AutoencoderKlQwenImageConfig) -> Result<Self, LoadError> {
        let widths = config.widths();
        let mut inputs = config.base_dim;
        let mut layers = Vec::new();
        for (i, &outputs) in widths.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                let name = format!("encoder.down_blocks.{}", layers.len());
                layers.push(Layer::Block(ResidualBlock::load(weights, &name, inputs, outputs)?));
                inputs = outputs;
            }
            if let Some(over_time) = config.temperal_downsample.get(i) {
                let name = format!("encoder.down_blocks.{}", layers.len());
                let shape = ConvShape::halving(outputs);
                let conv = Conv2d::load(weights, &format!("{name}.resample.1"), shape)?;
                if *over_time {
                    pass_time_conv(weights, &name, outputs, outputs)?;
                }
                layers.push(Layer::Downsampling(conv));
            }
        }
        let moments = ConvShape::same(inputs, 2 * config.z_dim, 3);
        Ok(Self {
            conv_in: load_conv(weights, "encoder.conv_in", ConvShape::same(3, config.base_dim, 3))?,
            layers,
            mid: MidBlock::load(weights, "encoder.mid_block", inputs)?,
            norm_out: ChannelNorm::load(weights, "encoder.norm_out", inputs, VIDEO_AXES)?,
            conv_out: load_conv(weights, "encoder.conv_out", moments)?,
        })
    }

    /// One image to (1, 2 * z_dim, height / scale, width / scale).
    pub(super) fn forward(&self, image: &Tensor) -> Result<Tensor, ModelError> {
        let mut x = self.conv_in.forward(image, Upsampling::None)?;
        for layer in &self.layers {
            x = match layer {
                Layer::Block(block) => block.forward(&x)?,
                Layer::Downsampling(conv) => conv.forward(&x, Upsampling::None)?,
            };
        }
        let x = self.norm_out.forward(&self.mid.forward(&x)?, Then::Silu)?;
        self.conv_out.forward(&x, Upsampling::None)
    }
}
