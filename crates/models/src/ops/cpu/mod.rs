//! Fused float32 kernels for the CPU.

mod attention;
pub(crate) mod math;
pub(crate) mod matmul;
mod projection;
mod rowwise;

use std::ops::Range;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::{Attention, Backend, Conditioning, Factors, Layout, Segment};
use crate::ModelError;
use attention::{HeadNorm, Rotary};
use projection::{Adapted, Projection};

/// A row-major float32 matrix.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    data: Vec<f32>,
}

impl Matrix {
    fn zeros(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            data: vec![0.0; rows * columns],
        }
    }

    fn row_slice(&self, rows: Range<usize>) -> &[f32] {
        &self.data[rows.start * self.columns..rows.end * self.columns]
    }
}

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

/// The CPU backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) split: Split,
}

/// Rows that one task of a split operation works on.
const BLOCK_ROWS: usize = 32;

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

    fn elementwise(self, x: &Matrix, kernel: impl for<'a> Fn(&'a [f32], &'a mut [f32]) + Sync) -> Matrix {
        let mut output = Matrix::zeros(x.rows, x.columns);
        self.row_blocks(&mut output.data, x.columns, |first, block| {
            kernel(&x.data[first * x.columns..][..block.len()], block);
        });
        output
    }
}

/// The values of a tensor as float32 in row-major order.
fn to_f32(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

impl Backend for Cpu {
    type Array = Matrix;
    type Projection = Projection;
    type Adapted = Adapted;
    type HeadNorm = HeadNorm;
    type Rotary = Rotary;

    fn projection(&self, weight: &Tensor, bias: &Tensor) -> Result<Projection, ModelError> {
        let (outputs, inputs) = weight.dims2()?;
        Ok(Projection::new(inputs, outputs, to_f32(weight)?, to_f32(bias)?))
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

    fn array(&self, values: &[f32], rows: usize, columns: usize) -> Result<Matrix, ModelError> {
        Ok(Matrix {
            rows,
            columns,
            data: values.to_vec(),
        })
    }

    fn values(&self, array: &Matrix) -> Result<Vec<f32>, ModelError> {
        Ok(array.data.clone())
    }

    fn linear(&self, x: &Matrix, segments: &[Segment<Self>]) -> Result<Matrix, ModelError> {
        let columns = segments.first().map_or(0, |segment| segment.projection.outputs());
        let mut output = Matrix::zeros(x.rows, columns);
        for Segment {
            rows,
            projection,
            adapted,
        } in segments
        {
            let input = x.row_slice(rows.clone());
            let output = &mut output.data[rows.start * columns..rows.end * columns];
            self.row_blocks(output, columns, |first, block| {
                let input = &input[first * x.columns..][..block.len() / columns * x.columns];
                projection.forward(*adapted, input, block);
            });
        }
        Ok(output)
    }

    fn linear_vjp(&self, segments: &[Segment<Self>], grad: &Matrix) -> Result<Matrix, ModelError> {
        let columns = segments.first().map_or(0, |segment| segment.projection.inputs());
        let mut output = Matrix::zeros(grad.rows, columns);
        for Segment {
            rows,
            projection,
            adapted,
        } in segments
        {
            let grad_rows = grad.row_slice(rows.clone());
            let output = &mut output.data[rows.start * columns..rows.end * columns];
            self.row_blocks(output, columns, |first, block| {
                let grad_block = &grad_rows[first * grad.columns..][..block.len() / columns * grad.columns];
                projection.backward(*adapted, grad_block, block);
            });
        }
        Ok(output)
    }

    fn lora_vjp(
        &self,
        x: &Matrix,
        segments: &[Segment<Self>],
        grad: &Matrix,
        gradients: &mut [f32],
    ) -> Result<(), ModelError> {
        for segment in segments {
            if let Some(adapted) = segment.adapted {
                let (x, grad) = (x.row_slice(segment.rows.clone()), grad.row_slice(segment.rows.clone()));
                adapted.gradients(x, grad, segment.projection, gradients);
            }
        }
        Ok(())
    }

    fn modulated_norm(
        &self,
        x: &Matrix,
        layout: Layout,
        conditioning: Conditioning<Matrix>,
        shift: usize,
        scale: usize,
    ) -> Result<Matrix, ModelError> {
        let modulation = rowwise::Modulation::new(layout, conditioning, x.columns);
        let mut output = Matrix::zeros(x.rows, x.columns);
        self.row_blocks(&mut output.data, x.columns, |first, block| {
            rowwise::modulated_norm(&x.data, first, modulation, shift, scale, block);
        });
        Ok(output)
    }

    fn modulated_norm_vjp(
        &self,
        x: &Matrix,
        layout: Layout,
        conditioning: Conditioning<Matrix>,
        scale: usize,
        grad: &Matrix,
        residual: Option<Matrix>,
    ) -> Result<Matrix, ModelError> {
        let modulation = rowwise::Modulation::new(layout, conditioning, x.columns);
        let mut output = residual.unwrap_or_else(|| Matrix::zeros(x.rows, x.columns));
        self.row_blocks(&mut output.data, x.columns, |first, block| {
            rowwise::modulated_norm_vjp(&x.data, &grad.data, first, modulation, scale, block);
        });
        Ok(output)
    }

    fn gated_residual(
        &self,
        x: &Matrix,
        y: &Matrix,
        layout: Layout,
        conditioning: Conditioning<Matrix>,
        gate: usize,
    ) -> Result<Matrix, ModelError> {
        let modulation = rowwise::Modulation::new(layout, conditioning, x.columns);
        let mut output = x.clone();
        self.row_blocks(&mut output.data, x.columns, |first, block| {
            rowwise::add_gated(&y.data, first, modulation, gate, block);
        });
        Ok(output)
    }

    fn gated_residual_vjp(
        &self,
        grad: &Matrix,
        layout: Layout,
        conditioning: Conditioning<Matrix>,
        gate: usize,
    ) -> Result<Matrix, ModelError> {
        let modulation = rowwise::Modulation::new(layout, conditioning, grad.columns);
        let mut output = Matrix::zeros(grad.rows, grad.columns);
        self.row_blocks(&mut output.data, grad.columns, |first, block| {
            rowwise::add_gated(&grad.data, first, modulation, gate, block);
        });
        Ok(output)
    }

    fn attention(&self, qkv: &Matrix, op: &Attention<Self>) -> Result<(Matrix, Matrix), ModelError> {
        Ok(attention::forward(qkv, op, self.split))
    }

    fn attention_vjp(
        &self,
        qkv: &Matrix,
        op: &Attention<Self>,
        output: &Matrix,
        log_sum_exp: &Matrix,
        grad: &Matrix,
    ) -> Result<Matrix, ModelError> {
        Ok(attention::backward(qkv, op, output, log_sum_exp, grad, self.split))
    }

    fn gelu(&self, x: &Matrix) -> Result<Matrix, ModelError> {
        Ok(self.elementwise(x, rowwise::gelu))
    }

    fn gelu_vjp(&self, x: &Matrix, grad: &Matrix) -> Result<(Matrix, Matrix), ModelError> {
        let mut value = Matrix::zeros(x.rows, x.columns);
        let mut gradient = Matrix::zeros(x.rows, x.columns);
        let block = match self.split {
            Split::Never => x.data.len(),
            Split::Rows => BLOCK_ROWS * x.columns,
        };
        value
            .data
            .par_chunks_mut(block.max(1))
            .zip(gradient.data.par_chunks_mut(block.max(1)))
            .enumerate()
            .for_each(|(index, (value, gradient))| {
                let range = index * block..index * block + value.len();
                rowwise::gelu_vjp(&x.data[range.clone()], &grad.data[range], value, gradient);
            });
        Ok((value, gradient))
    }

    fn silu(&self, x: &Matrix) -> Result<Matrix, ModelError> {
        Ok(self.elementwise(x, rowwise::silu))
    }

    fn add(&self, mut x: Matrix, y: &Matrix) -> Result<Matrix, ModelError> {
        x.data.iter_mut().zip(&y.data).for_each(|(x, y)| *x += y);
        Ok(x)
    }

    fn concat_rows(&self, x: &Matrix, y: &Matrix) -> Result<Matrix, ModelError> {
        Ok(Matrix {
            rows: x.rows + y.rows,
            columns: x.columns,
            data: [x.data.as_slice(), &y.data].concat(),
        })
    }

    fn concat_columns(&self, x: &Matrix, y: &Matrix) -> Result<Matrix, ModelError> {
        let mut output = Matrix::zeros(x.rows, x.columns + y.columns);
        for (row, target) in output.data.chunks_exact_mut(x.columns + y.columns).enumerate() {
            target[..x.columns].copy_from_slice(x.row_slice(row..row + 1));
            target[x.columns..].copy_from_slice(y.row_slice(row..row + 1));
        }
        Ok(output)
    }

    fn rows(&self, x: &Matrix, rows: Range<usize>) -> Result<Matrix, ModelError> {
        Ok(Matrix {
            rows: rows.len(),
            columns: x.columns,
            data: x.row_slice(rows).to_vec(),
        })
    }

    fn columns(&self, x: &Matrix, columns: Range<usize>) -> Result<Matrix, ModelError> {
        let mut output = Matrix::zeros(x.rows, columns.len());
        for (source, target) in x
            .data
            .chunks_exact(x.columns)
            .zip(output.data.chunks_exact_mut(columns.len()))
        {
            target.copy_from_slice(&source[columns.clone()]);
        }
        Ok(output)
    }
}
