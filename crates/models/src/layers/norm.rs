//! Normalisation layers.

use candle_core::Tensor;

use super::values;
use crate::{
    LoadError, ModelError, Weights,
    ops::{
        Kernels,
        candle::{Calls, Operation, Then},
        cpu::math::{self, vectorized},
    },
};

/// x / rms(x) * weight, over the last dimension of (rows, width).
#[derive(Debug)]
pub(crate) struct RmsNorm<T = Tensor> {
    weight: T,
    eps: f64,
    kernels: Kernels,
}

impl RmsNorm {
    /// Takes `{name}.weight`.
    pub(crate) fn load(weights: &Weights, name: &str, width: usize, eps: f64) -> Result<Self, LoadError> {
        let weight = weights.get(&format!("{name}.weight"), &[width])?;
        Ok(Self::new(weight, eps, weights.kernels()))
    }
}

impl<T: Calls> RmsNorm<T> {
    /// Makes a norm of its weight (width,).
    pub(crate) fn new(weight: T, eps: f64, kernels: Kernels) -> Self {
        Self { weight, eps, kernels }
    }

    /// Normalises each row.
    pub(crate) fn forward(&self, x: &T) -> Result<T, ModelError> {
        if x.fuses(self.kernels) {
            let x = x.tensor()?;
            let mut y = values(x)?.slice().to_vec();
            rms_rows(&mut y, values(self.weight.tensor()?)?.slice(), self.eps as f32);
            return Ok(T::of(Tensor::from_vec(y, x.dims(), x.device())?)?);
        }
        let norm = Operation::RmsNorm {
            epsilon: self.eps as f32,
        };
        Ok(x.contiguous()?.fused(norm, &[&self.weight])?)
    }
}

vectorized! {
    fn rms_rows<'a>(rows: &'a mut [f32], weight: &'a [f32], eps: f32) {
        for row in rows.chunks_exact_mut(weight.len()) {
            let square_sum = math::sum([&*row], |[value]| value * value);
            let scale = 1.0 / (square_sum / row.len() as f32 + eps).sqrt();
            for (x, weight) in row.iter_mut().zip(weight) {
                *x *= scale * weight;
            }
        }
    }
}

/// (x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension of (rows, width).
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    kernels: Kernels,
}

impl LayerNorm {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub(crate) fn load(weights: &Weights, name: &str, width: usize, eps: f64) -> Result<Self, LoadError> {
        let weight = weights.get(&format!("{name}.weight"), &[width])?;
        let bias = weights.get(&format!("{name}.bias"), &[width])?;
        Ok(Self::new(weight, bias, eps, weights.kernels()))
    }

    /// Makes a norm of its weight and bias (width,).
    pub(super) fn new(weight: Tensor, bias: Tensor, eps: f64, kernels: Kernels) -> Self {
        Self {
            weight,
            bias,
            eps,
            kernels,
        }
    }

    /// Normalises each row.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        if self.kernels.fuse(x) {
            let mut y = values(x)?.slice().to_vec();
            layer_rows(
                &mut y,
                values(&self.weight)?.slice(),
                values(&self.bias)?.slice(),
                self.eps as f32,
            );
            return Ok(Tensor::from_vec(y, x.dims(), x.device())?);
        }
        // As PyTorch does, half types are rounded once, at the end.
        let norm = Operation::LayerNorm {
            epsilon: self.eps as f32,
        };
        Ok(norm.of(&x.contiguous()?, &[&self.weight, &self.bias])?)
    }
}

vectorized! {
    fn layer_rows<'a>(rows: &'a mut [f32], weight: &'a [f32], bias: &'a [f32], eps: f32) {
        for row in rows.chunks_exact_mut(weight.len()) {
            let count = row.len() as f32;
            let mean = math::sum([&*row], |[value]| value) / count;
            let variance = math::sum([&*row], |[value]| (value - mean) * (value - mean)) / count;
            let scale = 1.0 / (variance + eps).sqrt();
            for (i, x) in row.iter_mut().enumerate() {
                *x = ((*x - mean) * scale).mul_add(weight[i], bias[i]);
            }
        }
    }
}

/// Normalisation over groups of channels of (batch, channels, height, width).
#[derive(Debug)]
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
    kernels: Kernels,
}

impl GroupNorm {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        channels: usize,
        groups: usize,
        eps: f64,
    ) -> Result<Self, LoadError> {
        let weight = weights.get(&format!("{name}.weight"), &[channels])?;
        let bias = weights.get(&format!("{name}.bias"), &[channels])?;
        Ok(Self::new(weight, bias, groups, eps, weights.kernels()))
    }

    /// Makes a norm of its weight and bias (channels,).
    pub(super) fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64, kernels: Kernels) -> Self {
        Self {
            weight,
            bias,
            groups,
            eps,
            kernels,
        }
    }

    /// Normalises each group of each image.
    pub(crate) fn forward(&self, x: &Tensor, then: Then) -> Result<Tensor, ModelError> {
        let (batch, channels, height, width) = x.dims4()?;
        if self.kernels.fuse(x) {
            let mut y = values(x)?.slice().to_vec();
            let (weight, bias) = (values(&self.weight)?, values(&self.bias)?);
            let size = channels / self.groups;
            for (index, group) in y.chunks_exact_mut(size * height * width).enumerate() {
                let channel = index % self.groups * size;
                let (weight, bias) = (&weight.slice()[channel..], &bias.slice()[channel..]);
                normalize_group(group, height * width, weight, bias, self.eps, then == Then::Silu);
            }
            return Ok(Tensor::from_vec(y, x.dims(), x.device())?);
        }
        let x = x.contiguous()?;
        let size = channels / self.groups * height * width;
        let groups = x.reshape((batch * self.groups, size))?;
        let parts = Operation::PartMoments.of(&groups, &[])?;
        let joined = Operation::JoinedMoments {
            epsilon: self.eps as f32,
            size,
        };
        let norm = Operation::GroupNorm {
            groups: self.groups,
            then,
        };
        Ok(norm.of(&x, &[&joined.of(&parts, &[])?, &self.weight, &self.bias])?)
    }
}

/// Length of the float32 partial sums of a group; partial sums are added in float64, because groups of large images have
/// millions of elements.
const PARTIAL: usize = 4096;

vectorized! {
    fn normalize_group<'a>(
        group: &'a mut [f32], plane: usize, weight: &'a [f32], bias: &'a [f32], eps: f64, silu: bool,
    ) {
        let count = group.len() as f64;
        let mut total = 0.0_f64;
        for part in group.chunks(PARTIAL) {
            total += f64::from(math::sum([part], |[value]| value));
        }
        let mean = (total / count) as f32;
        let mut squares = 0.0_f64;
        for part in group.chunks(PARTIAL) {
            squares += f64::from(math::sum([part], |[value]| (value - mean) * (value - mean)));
        }
        let scale = (1.0 / (squares / count + eps).sqrt()) as f32;
        for ((plane, weight), bias) in group.chunks_exact_mut(plane).zip(weight).zip(bias) {
            let factor = scale * weight;
            let offset = (-mean).mul_add(factor, *bias);
            if silu {
                for x in plane {
                    let y = x.mul_add(factor, offset);
                    *x = y * math::sigmoid(y);
                }
            } else {
                for x in plane {
                    *x = x.mul_add(factor, offset);
                }
            }
        }
    }
}
