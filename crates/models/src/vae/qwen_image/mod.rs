//! Qwen-Image's autoencoder. It is one for videos; a picture is a video of one frame, and for that it is a network of
//! two-dimensional convolutions.

mod blocks;
mod config;
mod decoder;
mod encoder;

use std::path::Path;

use candle_core::{DType, Tensor};

pub use config::AutoencoderKlQwenImageConfig;

use super::batch::each;
use crate::load::Placement;
use crate::{
    LoadError, ModelError, Weights,
    layers::{Conv2d, ConvShape, Upsampling},
};
use blocks::load_conv;
use decoder::Decoder;
use encoder::Encoder;

/// Qwen-Image's variational autoencoder for pictures, frozen. Each image is computed on its own; on the CPU, in parallel.
///
/// # Source
/// diffusers 0.42 `AutoencoderKLQwenImage`, with a single frame and without tiling. Deviation: latents are normalised in
/// float32 whatever the dtype of the network.
#[derive(Debug)]
pub struct AutoencoderKlQwenImage {
    config: AutoencoderKlQwenImageConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    /// (1, z_dim, 1, 1), float32.
    latents_mean: Tensor,
    latents_std: Tensor,
    placement: Placement,
}

impl AutoencoderKlQwenImage {
    /// Loads a `vae` folder.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, &placement.kept_whole())?;
        let config = AutoencoderKlQwenImageConfig::read(dir)?;
        let pointwise = |name: &str, channels: usize| load_conv(&weights, name, ConvShape::same(channels, channels, 1));
        let per_channel = |figures: &[f64]| {
            let figures: Vec<f32> = figures.iter().map(|figure| *figure as f32).collect();
            Tensor::from_vec(figures, (1, config.z_dim, 1, 1), weights.placement().device())
                .map_err(|source| weights.candle(source))
        };
        let autoencoder = Self {
            encoder: Encoder::load(&weights, &config)?,
            decoder: Decoder::load(&weights, &config)?,
            quant_conv: pointwise("quant_conv", 2 * config.z_dim)?,
            post_quant_conv: pointwise("post_quant_conv", config.z_dim)?,
            latents_mean: per_channel(&config.latents_mean)?,
            latents_std: per_channel(&config.latents_std)?,
            config,
            placement: weights.placement().clone(),
        };
        weights.finish(&[])?;
        Ok(autoencoder)
    }

    /// The configuration.
    pub fn config(&self) -> &AutoencoderKlQwenImageConfig {
        &self.config
    }

    /// The mode of the latent distribution, normalised per channel: what the transformer sees.
    ///
    /// # Shapes
    /// `images` (batch, 3, height, width) in [-1, 1] to (batch, z_dim, height / scale, width / scale) float32.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for another number of channels, or a side that is no positive multiple of the scale.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        let scale = self.config.scale();
        if let [_, _, height, width] = *images.dims()
            && [height, width]
                .iter()
                .any(|side| *side == 0 || !side.is_multiple_of(scale))
        {
            return Err(ModelError::Shape {
                input: "images",
                expected: format!("(batch, 3, height, width) with sides that are positive multiples of {scale}"),
                found: images.dims().to_vec(),
            });
        }
        let mode = each(images, "images", 3, &self.placement, |image| {
            let moments = self.encoder.forward(image)?;
            let moments = self.quant_conv.forward(&moments, Upsampling::None)?;
            Ok(moments.narrow(1, 0, self.config.z_dim)?.contiguous()?)
        })?;
        Ok(mode
            .broadcast_sub(&self.latents_mean)?
            .broadcast_div(&self.latents_std)?)
    }

    /// The pictures of normalised latents.
    ///
    /// # Shapes
    /// `latents` (batch, z_dim, height, width) to (batch, 3, height * scale, width * scale) float32 in [-1, 1].
    ///
    /// # Errors
    /// [`ModelError::Shape`] for another number of channels, or no pixels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let channels = self.config.z_dim;
        if !matches!(*latents.dims(), [batch, found, height, width] if found == channels && batch * height * width > 0)
        {
            return Err(ModelError::Shape {
                input: "latents",
                expected: format!("(batch, {channels}, height, width), none of them 0"),
                found: latents.dims().to_vec(),
            });
        }
        let latents = latents
            .to_device(self.placement.device())?
            .to_dtype(DType::F32)?
            .broadcast_mul(&self.latents_std)?
            .broadcast_add(&self.latents_mean)?;
        let images = each(&latents, "latents", channels, &self.placement, |latent| {
            self.decoder
                .forward(&self.post_quant_conv.forward(latent, Upsampling::None)?)
        })?;
        Ok(images.clamp(-1.0_f32, 1.0_f32)?)
    }
}
