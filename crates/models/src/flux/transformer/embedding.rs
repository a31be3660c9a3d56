//! Position angles and the sinusoidal embedding of scalars.

use candle_core::{Device, Tensor};

use super::config::FluxTransformerConfig;
use crate::denoiser::Grid;

/// Base of the rotary frequencies.
const ROTARY_THETA: f64 = 10_000.0;

/// Longest period of the sinusoidal embedding.
const MAX_PERIOD: f32 = 10_000.0;

/// Rotary angles in radians, (text + image tokens, head_dim / 2).
///
/// Text tokens stand at (0, 0, 0), the image token in row r and column c at (0, r, c), as in diffusers' `FluxPipeline`.
pub(super) fn position_angles(config: &FluxTransformerConfig, text: usize, grid: Grid) -> Vec<f64> {
    let frequencies: Vec<(usize, f64)> = config
        .axes_dims_rope
        .iter()
        .enumerate()
        .flat_map(|(axis, dim)| {
            (0..*dim)
                .step_by(2)
                .map(move |i| (axis, ROTARY_THETA.powf(-(i as f64) / *dim as f64)))
        })
        .collect();
    let mut angles = vec![0.0; text * frequencies.len()];
    for row in 0..grid.height {
        for column in 0..grid.width {
            let position = [0, row, column];
            angles.extend(
                frequencies
                    .iter()
                    .map(|(axis, frequency)| position[*axis] as f64 * frequency),
            );
        }
    }
    angles
}

/// The sinusoidal embedding of scalars: diffusers' `Timesteps` with `flip_sin_to_cos` and no frequency shift, in float32 as
/// there.
#[derive(Debug)]
pub(super) struct Sinusoid {
    frequencies: Vec<f32>,
}

impl Sinusoid {
    /// The embedding with `channels / 2` frequencies.
    pub(super) fn new(channels: usize) -> Self {
        let half = channels / 2;
        Self {
            frequencies: (0..half)
                .map(|i| (-MAX_PERIOD.ln() * i as f32 / half as f32).exp())
                .collect(),
        }
    }

    /// Cosines, then sines, of each value at each frequency; (values, channels).
    pub(super) fn embed(&self, values: &[f32]) -> candle_core::Result<Tensor> {
        let embedding: Vec<f32> = values
            .iter()
            .flat_map(|value| {
                let angles = self.frequencies.iter().map(move |frequency| value * frequency);
                angles.clone().map(f32::cos).chain(angles.map(f32::sin))
            })
            .collect();
        Tensor::from_vec(embedding, (values.len(), 2 * self.frequencies.len()), &Device::Cpu)
    }
}
