//! The calls of candle that the operations are made of. Everything passes through here, so that it can be counted.

use std::fmt::Debug;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{ops, rotary_emb};

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

    /// Sizes.
    fn dims(&self) -> &[usize];
    /// Number format.
    fn dtype(&self) -> DType;

    /// A range of one dimension: a view.
    fn narrow(&self, dim: usize, start: usize, length: usize) -> Result<Self>;
    /// Swaps two dimensions: a view.
    fn transpose(&self, a: usize, b: usize) -> Result<Self>;
    /// Sizes of 1 repeated: a view.
    fn expand(&self, shape: impl Into<Shape>) -> Result<Self>;
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
    /// self - other, likewise.
    fn minus(&self, other: &Self) -> Result<Self>;
    /// self * other, likewise.
    fn times(&self, other: &Self) -> Result<Self>;
    /// factor * self + offset.
    fn affine(&self, factor: f64, offset: f64) -> Result<Self>;
    /// self * self.
    fn sqr(&self) -> Result<Self>;
    /// Square root.
    fn sqrt(&self) -> Result<Self>;
    /// 1 / self.
    fn recip(&self) -> Result<Self>;
    /// 1 / (1 + e^-self).
    fn sigmoid(&self) -> Result<Self>;
    /// self * sigmoid(self).
    fn silu(&self) -> Result<Self>;
    /// GELU, tanh form.
    fn gelu(&self) -> Result<Self>;
    /// Sum over the last dimension, which stays with the size 1.
    fn sum_last(&self) -> Result<Self>;
    /// Softmax over the last dimension of a contiguous tensor.
    fn softmax(&self) -> Result<Self>;
    /// LayerNorm over the last dimension of a contiguous tensor, then `weight` and `bias` of its size.
    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self>;
    /// RMS norm over the last dimension of a contiguous tensor, then `weight` of its size.
    fn rms_norm(&self, weight: &Self, epsilon: f64) -> Result<Self>;
    /// Turns the interleaved pairs of a contiguous (batch, heads, tokens, head_dim) by tables (tokens, head_dim / 2).
    fn rope(&self, cos: &Self, sin: &Self) -> Result<Self>;

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

    fn expand(&self, shape: impl Into<Shape>) -> Result<Self> {
        self.broadcast_as(shape)
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

    fn minus(&self, other: &Self) -> Result<Self> {
        self.broadcast_sub(other)
    }

    fn times(&self, other: &Self) -> Result<Self> {
        self.broadcast_mul(other)
    }

    fn affine(&self, factor: f64, offset: f64) -> Result<Self> {
        Tensor::affine(self, factor, offset)
    }

    fn sqr(&self) -> Result<Self> {
        Tensor::sqr(self)
    }

    fn sqrt(&self) -> Result<Self> {
        Tensor::sqrt(self)
    }

    fn recip(&self) -> Result<Self> {
        Tensor::recip(self)
    }

    fn sigmoid(&self) -> Result<Self> {
        ops::sigmoid(self)
    }

    fn silu(&self) -> Result<Self> {
        Tensor::silu(self)
    }

    fn gelu(&self) -> Result<Self> {
        Tensor::gelu(self)
    }

    fn sum_last(&self) -> Result<Self> {
        self.sum_keepdim(candle_core::D::Minus1)
    }

    fn softmax(&self) -> Result<Self> {
        ops::softmax_last_dim(self)
    }

    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        ops::layer_norm(self, weight, bias, epsilon as f32)
    }

    fn rms_norm(&self, weight: &Self, epsilon: f64) -> Result<Self> {
        ops::rms_norm(self, weight, epsilon as f32)
    }

    fn rope(&self, cos: &Self, sin: &Self) -> Result<Self> {
        rotary_emb::rope_i(self, cos, sin)
    }
}
