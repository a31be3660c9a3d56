//! What the kernels compute, and of what.

use candle_core::{DType, Layout, Result, Tensor, bail};

use super::Call;
use crate::ops::nf4::BLOCK;

/// Values of a group of a group norm that are summed at a time.
pub(super) const PART: usize = 4096;

/// Channels of a pixel whose squares are summed at a time.
pub(super) const CHANNELS: usize = 32;

/// What follows a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The normalised values as they are.
    Nothing,
    /// x sigmoid(x).
    Silu,
}

/// Where the kernel of a convolution meets a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Side of the kernel.
    pub(crate) kernel: usize,
    /// Step of the kernel.
    pub(crate) stride: usize,
    /// Zero rows and columns at the top and left. Beyond the bottom and right edge are as many as the kernel reaches.
    pub(crate) before: usize,
    /// Side of the square that each pixel of the picture stands for.
    pub(crate) scale: usize,
    /// Lines of the output that are meant: the first, and how many.
    pub(crate) first_line: usize,
    pub(crate) lines: usize,
    /// Pixels of a line of the output.
    pub(crate) columns: usize,
}

/// What is computed of each row of the first input, (..., width). Vectors are (width,), and all inputs are contiguous.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Operation {
    /// x + bias, of x and the vector bias.
    Biased,
    /// x + delta, of x and a float32 delta.
    Added,
    /// x + bias + delta, of x, the vector bias and a float32 delta.
    BiasedAdded,
    /// x in float32.
    Widened,
    /// The values of E4M3 bytes: each byte's number times the float32 scale of its row, of bytes (rows, width) and the scales (rows,).
    Dequantized { dtype: DType },
    /// The values of NF4 numbers, two in a byte: each number's value times the float32 scale of its block of 64, of bytes (rows, width / 2) and the
    /// scales (rows, blocks): (rows, width).
    DequantizedNf4 { dtype: DType },
    /// The first two dimensions of x (a, b, width) swapped: (b, a, width).
    Swapped,
    /// gate * x, of x and the vector gate.
    Gated,
    /// GELU, tanh form, of x.
    Gelu,
    /// GELU of x, and the gradient of x, of x and the gradient: (2, ...).
    GeluVjp,
    /// x + gate * y, of x, y and the vector gate.
    GatedResidual,
    /// LayerNorm without weights, then (1 + scale) * x + shift, of x and the vectors scale and shift.
    ModulatedNorm { epsilon: f32 },
    /// The gradient of x of that, of x, the vector scale and the gradient.
    ModulatedNormVjp { epsilon: f32 },
    /// Softmax of float32 scores.
    Softmax { dtype: DType },
    /// Softmax of float32 scores, and their gradient, of the scores and the softmax's float32 gradient: (2, ...).
    SoftmaxVjp { dtype: DType },
    /// Queries and keys, normalised, weighted and turned, of x (2, heads, tokens, width); the float32 weights (2, width) of the first `text`
    /// tokens and those of the others; and float32 (tokens, width): of each token width / 2 cosines, then as many sines.
    Turned { epsilon: f32, text: usize },
    /// The gradient of x of that, of x, the gradient, and what turned them.
    TurnedVjp { epsilon: f32, text: usize },
    /// x / sqrt(mean of squares + epsilon), rounded to the format of x, times the vector weight.
    RmsNorm { epsilon: f32 },
    /// LayerNorm, of x and the vectors weight and bias.
    LayerNorm { epsilon: f32 },
    /// x sigmoid(x).
    Silu,
    /// x sigmoid(1.702 x).
    QuickGelu,
    /// GELU, exact form, of x.
    ExactGelu,
    /// x sigmoid(x), rounded to the format of x, times the second input.
    SiluTimes,
    /// GELU, tanh form, of x, rounded to the format of x, times the second input.
    GeluTimes,
    /// Softmax of scale * scores + bias, of float32 scores and, unless `bias_rows` is 0, the float32 bias (bias_rows, width), whose rows are taken again
    /// and again. Where there is a number of queries, the last of each so many rows sees all keys, and each row one more than that before it.
    MaskedSoftmax {
        dtype: DType,
        scale: f32,
        queries: Option<usize>,
        bias_rows: usize,
    },
    /// Each head of x (tokens, heads, width) turned, of x and the float32 cosines and sines (tokens, width / 2): the values at i and i + width / 2
    /// are a pair.
    Rotated,
    /// Of x (groups, size) the mean of each part of a group, and the sum of the squares of what is off it: float32 (groups, parts, 2).
    PartMoments,
    /// Mean, and 1 / sqrt(variance + epsilon), of groups of a size, of what `PartMoments` gives: (groups, 2).
    JoinedMoments { epsilon: f32, size: usize },
    /// Each group of channels of x (images, channels, height, width) by its moments: of x, what `JoinedMoments` gives, and the weight and bias (channels,).
    GroupNorm { groups: usize, then: Then },
    /// Of each pixel of x (images, channels, height, width) the sum of the squares of each part of its channels: float32 (images, parts, height, width).
    PixelSquares,
    /// x / max(|x|, 1e-12) * sqrt(channels) * gamma, where |x| is the length of a pixel of (images, channels, height, width): of x, what `PixelSquares`
    /// gives, and gamma (channels,).
    ChannelNorm { then: Then },
    /// Of x (channels, height, width), for each element of a convolution's kernel the pixel that it meets at each place of the output, 0 beyond the edges:
    /// (channels * kernel * kernel, lines * columns).
    Patches(Window),
    /// Each number of a vector x as a row: (rows, width).
    Spread { width: usize },
}

