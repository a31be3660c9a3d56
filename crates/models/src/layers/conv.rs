//! Two-dimensional convolution.

use candle_core::Tensor;

use super::{
    conv_kernel::{Lines, SLACK},
    conv_product,
    patches::Patches,
    values,
};
use crate::{LoadError, ModelError, Weights, ops::Kernels};

/// Multiplications above which one image is shared among threads; below, threads work on different images.
const SHARED_WORK: usize = 1 << 28;

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

    /// Whether it meets each pixel alone.
    pub(super) fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.before, self.after) == (1, 1, 0, 0)
    }

    /// Elements of the kernel over all input channels.
    pub(super) fn taps(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Side of the output for an input with this side.
    pub(super) fn output(&self, size: usize) -> usize {
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
    kernels: Kernels,
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
        let bias = weights.get(&format!("{name}.bias"), &[outputs])?;
        Ok(Self::new(weight, bias, shape, weights.kernels()))
    }

    /// Makes a layer of a weight (outputs, inputs, kernel, kernel) and a bias (outputs,).
    pub(crate) fn new(weight: Tensor, bias: Tensor, shape: ConvShape, kernels: Kernels) -> Self {
        Self {
            weight,
            bias,
            shape,
            kernels,
        }
    }

    /// Maps (batch, inputs, height, width) to (batch, outputs, height', width').
    pub(crate) fn forward(&self, x: &Tensor, upsampling: Upsampling) -> Result<Tensor, ModelError> {
        let (batch, inputs, height, width) = x.dims4()?;
        let scale = if upsampling == Upsampling::Nearest2 { 2 } else { 1 };
        let outputs = self.shape.outputs;
        if !self.kernels.fuse(x) {
            return conv_product::convolve(
                x,
                (&self.weight, &self.bias),
                self.shape,
                scale,
                conv_product::PATCHES_MOST,
            );
        }
        let (rows, columns) = (self.shape.output(scale * height), self.shape.output(scale * width));
        let mut y = vec![0.0; batch * outputs * rows * columns];
        {
            let (x, weight, bias) = (values(x)?, values(&self.weight)?, values(&self.bias)?);
            let (weight, bias) = (weight.slice(), bias.slice());
            let taps = self.shape.taps();
            let images = x.slice().chunks_exact(inputs * height * width);
            let images = images.zip(y.chunks_exact_mut(outputs * rows * columns));
            if taps * outputs * rows * columns > SHARED_WORK {
                for (image, y) in images {
                    Patches::new(image, self.shape, scale, (height, width)).convolve(weight, bias, y);
                }
            } else {
                let mut padded = Padded::new(self.shape, scale, height, width);
                for (image, y) in images {
                    padded.fill(image);
                    padded.convolve(weight, bias, (rows, columns), y);
                }
            }
        }
        Ok(Tensor::from_vec(y, (batch, outputs, rows, columns), x.device())?)
    }
}

/// An image with its padding around it, channel by channel.
struct Padded {
    shape: ConvShape,
    /// Side of the square that each pixel stands for.
    scale: usize,
    /// Sides of the image before it is scaled.
    height: usize,
    width: usize,
    /// Width with padding.
    line: usize,
    /// Pixels of a channel with padding.
    plane: usize,
    values: Vec<f32>,
    /// Where the pixels under each element of the kernel start, in the order of the weight.
    offsets: Vec<usize>,
}

impl Padded {
    fn new(shape: ConvShape, scale: usize, height: usize, width: usize) -> Self {
        let padding = shape.before + shape.after;
        let line = scale * width + padding;
        let plane = (scale * height + padding) * line;
        let kernel = 0..shape.kernel;
        let offsets = (0..shape.inputs)
            .flat_map(|channel| kernel.clone().map(move |y| (channel, y)))
            .flat_map(|(channel, y)| kernel.clone().map(move |x| channel * plane + y * line + x))
            .collect();
        let values = vec![0.0; shape.inputs * plane + SLACK];
        Self {
            shape,
            scale,
            height,
            width,
            line,
            plane,
            values,
            offsets,
        }
    }

    /// Puts an image (channels, height, width) inside the padding.
    fn fill(&mut self, image: &[f32]) {
        let ConvShape { before, .. } = self.shape;
        let wide = self.scale * self.width;
        let planes = self.values.chunks_exact_mut(self.plane);
        for (plane, image) in planes.zip(image.chunks_exact(self.height * self.width)) {
            for (row, source) in image.chunks_exact(self.width).enumerate() {
                let start = (before + self.scale * row) * self.line + before;
                if self.scale == 1 {
                    plane[start..start + wide].copy_from_slice(source);
                } else {
                    for (pair, value) in plane[start..start + wide].chunks_exact_mut(2).zip(source) {
                        pair.fill(*value);
                    }
                    plane.copy_within(start..start + wide, start + self.line);
                }
            }
        }
    }

    /// Convolves into `y` (channels, rows, columns).
    ///
    /// A stride above one takes every other position of the dense result: strided layers are few, and only encoders have
    /// them.
    fn convolve(&self, weight: &[f32], bias: &[f32], (rows, columns): (usize, usize), y: &mut [f32]) {
        let ConvShape { stride, .. } = self.shape;
        let length = (rows - 1) * stride * self.line + (columns - 1) * stride + 1;
        let line_stride = length + SLACK;
        let mut output = vec![0.0; bias.len() * line_stride];
        let lines = Lines {
            image: &self.values,
            offsets: &self.offsets,
            weight,
            bias,
            length,
            output: &mut output,
            stride: line_stride,
        };
        lines.convolve();
        for (source, y) in output.chunks_exact(line_stride).zip(y.chunks_exact_mut(rows * columns)) {
            for (row, y) in y.chunks_exact_mut(columns).enumerate() {
                let source = &source[row * stride * self.line..];
                if stride == 1 {
                    y.copy_from_slice(&source[..columns]);
                } else {
                    y.iter_mut()
                        .zip(source.iter().step_by(stride))
                        .for_each(|(y, value)| *y = *value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_image_is_convolved_to_the_same_bits_as_a_small_one() {
        let number = |i: usize| ((i * 7919) % 1013) as f32 / 506.5 - 1.0;
        let shapes = [
            ConvShape::same(23, 9, 3),
            ConvShape::same(5, 17, 1),
            ConvShape::halving(7),
            ConvShape {
                inputs: 2,
                outputs: 3,
                kernel: 5,
                stride: 2,
                before: 2,
                after: 1,
            },
        ];
        for shape in shapes {
            let weight: Vec<f32> = (0..shape.outputs * shape.taps()).map(number).collect();
            let bias: Vec<f32> = (0..shape.outputs).map(number).collect();
            for (scale, height, width) in [(1, 4, 5), (2, 7, 12), (1, 9, 130), (2, 20, 50)] {
                let image: Vec<f32> = (0..shape.inputs * height * width).map(number).collect();
                let size = (shape.output(scale * height), shape.output(scale * width));
                let mut small = vec![0.0; shape.outputs * size.0 * size.1];
                let mut padded = Padded::new(shape, scale, height, width);
                padded.fill(&image);
                padded.convolve(&weight, &bias, size, &mut small);
                let mut large = vec![f32::NAN; small.len()];
                Patches::new(&image, shape, scale, (height, width)).convolve(&weight, &bias, &mut large);
                assert!(small == large, "{shape:?} {scale} {height} {width}");
            }
        }
    }
}
