//! The autoencoders between pixels and latents: [`AutoencoderKl`] of FLUX, [`AutoencoderKlQwenImage`] of Qwen-Image.

mod batch;
mod blocks;
mod decoder;
mod encoder;
mod qwen_image;

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::Deserialize;

use crate::load::Placement;
use crate::{
    LoadError, ModelError, Weights,
    layers::{Conv2d, ConvShape, Upsampling},
    load::{read_config, require_positive, size, sizes},
};
use batch::each;
use decoder::Decoder;
use encoder::Encoder;

pub use qwen_image::{AutoencoderKlQwenImage, AutoencoderKlQwenImageConfig};

/// Most resolutions of an autoencoder; the published one has four.
const RESOLUTIONS_MAX: usize = 16;

/// An autoencoder's `config.json`, as diffusers writes it.
#[derive(Debug, Clone, Deserialize)]
pub struct AutoencoderConfig {
    /// Channels of the images.
    #[serde(default = "rgb", deserialize_with = "size")]
    pub in_channels: usize,
    /// Channels of the decoded images.
    #[serde(default = "rgb", deserialize_with = "size")]
    pub out_channels: usize,
    /// Channels of the latents.
    #[serde(deserialize_with = "size")]
    pub latent_channels: usize,
    /// Channels at each resolution, the finest first.
    #[serde(deserialize_with = "sizes")]
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per resolution of the encoder; the decoder has one more.
    #[serde(deserialize_with = "size")]
    pub layers_per_block: usize,
    /// Groups of the group norms.
    #[serde(default = "norm_num_groups", deserialize_with = "size")]
    pub norm_num_groups: usize,
    /// Latents are multiplied by this after encoding.
    pub scaling_factor: f64,
    /// Latents are lowered by this before they are scaled.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Whether a 1x1 convolution follows the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Whether the coarsest resolution has an attention.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    #[serde(default)]
    act_fn: Option<String>,
    #[serde(default)]
    down_block_types: Vec<String>,
    #[serde(default)]
    up_block_types: Vec<String>,
}

fn rgb() -> usize {
    3
}

fn norm_num_groups() -> usize {
    32
}

fn yes() -> bool {
    true
}

impl AutoencoderConfig {
    /// Pixels per latent pixel, in each direction.
    pub fn scale(&self) -> usize {
        1 << (self.block_out_channels.len().saturating_sub(1))
    }

    /// Reads `config.json` of an autoencoder's folder.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for an autoencoder of another kind, and those of [`read_config`].
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        let file = dir.join("config.json");
        let config: Self = read_config(&file)?;
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: PathBuf) -> Result<(), LoadError> {
        let unsupported = |key: &str, found: String, expected: &str| {
            Err(LoadError::Unsupported {
                file: file.clone(),
                key: key.to_owned(),
                found,
                expected: expected.to_owned(),
            })
        };
        if let Some(act_fn) = self.act_fn.as_deref().filter(|act_fn| *act_fn != "silu") {
            return unsupported("act_fn", format!("`{act_fn}`"), "silu");
        }
        if let Some(kind) = self.down_block_types.iter().find(|kind| *kind != "DownEncoderBlock2D") {
            return unsupported("down_block_types", format!("`{kind}`"), "DownEncoderBlock2D");
        }
        if let Some(kind) = self.up_block_types.iter().find(|kind| *kind != "UpDecoderBlock2D") {
            return unsupported("up_block_types", format!("`{kind}`"), "UpDecoderBlock2D");
        }
        let sizes = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
        ];
        require_positive(&file, &sizes)?;
        let resolutions = self.block_out_channels.len();
        if resolutions > RESOLUTIONS_MAX || self.block_out_channels.contains(&0) {
            let expected = format!("a list of 1 to {RESOLUTIONS_MAX} positive numbers");
            return unsupported(
                "block_out_channels",
                format!("{:?}", self.block_out_channels),
                &expected,
            );
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return unsupported("scaling_factor", self.scaling_factor.to_string(), "a positive number");
        }
        let groups = self.norm_num_groups;
        if self.block_out_channels.is_empty() || self.block_out_channels.iter().any(|c| c % groups != 0) {
            let found = format!("{:?}", self.block_out_channels);
            return unsupported(
                "block_out_channels",
                found,
                &format!("a list of multiples of {groups}, the group count"),
            );
        }
        Ok(())
    }
}

/// A variational autoencoder, frozen. Each image is computed on its own; on the CPU, in parallel.
///
/// # Source
/// diffusers `AutoencoderKL`.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: AutoencoderConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    placement: Placement,
}

impl AutoencoderKl {
    /// Loads a `vae` folder.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, &placement.kept_whole())?;
        let config = AutoencoderConfig::read(dir)?;
        let moments = 2 * config.latent_channels;
        let pointwise = |name: &str, wanted: bool, channels: usize| {
            wanted
                .then(|| Conv2d::load(&weights, name, ConvShape::same(channels, channels, 1)))
                .transpose()
        };
        let autoencoder = Self {
            encoder: Encoder::load(&weights, &config)?,
            decoder: Decoder::load(&weights, &config)?,
            quant_conv: pointwise("quant_conv", config.use_quant_conv, moments)?,
            post_quant_conv: pointwise("post_quant_conv", config.use_post_quant_conv, config.latent_channels)?,
            config,
            placement: weights.placement().clone(),
        };
        weights.finish(&[])?;
        Ok(autoencoder)
    }

    /// The configuration.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// The mean of the latent distribution, unscaled.
    ///
    /// # Shapes
    /// `images` (batch, channels, height, width) in [-1, 1] to (batch, latent channels, height / scale, width / scale) float32.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for another number of channels.
    pub fn encode_mean(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        let channels = self.config.in_channels;
        each(images, "images", channels, &self.placement, |image| {
            let mut moments = self.encoder.forward(image)?;
            if let Some(quant_conv) = &self.quant_conv {
                moments = quant_conv.forward(&moments, Upsampling::None)?;
            }
            Ok(moments.narrow(1, 0, self.config.latent_channels)?.contiguous()?)
        })
    }

    /// The image of an unscaled latent.
    ///
    /// # Shapes
    /// `latents` (batch, latent channels, height, width) to (batch, channels, height * scale, width * scale) float32,
    /// about [-1, 1].
    ///
    /// # Errors
    /// [`ModelError::Shape`] for another number of channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let channels = self.config.latent_channels;
        each(latents, "latents", channels, &self.placement, |latent| {
            match &self.post_quant_conv {
                Some(post_quant_conv) => self
                    .decoder
                    .forward(&post_quant_conv.forward(latent, Upsampling::None)?),
                None => self.decoder.forward(latent),
            }
        })
    }

    /// (mean - shift_factor) * scaling_factor: what the transformer sees.
    ///
    /// # Shapes
    /// Any; the result has the same.
    ///
    /// # Errors
    /// [`ModelError::Candle`].
    pub fn scale_latents(&self, mean: &Tensor) -> Result<Tensor, ModelError> {
        Ok(((mean - self.config.shift_factor.unwrap_or(0.0))? * self.config.scaling_factor)?)
    }

    /// Undoes [`Self::scale_latents`].
    ///
    /// # Shapes
    /// Any; the result has the same.
    ///
    /// # Errors
    /// [`ModelError::Candle`].
    pub fn unscale_latents(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        Ok(((latents / self.config.scaling_factor)? + self.config.shift_factor.unwrap_or(0.0))?)
    }
}
