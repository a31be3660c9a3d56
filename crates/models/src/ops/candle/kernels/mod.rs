//! What candle's kernels leave out, each in one pass over memory: float32 within, whatever the tensors are kept in.
//!
//! `kernels.cu` has them for GPUs, `host.rs` for the CPU. The tests compile the same `kernels.cu` for the CPU and hold one against
//! the other.

#[cfg(feature = "cuda")]
mod gpu;
mod host;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, bail};
#[cfg(feature = "cuda")]
pub(super) use gpu::wide_product;

use super::super::nf4::BLOCK;

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
}

impl Operation {
    /// As `kernels.cu` calls it.
    pub(super) fn name(self) -> &'static str {
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
        }
    }

    /// The result's number format, of that of the first input.
    pub(super) fn dtype(self, first: DType) -> DType {
        match self {
            Self::Dequantized { dtype }
            | Self::DequantizedNf4 { dtype }
            | Self::Softmax { dtype }
            | Self::SoftmaxVjp { dtype } => dtype,
            Self::Widened => DType::F32,
            _ => first,
        }
    }

    /// The result's sizes, of those of the first input.
    pub(super) fn dims(self, first: &[usize]) -> Vec<usize> {
        match self {
            Self::GeluVjp | Self::SoftmaxVjp { .. } => [&[2], first].concat(),
            Self::Swapped => match *first {
                [a, b, width] => vec![b, a, width],
                _ => first.to_vec(),
            },
            Self::DequantizedNf4 { .. } => match first {
                [outer @ .., width] => [outer, &[2 * width]].concat(),
                [] => vec![],
            },
            _ => first.to_vec(),
        }
    }

    /// Whether each value of a row has only others at its place to do with, so that warps may share the row.
    #[cfg(feature = "cuda")]
    fn is_pointwise(self) -> bool {
        matches!(
            self,
            Self::Biased
                | Self::Added
                | Self::BiasedAdded
                | Self::Widened
                | Self::Dequantized { .. }
                | Self::DequantizedNf4 { .. }
                | Self::Swapped
                | Self::Gated
                | Self::Gelu
                | Self::GeluVjp
                | Self::GatedResidual
        )
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
        match self {
            Self::Widened | Self::Swapped | Self::Gelu | Self::Softmax { .. } => vec![],
            Self::Biased | Self::Gated => vec![vector],
            Self::Added => vec![delta],
            Self::Dequantized { .. } => vec![scales],
            Self::DequantizedNf4 { .. } => vec![block_scales],
            Self::BiasedAdded => vec![vector, delta],
            Self::GeluVjp => vec![same],
            Self::GatedResidual => vec![same, vector],
            Self::ModulatedNorm { .. } => vec![vector, vector],
            Self::ModulatedNormVjp { .. } => vec![vector, same],
            Self::SoftmaxVjp { .. } => vec![same],
            Self::Turned { .. } => vec![weights, weights, angles],
            Self::TurnedVjp { .. } => vec![same, weights, weights, angles],
        }
    }

    /// Whether inputs, each with its layout and number format, are what the kernel takes them for.
    ///
    /// # Errors
    /// Another number of inputs, another size or format, an input that is not contiguous, scores that are not float32, or queries and keys
    /// that are not (2, heads, tokens, width) with an even width.
    pub(super) fn check(self, inputs: &[(&Layout, DType)]) -> Result<()> {
        let [(first, kept), others @ ..] = inputs else {
            bail!("{} without inputs", self.name());
        };
        let expected = self.others(first.dims(), *kept);
        let others_fit = others.len() == expected.len()
            && others
                .iter()
                .zip(&expected)
                .all(|((layout, dtype), (count, expected))| layout.shape().elem_count() == *count && dtype == expected);
        let first_fits = match self {
            Self::Softmax { .. } | Self::SoftmaxVjp { .. } => *kept == DType::F32,
            Self::Dequantized { .. } => *kept == DType::U8,
            Self::DequantizedNf4 { .. } => *kept == DType::U8 && !first.dims().is_empty(),
            Self::Turned { .. } | Self::TurnedVjp { .. } => {
                matches!(*first.dims(), [2, _, _, width] if width.is_multiple_of(2))
            }
            Self::Swapped => first.dims().len() == 3,
            _ => !first.dims().is_empty(),
        };
        if !first_fits || !others_fit || inputs.iter().any(|(layout, _)| !layout.is_contiguous()) {
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
    pub(super) fn of(self, first: &Tensor, others: &[&Tensor]) -> Result<Tensor> {
        let operation = self;
        first.apply_op1_no_bwd(&Call { operation, others })
    }
}

/// An operation with all but its first input.
struct Call<'a> {
    operation: Operation,
    others: &'a [&'a Tensor],
}

/// How the values of the first input are cut into rows.
#[derive(Debug, Clone, Copy)]
struct Rows {
    rows: usize,
    width: usize,
    /// Tokens of one head, where there are heads.
    tokens: usize,
    /// Size of the first dimension.
    first: usize,
}

impl Call<'_> {
    fn check<S>(&self, inputs: &[(&S, &Layout)], dtype: fn(&S) -> DType) -> Result<()> {
        let described: Vec<_> = inputs
            .iter()
            .map(|(storage, layout)| (*layout, dtype(storage)))
            .collect();
        self.operation.check(&described)
    }

    fn rows(&self, dims: &[usize]) -> Rows {
        let (count, last) = (dims.iter().product::<usize>(), dims.last().copied().unwrap_or(1));
        // What knows no rows is cut so that a GPU has enough of them.
        let width = match self.operation {
            Operation::Widened | Operation::Gelu | Operation::GeluVjp if count.is_multiple_of(1024) => 1024,
            _ => last,
        };
        Rows {
            rows: count / width.max(1),
            width,
            tokens: dims.len().checked_sub(2).map_or(1, |at| dims[at]),
            first: dims.first().copied().unwrap_or(1),
        }
    }
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        self.operation.name()
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let guards: Vec<_> = self.others.iter().map(|other| other.storage_and_layout()).collect();
        let mut inputs = vec![(storage, layout)];
        for (other, layout) in &guards {
            let Storage::Cpu(other) = &**other else {
                bail!("an input of {} is not on the CPU", self.operation.name());
            };
            inputs.push((other, layout));
        }
        self.check(&inputs, CpuStorage::dtype)?;
        let values = inputs
            .iter()
            .map(|(storage, layout)| host::wide(self.operation, storage, layout))
            .collect::<Result<Vec<_>>>()?;
        let result = host::compute(self.operation, &values, self.rows(layout.dims()));
        let kept = host::kept(result, self.operation.dtype(storage.dtype()))?;
        Ok((kept, self.operation.dims(layout.dims()).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let guards: Vec<_> = self.others.iter().map(|other| other.storage_and_layout()).collect();
        let mut inputs = vec![(storage, layout)];
        for (other, layout) in &guards {
            let Storage::Cuda(other) = &**other else {
                bail!("an input of {} is not on the GPU", self.operation.name());
            };
            inputs.push((other, layout));
        }
        self.check(&inputs, candle_core::CudaStorage::dtype)?;
        let result = gpu::launch(self.operation, &inputs, self.rows(layout.dims()))?;
        Ok((result, self.operation.dims(layout.dims()).into()))
    }
}
