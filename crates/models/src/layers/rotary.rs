//! Rotary position embedding.

use candle_core::Tensor;

use super::{matrix, values};
use crate::{
    ModelError,
    ops::{
        Kernels,
        candle::{Calls, Operation},
    },
};

/// Cosines and sines (tokens, head_dim / 2), float32, of the rotary position embedding in its half-split form.
#[derive(Debug)]
pub(crate) struct Rotary<T = Tensor> {
    cos: T,
    sin: T,
    kernels: Kernels,
}

impl<T: Calls> Rotary<T> {
    /// The table of angles (tokens, head_dim / 2) in radians.
    pub(crate) fn new(angles: &[f32], tokens: usize, place: &T::Place, kernels: Kernels) -> Result<Self, ModelError> {
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| function(*angle)).collect();
            T::upload(&values, (tokens, angles.len() / tokens), place)
        };
        Ok(Self {
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            kernels,
        })
    }

    /// Rotates each head of x (rows, heads * head_dim); its rows are the tokens of the table from `first` on.
    pub(crate) fn rotate(&self, x: &T, first: usize) -> Result<T, ModelError> {
        let (rows, width) = (x.dims()[0], x.width());
        let half = self.cos.dims()[1];
        if x.fuses(self.kernels) {
            let x = x.tensor()?;
            let mut rotated = Vec::with_capacity(rows * width);
            {
                let (x, cos, sin) = (matrix(x)?, values(self.cos.tensor()?)?, values(self.sin.tensor()?)?);
                for row in 0..rows {
                    let at = (first + row) * half;
                    let table = (&cos.slice()[at..at + half], &sin.slice()[at..at + half]);
                    rotated.extend_from_slice(&x.slice()[row * x.stride..][..width]);
                    rotate_heads(&mut rotated[row * width..], table);
                }
            }
            return Ok(T::of(Tensor::from_vec(rotated, (rows, width), x.device())?)?);
        }
        let heads = x.reshape((rows, width / (2 * half), 2 * half))?;
        let (cos, sin) = (self.cos.narrow(0, first, rows)?, self.sin.narrow(0, first, rows)?);
        Ok(heads.fused(Operation::Rotated, &[&cos, &sin])?.reshape((rows, width))?)
    }
}

fn rotate_heads(row: &mut [f32], (cos, sin): (&[f32], &[f32])) {
    for head in row.chunks_exact_mut(2 * cos.len()) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
