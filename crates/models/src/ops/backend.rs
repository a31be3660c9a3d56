//! What a device must be able to compute for a FLUX block.

use std::ops::Range;

use crate::ModelError;

/// Order of the rows of a token matrix: the text tokens of all samples, sample by sample, then the image tokens likewise.
///
/// Each stream is one contiguous range of rows, so that double blocks need no copies and single blocks no concatenation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Samples.
    pub(crate) batch: usize,
    /// Text tokens per sample.
    pub(crate) text: usize,
    /// Image tokens per sample.
    pub(crate) image: usize,
}

impl Layout {
    /// Rows of a matrix in this layout.
    pub(crate) fn rows(&self) -> usize {
        self.batch * (self.text + self.image)
    }

    /// Rows of the text stream.
    pub(crate) fn text_rows(&self) -> Range<usize> {
        0..self.batch * self.text
    }

    /// Rows of the image stream.
    pub(crate) fn image_rows(&self) -> Range<usize> {
        self.batch * self.text..self.rows()
    }

    /// The same samples without their text tokens.
    pub(crate) fn image_only(&self) -> Self {
        Self { text: 0, ..*self }
    }
}

/// The two token streams of a joint block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Prompt tokens.
    Text,
    /// Latent tokens.
    Image,
}

/// Modulation of a block: per stream a matrix (batch, chunks * dim) of shifts, scales and gates.
///
/// Operations name a chunk by its index: chunk `i` is the columns `i * dim..(i + 1) * dim`.
#[derive(Debug)]
pub(crate) struct Conditioning<'a, A> {
    /// For the text rows.
    pub(crate) text: &'a A,
    /// For the image rows.
    pub(crate) image: &'a A,
}

impl<A> Clone for Conditioning<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Conditioning<'_, A> {}

/// Rows that go through one linear layer.
pub(crate) struct Segment<'a, B: Backend> {
    /// Rows of the input and of the output.
    pub(crate) rows: Range<usize>,
    /// The frozen layer.
    pub(crate) projection: &'a B::Projection,
    /// Its adapter, if it has one.
    pub(crate) adapted: Option<&'a B::Adapted>,
}

/// LoRA factors of one part of a projection.
#[derive(Debug, Clone)]
pub(crate) struct Factors<'a> {
    /// Output columns of the projection that this part writes.
    pub(crate) columns: Range<usize>,
    /// Rank.
    pub(crate) rank: usize,
    /// alpha / rank.
    pub(crate) scale: f32,
    /// A, row-major (rank, inputs).
    pub(crate) a: &'a [f32],
    /// B, row-major (outputs of the part, rank).
    pub(crate) b: &'a [f32],
    /// Where A's gradient starts in the flat gradient vector.
    pub(crate) a_offset: usize,
    /// Where B's gradient starts in the flat gradient vector.
    pub(crate) b_offset: usize,
}

/// Which rows ask in an attention. All rows are always keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queries {
    /// Text and image tokens.
    All,
    /// Image tokens only: the last block, whose text output nobody reads. The result has image rows only.
    Image,
}

/// The constants of one joint attention.
pub(crate) struct Attention<'a, B: Backend> {
    /// Row order of the input.
    pub(crate) layout: Layout,
    /// Rows that ask.
    pub(crate) queries: Queries,
    /// Weights of the RMS norms over the head dimension, one per stream.
    pub(crate) text_norm: &'a B::HeadNorm,
    /// As `text_norm`, for the image rows.
    pub(crate) image_norm: &'a B::HeadNorm,
    /// Rotary position table for (text, image) tokens of one sample.
    pub(crate) rotary: &'a B::Rotary,
}

/// The operations of a FLUX block on one kind of device.
///
/// Matrices are (rows, columns). A `_vjp` maps the gradient of the output to the gradient of the input; LoRA gradients are
/// added to a flat vector. Nothing here keeps state between calls.
pub(crate) trait Backend: Send + Sync + Sized {
    /// A matrix.
    type Array: Clone + Send + Sync;
    /// A frozen linear layer, possibly several fused side by side: y = x W^T + bias.
    type Projection: Send + Sync;
    /// The same layer with LoRA: y = x W^T + bias + scale (x A^T) B^T.
    type Adapted: Send + Sync;
    /// RMS norm weights of queries and keys.
    type HeadNorm: Send + Sync;
    /// Cosines and sines of the rotary embedding.
    type Rotary: Send + Sync;

