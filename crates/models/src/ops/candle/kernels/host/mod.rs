//! The operations on the CPU, one row after another.

mod layers;
mod pictures;

use std::ops::Range;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, DType, Layout, Result, bail};
use half::{bf16, f16};

use super::Operation;
use super::operation::CHANNELS;
use super::rows::Rows;
use crate::ops::{fp8, nf4};

/// The cubic coefficient of the tanh form of GELU, and 2 sqrt(2 / pi).
const GELU_CUBIC: f32 = 0.044_715;
const GELU_SLOPE: f32 = 1.595_769_2;

/// The values of a contiguous input; bytes are what the operation takes them for.
pub(super) fn wide(operation: Operation, storage: &CpuStorage, layout: &Layout) -> Result<Vec<f32>> {
    let (start, end) = (
        layout.start_offset(),
        layout.start_offset() + layout.shape().elem_count(),
    );
    let CpuStorage::U8(bytes) = storage else {
        return floats(storage, start..end);
    };
    let bytes = bytes[start..end].iter();
    Ok(match operation {
        Operation::DequantizedNf4 { .. } => bytes.flat_map(|byte| [byte >> 4, byte & 15].map(nf4::widen)).collect(),
        _ => bytes.map(|byte| fp8::widen(*byte)).collect(),
    })
}

/// A range of values.
pub(super) fn floats(storage: &CpuStorage, range: Range<usize>) -> Result<Vec<f32>> {
    Ok(match storage {
        CpuStorage::F32(values) => values[range].to_vec(),
        CpuStorage::BF16(values) => values[range].iter().map(|value| value.to_f32()).collect(),
        CpuStorage::F16(values) => values[range].iter().map(|value| value.to_f32()).collect(),
        other => bail!("no kernel for {:?}", other.dtype()),
    })
}

/// Values rounded to a number format.
fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => bf16::from_f32(value).to_f32(),
        DType::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Values in a number format.
pub(super) fn kept(values: Vec<f32>, dtype: DType) -> Result<CpuStorage> {
    Ok(match dtype {
        DType::F32 => CpuStorage::F32(values),
        DType::BF16 => CpuStorage::BF16(values.into_iter().map(bf16::from_f32).collect()),
        DType::F16 => CpuStorage::F16(values.into_iter().map(f16::from_f32).collect()),
        other => bail!("no kernel for {other:?}"),
    })
}

