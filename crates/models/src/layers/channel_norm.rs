//! Root-mean-square normalisation of each pixel over its channels.

use candle_core::Tensor;

use super::values;
use crate::{
    LoadError, ModelError, Weights,
    ops::{
        Kernels,
        candle::{Operation, Then},
        cpu::math::{self, vectorized},
    },
};

/// The smallest length that a pixel is divided by; torch's `normalize`.
const LENGTH_MIN: f32 = 1e-12;

/// x / max(|x|, 1e-12) * sqrt(channels) * gamma, where |x| is the length of a pixel's vector of channels.
///
/// # Source
/// diffusers 0.42 `QwenImageRMS_norm`.
#[derive(Debug)]
pub(crate) struct ChannelNorm {
    /// (channels,)
    gamma: Tensor,
    kernels: Kernels,
}

impl ChannelNorm {
    /// Takes `{name}.gamma`, stored as (channels, 1, ...) with `axes` ones: two for images, three for videos.
    pub(crate) fn load(weights: &Weights, name: &str, channels: usize, axes: usize) -> Result<Self, LoadError> {
        let mut shape = vec![1; axes + 1];
        shape[0] = channels;
        let gamma = weights.get(&format!("{name}.gamma"), &shape)?;
        gamma
            .reshape(channels)
            .map(|gamma| Self::new(gamma, weights.kernels()))
            .map_err(|source| weights.candle(source))
    }

    /// Makes a norm of its weight (channels,).
    pub(super) fn new(gamma: Tensor, kernels: Kernels) -> Self {
        Self { gamma, kernels }
    }

    /// Normalises each pixel of (batch, channels, height, width).
    pub(crate) fn forward(&self, x: &Tensor, then: Then) -> Result<Tensor, ModelError> {
        let (_, channels, height, width) = x.dims4()?;
        if self.kernels.fuse(x) {
            let mut y = values(x)?.slice().to_vec();
            let gamma = values(&self.gamma)?;
            for image in y.chunks_exact_mut(channels * height * width) {
                normalize_pixels(image, gamma.slice(), height * width, then == Then::Silu);
            }
            return Ok(Tensor::from_vec(y, x.dims(), x.device())?);
        }
        let x = x.contiguous()?;
        let squares = Operation::PixelSquares.of(&x, &[])?;
        Ok(Operation::ChannelNorm { then }.of(&x, &[&squares, &self.gamma])?)
    }
}

/// Pixels that are normalised at a time: their factors stay in the cache while the channels pass by.
const PIXELS: usize = 1024;

vectorized! {
    fn normalize_pixels<'a>(image: &'a mut [f32], gamma: &'a [f32], plane: usize, silu: bool) {
        let root = (gamma.len() as f32).sqrt();
        let mut factors = [0.0_f32; PIXELS];
        for first in (0..plane).step_by(PIXELS) {
            let factors = &mut factors[..PIXELS.min(plane - first)];
            factors.fill(0.0);
            for channel in 0..gamma.len() {
                let x = &image[channel * plane + first..][..factors.len()];
                for (square_sum, x) in factors.iter_mut().zip(x) {
                    *square_sum = x.mul_add(*x, *square_sum);
                }
            }
            for factor in factors.iter_mut() {
                *factor = root / factor.sqrt().max(LENGTH_MIN);
            }
            for (channel, gamma) in gamma.iter().enumerate() {
                let x = &mut image[channel * plane + first..][..factors.len()];
                if silu {
                    for (x, factor) in x.iter_mut().zip(factors.iter()) {
                        let y = *x * factor * gamma;
                        *x = y * math::sigmoid(y);
                    }
                } else {
                    for (x, factor) in x.iter_mut().zip(factors.iter()) {
                        *x *= factor * gamma;
                    }
                }
            }
        }
    }
}