    /// Makes a projection from a row-major weight (outputs, inputs) and a bias (outputs,).
    fn projection(
        &self,
        weight: &candle_core::Tensor,
        bias: &candle_core::Tensor,
    ) -> Result<Self::Projection, ModelError>;
    /// Gives a projection an adapter.
    fn adapt(&self, projection: &Self::Projection, factors: &[Factors]) -> Result<Self::Adapted, ModelError>;
    /// Makes the query and key norm of one stream of one block; weights (head_dim,).
    fn head_norm(&self, query: &candle_core::Tensor, key: &candle_core::Tensor) -> Result<Self::HeadNorm, ModelError>;
    /// Makes a rotary table from angles (tokens, head_dim / 2) in radians.
    fn rotary(&self, angles: &[f64], tokens: usize) -> Result<Self::Rotary, ModelError>;
    /// Makes a matrix from row-major values.
    fn array(&self, values: &[f32], rows: usize, columns: usize) -> Result<Self::Array, ModelError>;
    /// The values of a matrix, row-major.
    fn values(&self, array: &Self::Array) -> Result<Vec<f32>, ModelError>;

    /// Applies each segment's layer to its rows; the segments cover all rows in order.
    fn linear(&self, x: &Self::Array, segments: &[Segment<Self>]) -> Result<Self::Array, ModelError>;
    /// Gradient of [`Self::linear`] with respect to `x`, without the adapters' gradients.
    fn linear_vjp(&self, segments: &[Segment<Self>], grad: &Self::Array) -> Result<Self::Array, ModelError>;
    /// Adds the adapters' gradients of [`Self::linear`] to `gradients`.
    fn lora_vjp(
        &self,
        x: &Self::Array,
        segments: &[Segment<Self>],
        grad: &Self::Array,
        gradients: &mut [f32],
    ) -> Result<(), ModelError>;

    /// LayerNorm without weights (eps 1e-6), then (1 + scale) * x + shift.
    fn modulated_norm(
        &self,
        x: &Self::Array,
        layout: Layout,
        conditioning: Conditioning<Self::Array>,
        shift: usize,
        scale: usize,
    ) -> Result<Self::Array, ModelError>;
    /// `residual` plus the gradient of [`Self::modulated_norm`] with respect to `x`.
    fn modulated_norm_vjp(
        &self,
        x: &Self::Array,
        layout: Layout,
        conditioning: Conditioning<Self::Array>,
        scale: usize,
        grad: &Self::Array,
        residual: Option<Self::Array>,
    ) -> Result<Self::Array, ModelError>;

    /// x + gate * y.
    fn gated_residual(
        &self,
        x: &Self::Array,
        y: &Self::Array,
        layout: Layout,
        conditioning: Conditioning<Self::Array>,
        gate: usize,
    ) -> Result<Self::Array, ModelError>;
    /// gate * grad: the gradient of [`Self::gated_residual`] with respect to `y` (with respect to `x` it is `grad`).
    fn gated_residual_vjp(
        &self,
        grad: &Self::Array,
        layout: Layout,
        conditioning: Conditioning<Self::Array>,
        gate: usize,
    ) -> Result<Self::Array, ModelError>;

    /// RMS norm and rotary embedding of queries and keys, then softmax attention over the tokens of each sample.
    ///
    /// `qkv` is (rows, 3 * dim). Returns the output (asking rows, dim) and the log-sum-exp per head (asking rows, heads).
    fn attention(&self, qkv: &Self::Array, op: &Attention<Self>) -> Result<(Self::Array, Self::Array), ModelError>;
    /// Gradient of [`Self::attention`] with respect to `qkv`; probabilities are computed again from the log-sum-exp.
    fn attention_vjp(
        &self,
        qkv: &Self::Array,
        op: &Attention<Self>,
        output: &Self::Array,
        log_sum_exp: &Self::Array,
        grad: &Self::Array,
    ) -> Result<Self::Array, ModelError>;

    /// GELU, tanh form.
    fn gelu(&self, x: &Self::Array) -> Result<Self::Array, ModelError>;
    /// (gelu(x), the gradient of [`Self::gelu`]): both need the same exponential.
    fn gelu_vjp(&self, x: &Self::Array, grad: &Self::Array) -> Result<(Self::Array, Self::Array), ModelError>;
    /// x * sigmoid(x).
    fn silu(&self, x: &Self::Array) -> Result<Self::Array, ModelError>;

    /// x + y.
    fn add(&self, x: Self::Array, y: &Self::Array) -> Result<Self::Array, ModelError>;
    /// The rows of `x`, then those of `y`.
    fn concat_rows(&self, x: &Self::Array, y: &Self::Array) -> Result<Self::Array, ModelError>;
    /// The columns of `x`, then those of `y`.
    fn concat_columns(&self, x: &Self::Array, y: &Self::Array) -> Result<Self::Array, ModelError>;
    /// A range of rows.
    fn rows(&self, x: &Self::Array, rows: Range<usize>) -> Result<Self::Array, ModelError>;
    /// A range of columns.
    fn columns(&self, x: &Self::Array, columns: Range<usize>) -> Result<Self::Array, ModelError>;
}