/// The result's values, of the inputs' values and the sizes and the number format of the first. Where there are two results, one follows the other.
pub(super) fn compute(operation: Operation, inputs: &[Vec<f32>], dims: &[usize], dtype: DType) -> Vec<f32> {
    let by = operation.rows(dims);
    let width = by.width;
    let row = |input: usize, row: usize| &inputs[input][row * width..][..width];
    let each = |of: &dyn Fn(usize) -> Vec<f32>| (0..by.rows).flat_map(of).collect::<Vec<f32>>();
    let both = |of: &dyn Fn(usize) -> [Vec<f32>; 2]| {
        let (first, second): (Vec<_>, Vec<_>) = (0..by.rows).map(of).map(|[first, second]| (first, second)).unzip();
        [first.concat(), second.concat()].concat()
    };
    match operation {
        Operation::Biased => each(&|r| sum(row(0, r), &inputs[1])),
        Operation::Added => sum(&inputs[0], &inputs[1]),
        Operation::BiasedAdded => each(&|r| sum(&sum(row(0, r), &inputs[1]), row(2, r))),
        Operation::Widened => inputs[0].clone(),
        Operation::Dequantized { .. } => each(&|r| row(0, r).iter().map(|x| x * inputs[1][r]).collect()),
        Operation::DequantizedNf4 { .. } => {
            let (width, blocks) = (2 * width, (2 * width).div_ceil(nf4::BLOCK));
            each(&|r| {
                let values = inputs[0][r * width..][..width].iter().enumerate();
                values
                    .map(|(at, x)| x * inputs[1][r * blocks + at / nf4::BLOCK])
                    .collect()
            })
        }
        Operation::Swapped => each(&|r| row(0, r % by.first * (by.rows / by.first) + r / by.first).to_vec()),
        Operation::Gated => each(&|r| row(0, r).iter().zip(&inputs[1]).map(|(x, gate)| x * gate).collect()),
        Operation::Gelu => inputs[0].iter().map(|x| x * gelu_gate(*x)).collect(),
        Operation::GeluVjp => both(&|r| gelu_vjp(row(0, r), row(1, r))),
        Operation::GatedResidual => each(&|r| {
            let pairs = row(0, r).iter().zip(row(1, r)).zip(&inputs[2]);
            pairs.map(|((x, y), gate)| x + gate * y).collect()
        }),
        Operation::ModulatedNorm { epsilon } => each(&|r| {
            let modulation = inputs[1].iter().zip(&inputs[2]);
            let normalised = normalised(row(0, r), epsilon).0;
            let modulated = normalised.iter().zip(modulation);
            modulated.map(|(x, (scale, shift))| x * (1.0 + scale) + shift).collect()
        }),
        Operation::ModulatedNormVjp { epsilon } => each(&|r| {
            let (normalised, inverse) = normalised(row(0, r), epsilon);
            let grad: Vec<f32> = row(2, r)
                .iter()
                .zip(&inputs[1])
                .map(|(g, scale)| g * (1.0 + scale))
                .collect();
            let (mean, along) = (mean(grad.iter().copied()), mean_product(&grad, &normalised));
            let pairs = grad.iter().zip(&normalised);
            pairs.map(|(g, x)| inverse * (g - mean - x * along)).collect()
        }),
        Operation::Softmax { .. } => each(&|r| softmax(row(0, r))),
        Operation::SoftmaxVjp { .. } => both(&|r| {
            let (value, grad) = (softmax(row(0, r)), row(1, r));
            let along: f32 = value.iter().zip(grad).map(|(p, g)| p * g).sum();
            let gradient = value.iter().zip(grad).map(|(p, g)| p * (g - along)).collect();
            [value, gradient]
        }),
        Operation::Turned { epsilon, text } => each(&|r| {
            let turn = Turn::new(&inputs[1..], r, by, text);
            let x = row(0, r);
            let inverse = inverse_root_mean_square(x, epsilon);
            let weighted: Vec<f32> = x
                .iter()
                .zip(turn.weights)
                .map(|(x, weight)| x * inverse * weight)
                .collect();
            turn.turned(&weighted, 1.0)
        }),
        Operation::TurnedVjp { epsilon, text } => each(&|r| {
            let turn = Turn::new(&inputs[2..], r, by, text);
            let x = row(0, r);
            let inverse = inverse_root_mean_square(x, epsilon);
            let normalised: Vec<f32> = x.iter().map(|x| x * inverse).collect();
            let back = turn.turned(row(1, r), -1.0);
            let grad: Vec<f32> = back.iter().zip(turn.weights).map(|(g, weight)| g * weight).collect();
            let along = mean_product(&grad, &normalised);
            let pairs = grad.iter().zip(&normalised);
            pairs.map(|(g, x)| inverse * (g - x * along)).collect()
        }),
        Operation::RmsNorm { epsilon } => each(&|r| layers::rms_norm(row(0, r), &inputs[1], epsilon, dtype)),
        Operation::LayerNorm { epsilon } => each(&|r| {
            let weights = inputs[1].iter().zip(&inputs[2]);
            let normalised = normalised(row(0, r), epsilon).0;
            normalised
                .iter()
                .zip(weights)
                .map(|(x, (weight, bias))| x * weight + bias)
                .collect()
        }),
        Operation::Silu => inputs[0].iter().map(|x| layers::silu(*x)).collect(),
        Operation::QuickGelu => inputs[0].iter().map(|x| layers::quick_gelu(*x)).collect(),
        Operation::ExactGelu => inputs[0].iter().map(|x| layers::exact_gelu(*x)).collect(),
        Operation::SiluTimes => layers::times(layers::silu, &inputs[0], &inputs[1], dtype),
        Operation::GeluTimes => layers::times(|x| x * gelu_gate(x), &inputs[0], &inputs[1], dtype),
        Operation::MaskedSoftmax { scale, queries, .. } => each(&|r| {
            let visible = queries.map_or(width, |queries| width - queries + r % queries + 1);
            let bias = inputs.get(1).map(|bias| &bias[r * width % bias.len()..]);
            layers::masked_softmax(row(0, r), bias, scale, visible)
        }),
        Operation::Rotated => each(&|r| layers::rotated(row(0, r), &inputs[1..], r / dims[1])),
        Operation::PartMoments => inputs[0].chunks(width).flat_map(pictures::part_moments).collect(),
        Operation::JoinedMoments { epsilon, size } => {
            let groups = inputs[0].chunks(2 * width);
            groups
                .flat_map(|parts| pictures::joined_moments(parts, epsilon, size))
                .collect()
        }
        Operation::GroupNorm { groups, then } => {
            each(&|r| pictures::group_norm(row(0, r), r, dims[1], groups, &inputs[1..], then))
        }
        Operation::PixelSquares => inputs[0]
            .chunks(dims[1] * width)
            .flat_map(|picture| pictures::pixel_squares(picture, width))
            .collect(),
        Operation::ChannelNorm { then } => {
            let (pictures, sums) = (
                inputs[0].chunks(dims[1] * width),
                inputs[1].chunks(dims[1].div_ceil(CHANNELS) * width),
            );
            pictures
                .zip(sums)
                .flat_map(|(picture, sums)| pictures::channel_norm(picture, sums, &inputs[2], then))
                .collect()
        }
        Operation::Patches(window) => each(&|r| pictures::patches(&inputs[0], (dims[1], dims[2]), window, r)),
        Operation::Spread { .. } => each(&|r| vec![inputs[0][r]; width]),
    }
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn gelu_gate(x: f32) -> f32 {
    1.0 / (1.0 + (-GELU_SLOPE * x * (1.0 + GELU_CUBIC * x * x)).exp())
}

fn gelu_vjp(x: &[f32], grad: &[f32]) -> [Vec<f32>; 2] {
    let gradient = x.iter().zip(grad).map(|(x, grad)| {
        let gate = gelu_gate(*x);
        let slope = GELU_SLOPE * (1.0 + 3.0 * GELU_CUBIC * x * x);
        grad * (gate + x * gate * (1.0 - gate) * slope)
    });
    [x.iter().map(|x| x * gelu_gate(*x)).collect(), gradient.collect()]
}

fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len() as f32;
    values.sum::<f32>() / count
}

