//! Fused float32 kernels for the CPU.

mod attention;
pub(crate) mod math;
pub(crate) mod matmul;
mod matrix;
mod projection;
mod rowwise;
pub(crate) mod weights;

use std::ops::Range;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::{Attention, Backend, Factors, FrozenWeight, GradientSums, Layout, Modulation, Segment};
use crate::ModelError;
use attention::{HeadNorm, Rotary};
use matmul::Threads;
pub(crate) use matrix::Matrix;
use projection::{Adapted, Projection};

/// Whether an operation shares its rows among threads.
///
/// A caller that already keeps all threads busy with chunks of the batch says [`Split::Never`]. The results are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// One thread.
    Never,
    /// Blocks of rows, or heads.
    Rows,
}

impl Split {
    /// Who computes a product.
    fn threads(self) -> Threads {
        match self {
            Self::Never => Threads::One,
            Self::Rows => Threads::All,
        }
    }
}

/// The CPU backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) split: Split,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { split: Split::Rows }
    }
}

/// Rows that one task of a split operation works on.
const BLOCK_ROWS: usize = 32;

/// Rows that a chunk of the batch should not exceed by much, so that its activations stay in the cache.
const CHUNK_ROWS: usize = 320;

/// Chunks that a batch is cut into at least, if it has so many samples.
const CHUNKS_MIN: usize = 4;

impl Cpu {
    /// Calls `work(first_row, rows)` for blocks that together are all rows of `output`.
    fn row_blocks(self, output: &mut [f32], columns: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        match self.split {
            Split::Never => work(0, output),
            Split::Rows => output
                .par_chunks_mut((BLOCK_ROWS * columns).max(1))
                .enumerate()
                .for_each(|(index, block)| work(index * BLOCK_ROWS, block)),
        }
    }

    fn elementwise(
        self,
        x: &Matrix,
        kernel: impl for<'a> Fn(&'a [f32], &'a mut [f32]) + Sync,
    ) -> Result<Matrix, ModelError> {
        let columns = x.columns();
        let x: &[f32] = &x.read()?;
        let mut output = vec![0.0; x.len()];
        self.row_blocks(&mut output, columns, |first, block| {
            kernel(&x[first * columns..][..block.len()], block);
        });
        Ok(Matrix::new(output, columns))
    }
}

