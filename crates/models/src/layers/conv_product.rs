//! Convolutions for GPUs: patches of a picture, laid out by a kernel of ours, in a product with the weight.

use candle_core::Tensor;

use super::ConvShape;
use crate::ModelError;
use crate::ops::candle::{Operation, Window, add_product};

/// Bytes of the patches that are held at a time.
pub(super) const PATCHES_MOST: usize = 256 << 20;

/// Convolves x (batch, inputs, height, width), each of whose pixels stands for `scale` by `scale`, by a weight (outputs, inputs, kernel, kernel) and a
/// bias (outputs,), with at most so many bytes of patches at a time: (batch, outputs, height', width').
///
/// Pictures are worked on one by one, and their patches are cut into lines of the output by a rule that knows sizes alone: what is beside a picture
/// changes nothing. Each value is one chain of products, started from the bias and rounded once.
///
/// # Errors
/// [`ModelError::Candle`] when tensors do not fit the shape, or are in number formats that differ.
pub(super) fn convolve(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    shape: ConvShape,
    scale: usize,
    patches_most: usize,
) -> Result<Tensor, ModelError> {
    let (batch, inputs, height, width) = x.dims4()?;
    let (lines, columns) = (shape.output(scale * height), shape.output(scale * width));
    let weight = weight.reshape((shape.outputs, shape.taps()))?.contiguous()?;
    let x = x.contiguous()?;
    let mut pictures = Vec::with_capacity(batch);
    for index in 0..batch {
        let picture = x.narrow(0, index, 1)?.reshape((inputs, height, width))?;
        let spread = Operation::Spread { width: lines * columns };
        let sums = spread.of(bias, &[])?;
        if shape.is_pointwise() && scale == 1 {
            add_product(&sums, &weight, &picture.reshape((inputs, height * width))?)?;
        } else {
            let line_bytes = shape.taps() * columns * x.dtype().size_in_bytes();
            let lines_most = (patches_most / line_bytes.max(1)).clamp(1, lines.max(1));
            for first_line in (0..lines).step_by(lines_most) {
                let window = Window {
                    kernel: shape.kernel,
                    stride: shape.stride,
                    before: shape.before,
                    scale,
                    first_line,
                    lines: lines_most.min(lines - first_line),
                    columns,
                };
                let patches = Operation::Patches(window).of(&picture, &[])?;
                let part = sums.narrow(1, first_line * columns, window.lines * columns)?;
                add_product(&part, &weight, &patches)?;
            }
        }
        pictures.push(sums.reshape((1, shape.outputs, lines, columns))?);
    }
    Ok(Tensor::cat(&pictures, 0)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn patches_that_are_cut_give_the_same_bits() {
        let numbers = |count: usize| {
            (0..count)
                .map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0)
                .collect::<Vec<_>>()
        };
        let tensor = |shape: &[usize]| {
            let values = numbers(shape.iter().product());
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            tensor.to_dtype(DType::BF16).unwrap()
        };
        let (x, bias) = (tensor(&[2, 3, 9, 8]), tensor(&[4]));
        for (shape, scale) in [
            (ConvShape::same(3, 4, 3), 1),
            (ConvShape::same(3, 4, 3), 2),
            (
                ConvShape {
                    outputs: 4,
                    ..ConvShape::halving(3)
                },
                1,
            ),
        ] {
            let weight = tensor(&[4, 3, 3, 3]);
            let bits = |most: usize| {
                let y = convolve(&x, (&weight, &bias), shape, scale, most).unwrap();
                y.flatten_all().unwrap().to_vec1::<half::bf16>().unwrap()
            };
            let whole = bits(PATCHES_MOST);
            // A line at a time, although it takes more, and some lines with a rest.
            for most in [1, 4 * 27 * 8 * 2] {
                assert!(bits(most) == whole, "{shape:?} {scale} {most}");
            }
        }
    }
}
