//! Two-dimensional convolution.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{is_fused, values};
use crate::{
    LoadError, ModelError, Weights,
    ops::cpu::matmul::{Left, Order, Right, Start, matmul},
};

/// Multiplications above which one image is shared among threads; below, threads work on different images.
const SHARED_WORK: usize = 1 << 28;
/// Output channels that a thread takes at a time.
const CHANNELS_PER_TASK: usize = 64;
/// Output pixels whose patches are gathered at a time, at least: a few vectors, so that the patches stay in the cache.
const PIXELS_PER_CHUNK: usize = 96;

/// Kernel, stride and padding. Rows and columns beyond the bottom and right edge are zero as far as the kernel reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvShape {
    /// Input channels.
    pub(crate) inputs: usize,
    /// Output channels.
    pub(crate) outputs: usize,
    /// Side of the kernel.
    pub(crate) kernel: usize,
    /// Step of the kernel.
    pub(crate) stride: usize,
    /// Zero rows and columns at the top and left.
    pub(crate) before: usize,
    /// Zero rows and columns at the bottom and right.
    pub(crate) after: usize,
}

impl ConvShape {
    /// A convolution that keeps the size of the image.
    pub(crate) fn same(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            inputs,
            outputs,
            kernel,
            stride: 1,
            before: kernel / 2,
            after: kernel / 2,
        }
    }

    /// diffusers' `Downsample2D` in an autoencoder: stride 2, padded at the bottom and right only.
    pub(crate) fn halving(channels: usize) -> Self {
        Self {
            inputs: channels,
            outputs: channels,
            kernel: 3,
            stride: 2,
            before: 0,
            after: 1,
        }
    }

    fn output(&self, size: usize) -> usize {
        (size + self.before + self.after - self.kernel) / self.stride + 1
    }
}

/// What happens to the image before the convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upsampling {
    /// Nothing.
    None,
    /// Each pixel becomes two by two equal ones.
    Nearest2,
}

/// A convolution with bias.
#[derive(Debug)]
pub(crate) struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    shape: ConvShape,
}

impl Conv2d {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub(crate) fn load(weights: &Weights, name: &str, shape: ConvShape) -> Result<Self, LoadError> {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            ..
        } = shape;
        let weight = weights.get(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel])?;
        Ok(Self::new(
            weight,
            weights.get(&format!("{name}.bias"), &[outputs])?,
            shape,
        ))
    }

    /// Makes a layer of a weight (outputs, inputs, kernel, kernel) and a bias (outputs,).
    pub(super) fn new(weight: Tensor, bias: Tensor, shape: ConvShape) -> Self {
        Self { weight, bias, shape }
    }

    /// Maps (batch, inputs, height, width) to (batch, outputs, height', width').
    pub(crate) fn forward(&self, x: &Tensor, upsampling: Upsampling) -> Result<Tensor, ModelError> {
        let (batch, inputs, height, width) = x.dims4()?;
        let scale = if upsampling == Upsampling::Nearest2 { 2 } else { 1 };
        let ConvShape {
            outputs,
            stride,
            before,
            after,
            ..
        } = self.shape;
        if !is_fused(x) {
            let x = if scale == 2 {
                x.upsample_nearest2d(2 * height, 2 * width)?
            } else {
                x.clone()
            };
            let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            let y = x.conv2d(&self.weight, 0, stride, 1, 1)?;
            return Ok(y.broadcast_add(&self.bias.reshape((1, outputs, 1, 1))?)?);
        }
        let (rows, columns) = (self.shape.output(scale * height), self.shape.output(scale * width));
        let mut y = vec![0.0; batch * outputs * rows * columns];
        {
            let (x, weight, bias) = (values(x)?, values(&self.weight)?, values(&self.bias)?);
            let (weight, bias) = (weight.slice(), bias.slice());
            let taps = inputs * self.shape.kernel * self.shape.kernel;
            let shared = taps * outputs * rows * columns > SHARED_WORK;
            let images = x.slice().chunks_exact(inputs * height * width);
            for (image, y) in images.zip(y.chunks_exact_mut(outputs * rows * columns)) {
                let source = Source {
                    image,
                    height,
                    width,
                    scale,
                    shape: self.shape,
                    columns,
                };
                let convolve = |channel: usize, y: &mut [f32]| {
                    let channels = channel..channel + y.len() / (rows * columns);
                    source.convolve(
                        &weight[channels.start * taps..channels.end * taps],
                        &bias[channels],
                        rows,
                        y,
                    );
                };
                if shared {
                    let tasks = y.par_chunks_mut(CHANNELS_PER_TASK * rows * columns).enumerate();
                    tasks.for_each(|(task, y)| convolve(task * CHANNELS_PER_TASK, y));
                } else {
                    convolve(0, y);
                }
            }
        }
        Ok(Tensor::from_vec(y, (batch, outputs, rows, columns), x.device())?)
    }
}

/// One image, and how its patches are read.
struct Source<'a> {
    /// (channels, height, width).
    image: &'a [f32],
    height: usize,
    width: usize,
    /// Side of the square that each pixel stands for.
    scale: usize,
    shape: ConvShape,
    /// Width of the output.
    columns: usize,
}

impl Source<'_> {
    /// Convolves into `y` (channels, rows, columns): gathers the patches of a few rows, then multiplies.
    fn convolve(&self, weight: &[f32], bias: &[f32], rows: usize, y: &mut [f32]) {
        let taps = weight.len() / bias.len();
        for (channel, bias) in y.chunks_exact_mut(rows * self.columns).zip(bias) {
            channel.fill(*bias);
        }
        let rows_per_chunk = PIXELS_PER_CHUNK.div_ceil(self.columns).min(rows);
        let mut patches = vec![0.0; taps * rows_per_chunk * self.columns];
        for first in (0..rows).step_by(rows_per_chunk) {
            let pixels = rows_per_chunk.min(rows - first) * self.columns;
            for (tap, patch) in patches.chunks_exact_mut(pixels).take(taps).enumerate() {
                for (row, values) in patch.chunks_exact_mut(self.columns).enumerate() {
                    self.gather(tap, first + row, values);
                }
            }
            let left = Left {
                data: weight,
                stride: taps,
                order: Order::RowMajor,
            };
            let right = Right {
                data: &patches,
                stride: pixels,
            };
            let y = &mut y[first * self.columns..];
            matmul(
                (bias.len(), pixels, taps),
                left,
                right,
                Start::Destination,
                y,
                rows * self.columns,
            );
        }
    }

    /// The input pixels under one element of the kernel, along one output row.
    fn gather(&self, tap: usize, row: usize, values: &mut [f32]) {
        let ConvShape {
            kernel, stride, before, ..
        } = self.shape;
        let (channel, ky, kx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
        let (height, width) = (self.height * self.scale, self.width * self.scale);
        let inside = |position: usize, size: usize| position.checked_sub(before).filter(|position| *position < size);
        let Some(y) = inside(row * stride + ky, height) else {
            values.fill(0.0);
            return;
        };
        let line = &self.image[(channel * self.height + y / self.scale) * self.width..][..self.width];
        if self.scale == 1 && stride == 1 {
            // Output column c reads input column c + kx - before.
            let start = before.saturating_sub(kx);
            let end = values.len().min(width + before - kx);
            values[..start].fill(0.0);
            values[start..end].copy_from_slice(&line[start + kx - before..end + kx - before]);
            values[end..].fill(0.0);
        } else {
            for (column, value) in values.iter_mut().enumerate() {
                *value = inside(column * stride + kx, width).map_or(0.0, |x| line[x / self.scale]);
            }
        }
    }
}
