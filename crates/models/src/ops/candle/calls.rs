//! The calls of candle that the operations are made of. Everything passes through here, so that it can be counted.

use std::fmt::Debug;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::kernels::Operation;
use crate::ops::Kernels;

/// A function of a single number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// x * sigmoid(x).
    Silu,
    /// The exact GELU, with the error function.
    Gelu,
    /// GELU with the hyperbolic tangent.
    GeluTanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// max(x, 0).
    Relu,
}

/// A tensor as the operations use it. The names are candle's; each call is a view or one kernel.
///
/// `Tensor` computes. The tests' `Counted` knows shapes alone and writes down what a GPU would do.
pub(crate) trait Calls: Clone + Debug + Send + Sync + 'static {
    /// Where tensors lie.
    type Place: Clone + Debug + Send + Sync;

    /// Uploads row-major values.
    fn upload(values: &[f32], shape: impl Into<Shape>, place: &Self::Place) -> Result<Self>;
    /// Takes a tensor over; a copy only where it lies elsewhere.
    fn take(tensor: &Tensor, place: &Self::Place) -> Result<Self>;
    /// Hands the tensor out.
    fn give(self) -> Result<Tensor>;
    /// Makes zeros.
    fn zeros(shape: impl Into<Shape>, dtype: DType, place: &Self::Place) -> Result<Self>;
    /// Where this one lies.
    fn place(&self) -> Self::Place;
    /// Whether layers take their fused kernel for this one, where they may take `kernels`.
    fn fuses(&self, kernels: Kernels) -> bool;
    /// This one, where it is candle's.
    fn tensor(&self) -> Result<&Tensor>;
    /// One of candle's as this type.
    fn of(tensor: Tensor) -> Result<Self>;

    /// Sizes.
    fn dims(&self) -> &[usize];
    /// Number format.
    fn dtype(&self) -> DType;

    /// A range of one dimension: a view.
    fn narrow(&self, dim: usize, start: usize, length: usize) -> Result<Self>;
    /// Swaps two dimensions: a view.
    fn transpose(&self, a: usize, b: usize) -> Result<Self>;
    /// Other dimensions: a view of a contiguous tensor, a copy of another.
    fn reshape(&self, shape: impl Into<Shape>) -> Result<Self>;
    /// Row-major in memory: a copy of a tensor that is not.
    fn contiguous(&self) -> Result<Self>;
    /// Another number format.
    fn to_dtype(&self, dtype: DType) -> Result<Self>;
    /// All parts along one dimension; a single part as it is.
    fn cat(parts: &[Self], dim: usize) -> Result<Self>;

    /// Matrix product of the last two dimensions.
    fn matmul(&self, other: &Self) -> Result<Self>;
    /// self + other, where a size of 1 counts for any.
    fn plus(&self, other: &Self) -> Result<Self>;
    /// self * other, where a size of 1 counts for any.
    fn times(&self, other: &Self) -> Result<Self>;
    /// factor * self + offset.
    fn affine(&self, factor: f64, offset: f64) -> Result<Self>;
    /// A function of each element.
    fn each(&self, function: Function) -> Result<Self>;
    /// The rows with these indices.
    fn rows(&self, indices: &[u32]) -> Result<Self>;
    /// self other^T of contiguous (batch, m, k) and (batch, n, k), as float32 whatever they are kept in.
    fn wide_product(&self, other: &Self) -> Result<Self>;
    /// One of our own kernels, whose first input this is.
    fn fused(&self, operation: Operation, others: &[&Self]) -> Result<Self>;

    /// The values in float32.
    fn widened(&self) -> Result<Self> {
        match self.dtype() {
            DType::F32 => Ok(self.clone()),
            _ => self.fused(Operation::Widened, &[]),
        }
    }

    /// One of the first dimension: a view of a contiguous tensor.
    fn part(&self, index: usize) -> Result<Self> {
        let shape: Vec<usize> = self.dims()[1..].to_vec();
        self.narrow(0, index, 1)?.reshape(shape)
    }

    /// The last two dimensions swapped: a view.
    fn t(&self) -> Result<Self> {
        let rank = self.dims().len();
        self.transpose(rank - 2, rank - 1)
    }

    /// A range of rows.
    fn row_range(&self, rows: &std::ops::Range<usize>) -> Result<Self> {
        self.narrow(0, rows.start, rows.len())
    }

    /// Size of the last dimension.
    fn width(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }
}

impl Calls for Tensor {
    type Place = Device;

    fn upload(values: &[f32], shape: impl Into<Shape>, place: &Device) -> Result<Self> {
        Tensor::from_slice(values, shape, place)
    }

    fn take(tensor: &Tensor, place: &Device) -> Result<Self> {
        tensor.to_device(place)
    }

    fn give(self) -> Result<Tensor> {
        Ok(self)
    }

    fn zeros(shape: impl Into<Shape>, dtype: DType, place: &Device) -> Result<Self> {
        Tensor::zeros(shape, dtype, place)
    }

    fn place(&self) -> Device {
        self.device().clone()
    }

    fn fuses(&self, kernels: Kernels) -> bool {
        kernels.fuse(self)
    }

    fn tensor(&self) -> Result<&Tensor> {
        Ok(self)
    }

    fn of(tensor: Tensor) -> Result<Self> {
        Ok(tensor)
    }

    fn dims(&self) -> &[usize] {
        Tensor::dims(self)
    }

    fn dtype(&self) -> DType {
        Tensor::dtype(self)
    }

    fn narrow(&self, dim: usize, start: usize, length: usize) -> Result<Self> {
        Tensor::narrow(self, dim, start, length)
    }

    fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        Tensor::transpose(self, a, b)
    }

    fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        Tensor::reshape(self, shape.into())
    }

    fn contiguous(&self) -> Result<Self> {
        Tensor::contiguous(self)
    }

    fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Tensor::to_dtype(self, dtype)
    }

    fn cat(parts: &[Self], dim: usize) -> Result<Self> {
        Tensor::cat(parts, dim)
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        Tensor::matmul(self, other)
    }

    fn plus(&self, other: &Self) -> Result<Self> {
        self.broadcast_add(other)
    }

    fn affine(&self, factor: f64, offset: f64) -> Result<Self> {
        Tensor::affine(self, factor, offset)
    }

    fn times(&self, other: &Self) -> Result<Self> {
        self.broadcast_mul(other)
    }

    fn each(&self, function: Function) -> Result<Self> {
        match function {
            Function::Silu => self.silu(),
            Function::Gelu => self.gelu_erf(),
            Function::GeluTanh => self.gelu(),
            Function::Sigmoid => candle_nn::ops::sigmoid(self),
            Function::Relu => self.relu(),
        }
    }

    fn rows(&self, indices: &[u32]) -> Result<Self> {
        self.index_select(&Tensor::new(indices, self.device())?, 0)
    }

    fn wide_product(&self, other: &Self) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if self.device().is_cuda() && self.dtype() != DType::F32 {
            return super::kernels::wide_product(self, other);
        }
        self.to_dtype(DType::F32)?.matmul(&other.to_dtype(DType::F32)?.t()?)
    }

    fn fused(&self, operation: Operation, others: &[&Self]) -> Result<Self> {
        operation.of(self, others)
    }
}