fn mean_product(a: &[f32], b: &[f32]) -> f32 {
    mean(a.iter().zip(b).map(|(a, b)| a * b))
}

/// A row without its mean and with a variance of 1, and what it was multiplied by.
fn normalised(x: &[f32], epsilon: f32) -> (Vec<f32>, f32) {
    let mean_of_row = mean(x.iter().copied());
    let centred: Vec<f32> = x.iter().map(|x| x - mean_of_row).collect();
    let inverse = inverse_root_mean_square(&centred, epsilon);
    (centred.into_iter().map(|x| x * inverse).collect(), inverse)
}

fn inverse_root_mean_square(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (mean_product(x, x) + epsilon).sqrt()
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
    let inverse = 1.0 / exponentials.iter().sum::<f32>();
    exponentials.into_iter().map(|e| e * inverse).collect()
}

/// What turns the rows of one token.
struct Turn<'a> {
    weights: &'a [f32],
    cosines: &'a [f32],
    sines: &'a [f32],
}

impl<'a> Turn<'a> {
    /// `inputs` are the weights of text, those of image tokens, and the angles.
    fn new(inputs: &'a [Vec<f32>], row: usize, by: Rows, text: usize) -> Self {
        let token = row % by.tokens;
        let part = usize::from(row >= by.rows / 2);
        let weights = if token < text { &inputs[0] } else { &inputs[1] };
        let (cosines, sines) = inputs[2][token * by.width..][..by.width].split_at(by.width / 2);
        Self {
            weights: &weights[part * by.width..][..by.width],
            cosines,
            sines,
        }
    }

    /// Each pair turned by its angle times `direction`, which is 1 or -1.
    fn turned(&self, x: &[f32], direction: f32) -> Vec<f32> {
        let angles = self.cosines.iter().zip(self.sines);
        let pairs = x.chunks_exact(2).zip(angles);
        pairs
            .flat_map(|(pair, (cosine, sine))| {
                let sine = direction * sine;
                [pair[0] * cosine - pair[1] * sine, pair[0] * sine + pair[1] * cosine]
            })
            .collect()
    }
}
