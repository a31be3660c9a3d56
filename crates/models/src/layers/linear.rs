//! A frozen linear layer.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::{matrix, values};
use crate::{
    LoadError, ModelError, Weights,
    ops::{
        Kernels,
        cpu::matmul::{Left, Order, Right, Start, matmul},
    },
};

/// Multiplications above which one product is shared among threads; below, threads work on different samples.
const SHARED_WORK: usize = 1 << 25;
/// Rows, or columns of a single row, that a thread takes at a time.
const ROWS_PER_TASK: usize = 32;
const COLUMNS_PER_TASK: usize = 4096;

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    /// y = x W^T.
    None,
    /// y = x W^T + b.
    Added,
}

/// y = x W^T + b.
#[derive(Debug)]
pub(crate) struct Linear {
    /// (inputs, outputs); contiguous for the fused kernels.
    weight: Tensor,
    bias: Option<Tensor>,
    kernels: Kernels,
}

impl Linear {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: Bias,
    ) -> Result<Self, LoadError> {
        let weight = weights.get(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = match bias {
            Bias::None => None,
            Bias::Added => Some(weights.get(&format!("{name}.bias"), &[outputs])?),
        };
        Self::new(&weight, bias, weights.kernels()).map_err(|source| weights.candle(source))
    }

    /// Makes a layer of a weight (outputs, inputs).
    pub(crate) fn new(weight: &Tensor, bias: Option<Tensor>, kernels: Kernels) -> candle_core::Result<Self> {
        let transposed = weight.t()?;
        let weight = if kernels.fuse(weight) {
            transposed.contiguous()?
        } else {
            transposed
        };
        Ok(Self { weight, bias, kernels })
    }

    /// The dtype in which the layer computes.
    pub(crate) fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// The kernels that the layer takes.
    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Maps (rows, inputs) to (rows, outputs).
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (rows, _) = x.dims2()?;
        let (inputs, outputs) = self.weight.dims2()?;
        if !self.kernels.fuse(x) {
            let y = x.matmul(&self.weight)?;
            return Ok(match &self.bias {
                Some(bias) => y.broadcast_add(bias)?,
                None => y,
            });
        }
        let mut y = vec![0.0; rows * outputs];
        {
            let x = matrix(x)?;
            let weight = values(&self.weight)?;
            let bias = self.bias.as_ref().map(values).transpose()?;
            let (x, stride, weight) = (x.slice(), x.stride, weight.slice());
            let start_at = |column: usize| {
                bias.as_ref()
                    .map_or(Start::Zero, |bias| Start::Bias(&bias.slice()[column..]))
            };
            let left = |row: usize| Left {
                data: &x[row * stride..],
                stride,
                order: Order::RowMajor,
            };
            let shared = rows * inputs * outputs > SHARED_WORK;
            if shared && rows == 1 {
                y.par_chunks_mut(COLUMNS_PER_TASK).enumerate().for_each(|(task, y)| {
                    let column = task * COLUMNS_PER_TASK;
                    let right = Right {
                        data: &weight[column..],
                        stride: outputs,
                    };
                    matmul((1, y.len(), inputs), left(0), right, start_at(column), y, outputs);
                });
            } else {
                let right = Right {
                    data: weight,
                    stride: outputs,
                };
                let product = |row: usize, y: &mut [f32]| {
                    matmul(
                        (y.len() / outputs, outputs, inputs),
                        left(row),
                        right,
                        start_at(0),
                        y,
                        outputs,
                    );
                };
                if shared {
                    let tasks = y.par_chunks_mut(ROWS_PER_TASK * outputs).enumerate();
                    tasks.for_each(|(task, y)| product(task * ROWS_PER_TASK, y));
                } else {
                    product(0, &mut y);
                }
            }
        }
        Ok(Tensor::from_vec(y, (rows, outputs), x.device())?)
    }
}