/// The values of a tensor as float32 in row-major order.
fn to_f32(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// What modulates the rows of both streams, opened for a row-wise kernel.
macro_rules! modulated {
    ($modulation:ident, $layout:expr, $dim:expr => $name:ident) => {
        let (text, image) = ($modulation.text.read()?, $modulation.image.read()?);
        let source = $modulation.source.map(Matrix::read).transpose()?;
        let source = source.as_ref().map(|source| source.view());
        let $name = rowwise::RowModulation::new($layout, [text.view(), image.view()], source, $dim);
    };
}

impl Backend for Cpu {
    type Array = Matrix;
    type Projection = Projection;
    type Adapted = Adapted;
    type HeadNorm = HeadNorm;
    type Rotary = Rotary;
    /// All values in the adapter's flat order.
    type Gradients = Vec<f32>;

    fn chunks(&self, batch: usize, tokens: usize) -> Vec<Range<usize>> {
        let count = (batch * tokens).div_ceil(CHUNK_ROWS).max(CHUNKS_MIN).min(batch);
        (0..count)
            .map(|chunk| chunk * batch / count..(chunk + 1) * batch / count)
            .collect()
    }

    fn each_chunk<T: Send, R: Send>(
        &self,
        chunks: Vec<T>,
        work: impl Fn(&Self, T) -> Result<R, ModelError> + Sync,
    ) -> Result<Vec<R>, ModelError> {
        let split = if chunks.len() >= rayon::current_num_threads() {
            Split::Never
        } else {
            Split::Rows
        };
        chunks
            .into_par_iter()
            .map(|chunk| work(&Self { split }, chunk))
            .collect()
    }

    fn projection(&self, weight: &FrozenWeight, bias: &Tensor) -> Result<Projection, ModelError> {
        Ok(Projection::new(weights::pack_frozen(weight)?, to_f32(bias)?))
    }

    fn adapt(&self, projection: &Projection, factors: &[Factors]) -> Result<Adapted, ModelError> {
        Ok(Adapted::new(projection, factors))
    }

    fn head_norm(&self, query: &Tensor, key: &Tensor) -> Result<HeadNorm, ModelError> {
        Ok(HeadNorm {
            query: to_f32(query)?,
            key: to_f32(key)?,
        })
    }

    fn rotary(&self, angles: &[f64], tokens: usize) -> Result<Rotary, ModelError> {
        Ok(Rotary::new(angles, tokens))
    }

    fn array(&self, tensor: &Tensor) -> Result<Matrix, ModelError> {
        Matrix::of(tensor)
    }

    fn tensor(&self, array: Matrix) -> Result<Tensor, ModelError> {
        array.into_tensor()
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Matrix, ModelError> {
        Ok(Matrix::new(vec![0.0; rows * columns], columns))
    }

    fn gradients(&self, parameters: usize) -> Vec<f32> {
        vec![0.0; parameters]
    }

    fn total(&self, chunks: Vec<Vec<f32>>) -> Result<GradientSums, ModelError> {
        let mut chunks = chunks.into_iter();
        let mut total = chunks.next().unwrap_or_default();
        chunks.for_each(|chunk| total.iter_mut().zip(chunk).for_each(|(total, value)| *total += value));
        Ok(GradientSums::Flat(total))
    }

    fn linear(&self, x: &Matrix, segments: &[Segment<Self>]) -> Result<Matrix, ModelError> {
        let columns = segments.first().map_or(0, |segment| segment.projection.outputs());
        let mut output = vec![0.0; x.rows() * columns];
        let x = x.read()?;
        for Segment {
            rows,
            projection,
            adapted,
        } in segments
        {
            let input = x.row_slice(rows.clone());
            let output = &mut output[rows.start * columns..rows.end * columns];
            projection.forward(*adapted, input, output, self.split.threads());
        }
        Ok(Matrix::new(output, columns))
    }

    fn linear_vjp(&self, segments: &[Segment<Self>], grad: &Matrix) -> Result<Matrix, ModelError> {
        let columns = segments.first().map_or(0, |segment| segment.projection.inputs());
        let mut output = vec![0.0; grad.rows() * columns];
        let grad = grad.read()?;
        for Segment {
            rows,
            projection,
            adapted,
        } in segments
        {
            let grad_rows = grad.row_slice(rows.clone());
            let output = &mut output[rows.start * columns..rows.end * columns];
            projection.backward(*adapted, grad_rows, output, self.split.threads());
        }
        Ok(Matrix::new(output, columns))
    }

    fn lora_vjp(
        &self,
        x: &Matrix,
        segments: &[Segment<Self>],
        grad: &Matrix,
        gradients: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let (x, grad) = (x.read()?, grad.read()?);
        for segment in segments {
            if let Some(adapted) = segment.adapted {
                let (x, grad) = (x.row_slice(segment.rows.clone()), grad.row_slice(segment.rows.clone()));
                adapted.gradients(x, grad, segment.projection, gradients, self.split.threads());
            }
        }
        Ok(())
    }

    fn modulated_norm(
        &self,
        x: &Matrix,
        layout: Layout,
        modulation: Modulation<Matrix>,
        shift: usize,
        scale: usize,
    ) -> Result<Matrix, ModelError> {
        let (columns, x) = (x.columns(), x.read()?);
        modulated!(modulation, layout, columns => modulation);
        let mut output = vec![0.0; x.len()];
        self.row_blocks(&mut output, columns, |first, block| {
            rowwise::modulated_norm(&x, first, modulation, shift, scale, block);
        });
        Ok(Matrix::new(output, columns))
    }

    fn modulated_norm_vjp(
        &self,
        x: &Matrix,
        layout: Layout,
        modulation: Modulation<Matrix>,
        scale: usize,
        grad: &Matrix,
        residual: Option<Matrix>,
    ) -> Result<Matrix, ModelError> {
        let (columns, x, grad) = (x.columns(), x.read()?, grad.read()?);
        modulated!(modulation, layout, columns => modulation);
        let mut output = match residual {
            Some(residual) => residual.into_values()?,
            None => vec![0.0; x.len()],
        };
        self.row_blocks(&mut output, columns, |first, block| {
            rowwise::modulated_norm_vjp(&x, &grad, first, modulation, scale, block);
        });
        Ok(Matrix::new(output, columns))
    }

    fn gated_residual(
        &self,
        x: &Matrix,
        y: &Matrix,
        layout: Layout,
        modulation: Modulation<Matrix>,
        gate: usize,
    ) -> Result<Matrix, ModelError> {
        let (columns, y) = (x.columns(), y.read()?);
        modulated!(modulation, layout, columns => modulation);
        let mut output = x.read()?.to_vec();
        self.row_blocks(&mut output, columns, |first, block| {
            rowwise::add_gated(&y, first, modulation, gate, block);
        });
        Ok(Matrix::new(output, columns))
    }

    fn gated_residual_vjp(
        &self,
        grad: &Matrix,
        layout: Layout,
        modulation: Modulation<Matrix>,
        gate: usize,
    ) -> Result<Matrix, ModelError> {
        let (columns, grad) = (grad.columns(), grad.read()?);
        modulated!(modulation, layout, columns => modulation);
        let mut output = vec![0.0; grad.len()];
        self.row_blocks(&mut output, columns, |first, block| {
            rowwise::add_gated(&grad, first, modulation, gate, block);
        });
        Ok(Matrix::new(output, columns))
    }

    fn attention(&self, qkv: &Matrix, op: &Attention<Self>) -> Result<(Matrix, Matrix), ModelError> {
        Ok(attention::forward(qkv.read()?.view(), op, self.split))
    }

    fn attention_vjp(
        &self,
        qkv: &Matrix,
        op: &Attention<Self>,
        output: &Matrix,
        log_sum_exp: &Matrix,
        grad: &Matrix,
    ) -> Result<Matrix, ModelError> {
        let (output, log_sum_exp, grad) = (output.read()?, log_sum_exp.read()?, grad.read()?);
        let kept = attention::Kept {
            output: output.view(),
            log_sum_exp: log_sum_exp.view(),
        };
        Ok(attention::backward(
            qkv.read()?.view(),
            op,
            kept,
            grad.view(),
            self.split,
        ))
    }

    fn gelu(&self, x: &Matrix) -> Result<Matrix, ModelError> {
        self.elementwise(x, rowwise::gelu)
    }

    fn gelu_vjp(&self, x: &Matrix, grad: &Matrix) -> Result<(Matrix, Matrix), ModelError> {
        let columns = x.columns();
        let (x, grad): (&[f32], &[f32]) = (&x.read()?, &grad.read()?);
        let mut value = vec![0.0; x.len()];
        let mut gradient = vec![0.0; x.len()];
        let block = match self.split {
            Split::Never => x.len(),
            Split::Rows => BLOCK_ROWS * columns,
        };
        value
            .par_chunks_mut(block.max(1))
            .zip(gradient.par_chunks_mut(block.max(1)))
            .enumerate()
            .for_each(|(index, (value, gradient))| {
                let range = index * block..index * block + value.len();
                rowwise::gelu_vjp(&x[range.clone()], &grad[range], value, gradient);
            });
        Ok((Matrix::new(value, columns), Matrix::new(gradient, columns)))
    }

    fn silu(&self, x: &Matrix) -> Result<Matrix, ModelError> {
        self.elementwise(x, rowwise::silu)
    }

    fn add(&self, x: Matrix, y: &Matrix) -> Result<Matrix, ModelError> {
        let columns = x.columns();
        let mut sum = x.into_values()?;
        sum.iter_mut().zip(y.read()?.iter()).for_each(|(x, y)| *x += y);
        Ok(Matrix::new(sum, columns))
    }

    fn concat_rows(&self, parts: &[&Matrix]) -> Result<Matrix, ModelError> {
        let columns = parts.first().map_or(0, |part| part.columns());
        let mut values = Vec::with_capacity(parts.iter().map(|part| part.rows() * columns).sum());
        for part in parts {
            values.extend_from_slice(&part.read()?);
        }
        Ok(Matrix::new(values, columns))
    }

    fn concat_columns(&self, x: &Matrix, y: &Matrix) -> Result<Matrix, ModelError> {
        let (left, right) = (x.columns(), y.columns());
        let (x, y) = (x.read()?, y.read()?);
        let mut output = Vec::with_capacity(x.len() + y.len());
        for (x, y) in x.chunks_exact(left).zip(y.chunks_exact(right)) {
            output.extend_from_slice(x);
            output.extend_from_slice(y);
        }
        Ok(Matrix::new(output, left + right))
    }

    fn rows(&self, x: &Matrix, rows: Range<usize>) -> Result<Matrix, ModelError> {
        x.row_range(rows)
    }

    fn columns(&self, x: &Matrix, columns: Range<usize>) -> Result<Matrix, ModelError> {
        let width = x.columns();
        let x = x.read()?;
        let mut output = Vec::with_capacity(x.len() / width * columns.len());
        for row in x.chunks_exact(width) {
            output.extend_from_slice(&row[columns.clone()]);
        }
        Ok(Matrix::new(output, columns.len()))
    }
}
