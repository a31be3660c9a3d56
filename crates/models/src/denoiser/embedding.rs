//! Embeddings that the families share: rotary angles of positions, and what modulates: the sinusoidal embedding of a scalar and
//! the two layers after it.

use candle_core::{Device, Tensor};

use super::loader::{LayerSource, Loader};
use crate::ops::{Backend, Segment};
use crate::{LoadError, ModelError};

/// Base of the rotary frequencies.
const ROTARY_THETA: f64 = 10_000.0;

/// Longest period of the sinusoidal embedding.
const MAX_PERIOD: f32 = 10_000.0;

/// Where a token stands: (frame or index, row, column).
pub(crate) type Position = [i64; 3];

/// Rotary angles in radians, (positions, sum of `axes` / 2): channel pair j of an axis of d channels turns by
/// position / 10000^(2j / d).
pub(crate) fn rotary_angles(axes: &[usize], positions: impl IntoIterator<Item = Position>) -> Vec<f64> {
    let frequencies: Vec<(usize, f64)> = axes
        .iter()
        .enumerate()
        .flat_map(|(axis, dim)| {
            (0..*dim)
                .step_by(2)
                .map(move |i| (axis, ROTARY_THETA.powf(-(i as f64) / *dim as f64)))
        })
        .collect();
    let angles = |position: Position| {
        let frequencies = frequencies.iter();
        frequencies.map(move |(axis, frequency)| position[*axis] as f64 * frequency)
    };
    positions.into_iter().flat_map(angles).collect()
}

/// The sinusoidal embedding of scalars: diffusers' `Timesteps` with `flip_sin_to_cos` and no frequency shift, in float32 as
/// there.
#[derive(Debug)]
pub(crate) struct Sinusoid {
    frequencies: Vec<f32>,
}

impl Sinusoid {
    /// The embedding with `channels / 2` frequencies.
    pub(crate) fn new(channels: usize) -> Self {
        let half = channels / 2;
        Self {
            frequencies: (0..half)
                .map(|i| (-MAX_PERIOD.ln() * i as f32 / half as f32).exp())
                .collect(),
        }
    }

    /// Cosines, then sines, of each value at each frequency; (values, channels).
    pub(crate) fn embed(&self, values: &[f32]) -> candle_core::Result<Tensor> {
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

/// Two linear layers with a SiLU between them.
pub(crate) struct Embedder<S: LayerSource> {
    linear_1: S::Projection,
    linear_2: S::Projection,
}

impl<S: LayerSource> Embedder<S> {
    /// Takes `linear_1` and `linear_2`.
    pub(crate) fn load(mut embedder: Loader<'_, S>, inputs: usize, dim: usize) -> Result<Self, LoadError> {
        Ok(Self {
            linear_1: embedder.fixed_linear("linear_1", inputs, dim)?,
            linear_2: embedder.fixed_linear("linear_2", dim, dim)?,
        })
    }
}

impl<B: Backend> Embedder<B> {
    /// Embeds each row of `x`, (rows, inputs); returns (rows, dim).
    pub(crate) fn forward(&self, backend: &B, x: &Tensor) -> Result<B::Array, ModelError> {
        let rows = 0..x.dim(0)?;
        let segment = |projection| {
            [Segment {
                rows: rows.clone(),
                projection,
                adapted: None,
            }]
        };
        let hidden = backend.linear(&backend.array(x)?, &segment(&self.linear_1))?;
        backend.linear(&backend.silu(&hidden)?, &segment(&self.linear_2))
    }
}