impl Operation {
    /// As `kernels.cu` calls it.
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::Biased => "biased",
            Self::Added => "added",
            Self::BiasedAdded => "biased_added",
            Self::Widened => "widened",
            Self::Dequantized { .. } => "dequantized",
            Self::DequantizedNf4 { .. } => "dequantized_nf4",
            Self::Swapped => "swapped",
            Self::Gated => "gated",
            Self::Gelu => "gelu",
            Self::GeluVjp => "gelu_vjp",
            Self::GatedResidual => "gated_residual",
            Self::ModulatedNorm { .. } => "modulated_norm",
            Self::ModulatedNormVjp { .. } => "modulated_norm_vjp",
            Self::Softmax { .. } => "softmax",
            Self::SoftmaxVjp { .. } => "softmax_vjp",
            Self::Turned { .. } => "turned",
            Self::TurnedVjp { .. } => "turned_vjp",
            Self::RmsNorm { .. } => "rms_norm",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Silu => "silu",
            Self::QuickGelu => "quick_gelu",
            Self::ExactGelu => "exact_gelu",
            Self::SiluTimes => "silu_times",
            Self::GeluTimes => "gelu_times",
            Self::MaskedSoftmax { .. } => "masked_softmax",
            Self::Rotated => "rotated",
            Self::PartMoments => "part_moments",
            Self::JoinedMoments { .. } => "joined_moments",
            Self::GroupNorm { .. } => "group_norm",
            Self::PixelSquares => "pixel_squares",
            Self::ChannelNorm { .. } => "channel_norm",
            Self::Patches(_) => "patches",
            Self::Spread { .. } => "spread",
        }
    }

    /// The result's number format, of that of the first input.
    pub(in super::super) fn dtype(self, first: DType) -> DType {
        match self {
            Self::Dequantized { dtype }
            | Self::DequantizedNf4 { dtype }
            | Self::Softmax { dtype }
            | Self::SoftmaxVjp { dtype }
            | Self::MaskedSoftmax { dtype, .. } => dtype,
            Self::Widened | Self::PartMoments | Self::JoinedMoments { .. } | Self::PixelSquares => DType::F32,
            _ => first,
        }
    }

    /// The result's sizes, of those of the first input.
    pub(in super::super) fn dims(self, first: &[usize]) -> Vec<usize> {
        match (self, first) {
            (Self::GeluVjp | Self::SoftmaxVjp { .. }, _) => [&[2], first].concat(),
            (Self::Swapped, &[a, b, width]) => vec![b, a, width],
            (Self::DequantizedNf4 { .. }, [outer @ .., width]) => [outer, &[2 * width]].concat(),
            (Self::PartMoments, &[groups, size]) => vec![groups, size.div_ceil(PART), 2],
            (Self::JoinedMoments { .. }, &[groups, ..]) => vec![groups, 2],
            (Self::PixelSquares, &[images, channels, height, width]) => {
                vec![images, channels.div_ceil(CHANNELS), height, width]
            }
            (Self::Patches(window), &[channels, ..]) => {
                vec![channels * window.kernel * window.kernel, window.lines * window.columns]
            }
            (Self::Spread { width }, &[rows]) => vec![rows, width],
            _ => first.to_vec(),
        }
    }

    /// Elements and number format of the inputs after the first.
    fn others(self, first: &[usize], kept: DType) -> Vec<(usize, DType)> {
        let (count, width) = (first.iter().product(), first.last().copied().unwrap_or(1));
        let (same, vector) = ((count, kept), (width, kept));
        let tokens = first.len().checked_sub(2).map_or(1, |at| first[at]);
        let delta = (count, DType::F32);
        let rows = count / width.max(1);
        let scales = (rows, DType::F32);
        let block_scales = (rows * width.div_ceil(BLOCK / 2), DType::F32);
        let weights = (2 * width, DType::F32);
        let angles = (tokens * width, DType::F32);
        let channels = first.get(1).copied().unwrap_or(1);
        let of_channels = (channels, kept);
        match self {
            Self::Widened
            | Self::Swapped
            | Self::Gelu
            | Self::Silu
            | Self::QuickGelu
            | Self::ExactGelu
            | Self::Softmax { .. }
            | Self::PartMoments
            | Self::JoinedMoments { .. }
            | Self::PixelSquares
            | Self::Patches(_)
            | Self::Spread { .. }
            | Self::MaskedSoftmax { bias_rows: 0, .. } => vec![],
            Self::Biased | Self::Gated | Self::RmsNorm { .. } => vec![vector],
            Self::Added => vec![delta],
            Self::Dequantized { .. } => vec![scales],
            Self::DequantizedNf4 { .. } => vec![block_scales],
            Self::BiasedAdded => vec![vector, delta],
            Self::GeluVjp | Self::SoftmaxVjp { .. } | Self::SiluTimes | Self::GeluTimes => vec![same],
            Self::GatedResidual => vec![same, vector],
            Self::ModulatedNorm { .. } | Self::LayerNorm { .. } => vec![vector, vector],
            Self::ModulatedNormVjp { .. } => vec![vector, same],
            Self::Turned { .. } => vec![weights, weights, angles],
            Self::TurnedVjp { .. } => vec![same, weights, weights, angles],
            Self::MaskedSoftmax { bias_rows, .. } => vec![(bias_rows * width, DType::F32)],
            Self::Rotated => vec![(first.first().copied().unwrap_or(1) * width / 2, DType::F32); 2],
            Self::GroupNorm { groups, .. } => {
                let moments = (2 * groups * first.first().copied().unwrap_or(1), DType::F32);
                vec![moments, of_channels, of_channels]
            }
            Self::ChannelNorm { .. } => {
                let squares = Self::PixelSquares.dims(first).iter().product();
                vec![(squares, DType::F32), of_channels]
            }
        }
    }

    /// Whether the first input is of sizes and a format that the operation is for.
    fn takes(self, first: &[usize], kept: DType) -> bool {
        match self {
            Self::Softmax { .. } | Self::SoftmaxVjp { .. } => kept == DType::F32,
            Self::MaskedSoftmax { queries, .. } => {
                let keys = first.last().copied().unwrap_or(0);
                kept == DType::F32 && queries.is_none_or(|queries| (1..=keys).contains(&queries))
            }
            Self::Dequantized { .. } => kept == DType::U8,
            Self::DequantizedNf4 { .. } => kept == DType::U8 && !first.is_empty(),
            Self::Turned { .. } | Self::TurnedVjp { .. } => {
                matches!(*first, [2, _, _, width] if width.is_multiple_of(2))
            }
            Self::Rotated => matches!(*first, [_, _, width] if width.is_multiple_of(2)),
            Self::Swapped => first.len() == 3,
            Self::PartMoments => first.len() == 2,
            Self::JoinedMoments { size, .. } => {
                kept == DType::F32 && matches!(*first, [_, parts, 2] if parts == size.div_ceil(PART))
            }
            Self::GroupNorm { groups, .. } => {
                matches!(*first, [_, channels, _, _] if groups > 0 && channels.is_multiple_of(groups))
            }
            Self::PixelSquares | Self::ChannelNorm { .. } => first.len() == 4,
            Self::Patches(Window {
                kernel,
                stride,
                scale,
                columns,
                ..
            }) => first.len() == 3 && [kernel, stride, scale, columns].iter().all(|size| *size > 0),
            Self::Spread { .. } => first.len() == 1,
            _ => !first.is_empty(),
        }
    }

    /// Whether inputs, each with its layout and number format, are what the kernel takes them for.
    ///
    /// # Errors
    /// Another number of inputs, another size or format, an input that is not contiguous, or what [`Operation::takes`] refuses: scores that are not
    /// float32, queries and keys that are not (2, heads, tokens, width) with an even width, pictures without channels.
    pub(in super::super) fn check(self, inputs: &[(&Layout, DType)]) -> Result<()> {
        let [(first, kept), others @ ..] = inputs else {
            bail!("{} without inputs", self.name());
        };
        let first_fits = self.takes(first.dims(), *kept);
        let others_fit = || {
            let expected = self.others(first.dims(), *kept);
            others.len() == expected.len()
                && others
                    .iter()
                    .zip(&expected)
                    .all(|((layout, dtype), (count, expected))| {
                        layout.shape().elem_count() == *count && dtype == expected
                    })
        };
        if !first_fits || !others_fit() || inputs.iter().any(|(layout, _)| !layout.is_contiguous()) {
            let found: Vec<_> = inputs.iter().map(|(layout, dtype)| (layout.dims(), dtype)).collect();
            bail!(
                "{} of {found:?}: wrong inputs, or some that are not contiguous",
                self.name()
            );
        }
        Ok(())
    }

    /// Computes it where the inputs lie.
    ///
    /// # Errors
    /// As [`Operation::check`], inputs on different devices, and no memory.
    pub(crate) fn of(self, first: &Tensor, others: &[&Tensor]) -> Result<Tensor> {
        let operation = self;
        first.apply_op1_no_bwd(&Call { operation, others })
    }
}
