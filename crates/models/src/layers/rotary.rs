//! Rotary position embedding.

use candle_core::{DType, Device, Tensor};

use super::{matrix, values};
use crate::{ModelError, ops::Kernels};

/// Cosines and sines (tokens, head_dim / 2), float32, of the rotary position embedding in its half-split form.
#[derive(Debug)]
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
    kernels: Kernels,
}

impl Rotary {
    /// The table of angles (tokens, head_dim / 2) in radians.
    pub(crate) fn new(angles: &[f32], tokens: usize, device: &Device, kernels: Kernels) -> Result<Self, ModelError> {
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| function(*angle)).collect();
            Tensor::from_vec(values, (tokens, angles.len() / tokens), device)
        };
        Ok(Self {
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            kernels,
        })
    }

    /// Rotates each head of x (rows, heads * head_dim); its rows are the tokens of the table from `first` on.
    pub(crate) fn rotate(&self, x: &Tensor, first: usize) -> Result<Tensor, ModelError> {
        let (rows, width) = x.dims2()?;
        let half = self.cos.dims()[1];
        if self.kernels.fuse(x) {
            let mut rotated = Vec::with_capacity(rows * width);
            {
                let (x, cos, sin) = (matrix(x)?, values(&self.cos)?, values(&self.sin)?);
                for row in 0..rows {
                    let at = (first + row) * half;
                    let table = (&cos.slice()[at..at + half], &sin.slice()[at..at + half]);
                    rotated.extend_from_slice(&x.slice()[row * x.stride..][..width]);
                    rotate_heads(&mut rotated[row * width..], table);
                }
            }
            return Ok(Tensor::from_vec(rotated, (rows, width), x.device())?);
        }
        let heads = x.reshape((rows, (), 2 * half))?.to_dtype(DType::F32)?;
        let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let table = |values: &Tensor| values.narrow(0, first, rows)?.unsqueeze(1);
        let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Ok(Tensor::cat(&[first, second], 2)?
            .reshape((rows, width))?
            .to_dtype(x.dtype())?)
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
