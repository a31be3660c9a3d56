//! Between pictures, latents and packed tokens: a token is a square of two by two latent pixels, in every family.

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::Grid;
use crate::ModelError;
use crate::error::finite;

/// Latent pixels per token, in each direction.
const PATCH: usize = 2;

/// The latent tokens of a picture of `height` x `width` pixels, for an autoencoder with `scale` pixels per latent pixel.
///
/// # Errors
/// [`ModelError::Value`] when a side is no positive multiple of the pixels of a token.
pub fn grid(scale: usize, height: usize, width: usize) -> Result<Grid, ModelError> {
    let token = scale * PATCH;
    if height == 0 || width == 0 || !height.is_multiple_of(token) || !width.is_multiple_of(token) {
        return Err(ModelError::Value {
            input: "image size",
            problem: format!("{width} x {height} pixels; both sides must be positive multiples of {token}"),
        });
    }
    Ok(Grid {
        height: height / token,
        width: width / token,
    })
}

/// Packs latents: within a token the channel comes first, then the row, then the column of the latent pixel.
///
/// # Shapes
/// (batch, channels, height, width) to (batch, height / 2 * width / 2, 4 * channels).
///
/// # Errors
/// [`ModelError::Shape`] when a side is odd.
///
/// # Source
/// diffusers 0.42 `_pack_latents` of the FLUX and Qwen-Image pipelines.
pub fn pack_latents(latents: &Tensor) -> Result<Tensor, ModelError> {
    let &[batch, channels, height, width] = latents.dims() else {
        return Err(ModelError::Shape {
            input: "latents",
            expected: "(batch, channels, height, width)".to_owned(),
            found: latents.dims().to_vec(),
        });
    };
    let (rows, columns) = (height / PATCH, width / PATCH);
    if !height.is_multiple_of(PATCH) || !width.is_multiple_of(PATCH) {
        let expected = "(batch, channels, height, width) with even sides".to_owned();
        return Err(ModelError::Shape {
            input: "latents",
            expected,
            found: latents.dims().to_vec(),
        });
    }
    let patches = latents
        .reshape(vec![batch, channels, rows, PATCH, columns, PATCH])?
        .permute(vec![0, 2, 4, 1, 3, 5])?;
    Ok(patches
        .contiguous()?
        .reshape((batch, rows * columns, channels * PATCH * PATCH))?)
}

/// Undoes [`pack_latents`].
///
/// # Shapes
/// (batch, grid tokens, 4 * `channels`) to (batch, `channels`, 2 * grid height, 2 * grid width).
///
/// # Errors
/// [`ModelError::Shape`] when the tokens are not those of `grid`, of 4 * `channels` each.
pub fn unpack_latents(packed: &Tensor, grid: Grid, channels: usize) -> Result<Tensor, ModelError> {
    let (tokens, depth) = (grid.tokens(), channels * PATCH * PATCH);
    match packed.dims() {
        &[batch, found_tokens, found_depth] if found_tokens == tokens && found_depth == depth => {
            let patches = packed
                .reshape(vec![batch, grid.height, grid.width, channels, PATCH, PATCH])?
                .permute(vec![0, 3, 1, 4, 2, 5])?;
            Ok(patches
                .contiguous()?
                .reshape((batch, channels, grid.height * PATCH, grid.width * PATCH))?)
        }
        found => Err(ModelError::Shape {
            input: "latents",
            expected: format!("(batch, {tokens}, {depth})"),
            found: found.to_vec(),
        }),
    }
}

/// Pictures of one size as an autoencoder reads them.
///
/// # Shapes
/// Returns (images, 3, height, width) float32 in [-1, 1], on the CPU.
///
/// # Errors
/// [`ModelError::Value`] for no images, or images of several sizes.
pub fn to_pixels(images: &[RgbImage]) -> Result<Tensor, ModelError> {
    let refused = |problem: &str| ModelError::Value {
        input: "images",
        problem: problem.to_owned(),
    };
    let Some(first) = images.first() else {
        return Err(refused("is empty"));
    };
    if images.iter().any(|image| image.dimensions() != first.dimensions()) {
        return Err(refused("all images of a call must have one size"));
    }
    let pixels: Vec<f32> = images
        .iter()
        .flat_map(|image| {
            let bytes = image.as_raw();
            (0..3).flat_map(move |channel| {
                bytes
                    .iter()
                    .skip(channel)
                    .step_by(3)
                    .map(|byte| f32::from(*byte) / 127.5 - 1.0)
            })
        })
        .collect();
    let shape = (images.len(), 3, first.height() as usize, first.width() as usize);
    Ok(Tensor::from_vec(pixels, shape, &Device::Cpu)?)
}

/// Decoded images as 8-bit pixels, rounded as diffusers' `VaeImageProcessor` does.
///
/// # Shapes
/// `decoded` is (batch, 3, height, width), float32, about [-1, 1]; values beyond are clamped.
///
/// # Errors
/// [`ModelError::Shape`] for another number of channels, [`ModelError::NotFinite`] for a picture that is none.
pub fn to_images(decoded: &Tensor) -> Result<Vec<RgbImage>, ModelError> {
    let misshapen = || ModelError::Shape {
        input: "decoded images",
        expected: "(batch, 3, height, width)".to_owned(),
        found: decoded.dims().to_vec(),
    };
    let &[count, 3, height, width] = decoded.dims() else {
        return Err(misshapen());
    };
    let decoded = finite(decoded, "picture of the autoencoder (vae)")?.to_device(&Device::Cpu)?;
    let plane = height * width;
    let byte = |value: f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    (0..count)
        .map(|index| {
            let values = decoded.get(index)?.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = (0..plane)
                .flat_map(|pixel| [values[pixel], values[plane + pixel], values[2 * plane + pixel]].map(byte))
                .collect();
            RgbImage::from_raw(width as u32, height as u32, bytes).ok_or_else(misshapen)
        })
        .collect()
}
