//! What a device must be able to compute for a diffusion transformer.

use std::ops::Range;

use candle_core::Tensor;

use super::FrozenWeight;
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
    /// Image tokens per sample: those of the target, then those of its sources.
    pub(crate) image: usize,
    /// How many of the image tokens belong to sources.
    pub(crate) source: usize,
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

    /// The same samples with the target's tokens alone.
    pub(crate) fn target_only(&self) -> Self {
        Self {
            text: 0,
            image: self.target(),
            source: 0,
            ..*self
        }
    }

    /// Tokens of the target per sample.
    pub(crate) fn target(&self) -> usize {
        self.image - self.source
    }

    /// Rows of a sample's target in a matrix of image rows.
    pub(crate) fn target_of(&self, sample: usize) -> Range<usize> {
        let first = sample * self.image;
        first..first + self.target()
    }
}

/// What modulates a block: per stream a matrix (batch, chunks * dim) of shifts, scales and gates.
///
/// Operations name a chunk by its index: chunk `i` is the columns `i * dim..(i + 1) * dim`.
#[derive(Debug)]
pub(crate) struct Modulation<'a, A> {
    /// For the text rows.
    pub(crate) text: &'a A,
    /// For the image rows.
    pub(crate) image: &'a A,
    /// For the rows of sources, where these are modulated apart from the target's.
    pub(crate) source: Option<&'a A>,
}

impl<A> Clone for Modulation<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Modulation<'_, A> {}

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

impl Queries {
    /// Order of the asking rows of a matrix in this layout.
    pub(crate) fn layout(self, layout: Layout) -> Layout {
        match self {
            Self::All => layout,
            Self::Image => layout.image_only(),
        }
    }
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

/// Sums of LoRA gradients, where the backend that computed them keeps them.
#[derive(Debug)]
pub(crate) enum GradientSums {
    /// All values in the adapter's flat order.
    Flat(Vec<f32>),
    /// Tensors on the device, each with the offset of its factor in the flat order, to be added in their order. A factor without one has
    /// the gradient 0.
    Factors(Vec<(usize, Tensor)>),
}

/// The operations of a diffusion transformer on one kind of device.
///
/// Matrices are (rows, columns). A `_vjp` maps the gradient of the output to the gradient of the input; LoRA gradients are
/// added to [`Self::Gradients`]. Nothing here keeps state between calls.
///
/// An operation that others can express has a default, which a device with a fused kernel overrides.
pub(crate) trait Backend: Send + Sync + Sized + 'static {
    /// A matrix. Its clone shares the values.
    type Array: Clone + Send + Sync;
    /// A frozen linear layer, possibly several fused side by side: y = x W^T + bias.
    type Projection: Send + Sync;
    /// The same layer with LoRA: y = x W^T + bias + scale (x A^T) B^T.
    type Adapted: Send + Sync;
    /// RMS norm weights of queries and keys.
    type HeadNorm: Send + Sync;
    /// Cosines and sines of the rotary embedding.
    type Rotary: Send + Sync;
    /// The gradients of all factors of an adapter while they are summed.
    type Gradients: Send;

    /// Cuts a batch of samples of `tokens` rows each into the chunks that should run apart. The cut decides the order in which
    /// gradients are summed, so it must depend on the sizes only.
    fn chunks(&self, batch: usize, tokens: usize) -> Vec<Range<usize>>;
    /// Runs `work` for each chunk, on this backend or on one that suits the number of chunks better. Returns the results in order.
    fn each_chunk<T: Send, R: Send>(
        &self,
        chunks: Vec<T>,
        work: impl Fn(&Self, T) -> Result<R, ModelError> + Sync,
    ) -> Result<Vec<R>, ModelError> {
        chunks.into_iter().map(|chunk| work(self, chunk)).collect()
    }

    /// Makes a projection from a weight and a bias (outputs,).
    fn projection(&self, weight: &FrozenWeight, bias: &Tensor) -> Result<Self::Projection, ModelError>;
    /// Gives a projection an adapter.
    fn adapt(&self, projection: &Self::Projection, factors: &[Factors]) -> Result<Self::Adapted, ModelError>;
    /// Makes the query and key norm of one stream of one block; weights (head_dim,).
    fn head_norm(&self, query: &Tensor, key: &Tensor) -> Result<Self::HeadNorm, ModelError>;
    /// Makes a rotary table from angles (tokens, head_dim / 2) in radians.
    fn rotary(&self, angles: &[f64], tokens: usize) -> Result<Self::Rotary, ModelError>;
    /// Takes a (rows, columns) tensor over, without a copy where its device and dtype already fit.
    fn array(&self, tensor: &Tensor) -> Result<Self::Array, ModelError>;
    /// Hands a matrix out as a float32 tensor (rows, columns) on the device.
    fn tensor(&self, array: Self::Array) -> Result<Tensor, ModelError>;
    /// Makes a matrix of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Result<Self::Array, ModelError>;

    /// Starts the gradients of an adapter of so many parameters at zero.
    fn gradients(&self, parameters: usize) -> Self::Gradients;
    /// The gradients of all chunks, added up in their order or to be added in it.
    fn total(&self, chunks: Vec<Self::Gradients>) -> Result<GradientSums, ModelError>;

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
        gradients: &mut Self::Gradients,
    ) -> Result<(), ModelError>;

    /// LayerNorm without weights (eps 1e-6), then (1 + scale) * x + shift.
    fn modulated_norm(
        &self,
        x: &Self::Array,
        layout: Layout,
        modulation: Modulation<Self::Array>,
        shift: usize,
        scale: usize,
    ) -> Result<Self::Array, ModelError>;
    /// `residual` plus the gradient of [`Self::modulated_norm`] with respect to `x`.
    fn modulated_norm_vjp(
        &self,
        x: &Self::Array,
        layout: Layout,
        modulation: Modulation<Self::Array>,
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
        modulation: Modulation<Self::Array>,
        gate: usize,
    ) -> Result<Self::Array, ModelError> {
        self.add(x.clone(), &self.gated_residual_vjp(y, layout, modulation, gate)?)
    }
    /// gate * grad: the gradient of [`Self::gated_residual`] with respect to `y` (with respect to `x` it is `grad`).
    fn gated_residual_vjp(
        &self,
        grad: &Self::Array,
        layout: Layout,
        modulation: Modulation<Self::Array>,
        gate: usize,
    ) -> Result<Self::Array, ModelError>;

    /// RMS norm and rotary embedding of queries and keys, then softmax attention over the tokens of each sample.
    ///
    /// `qkv` is (rows, 3 * dim). Returns the output (asking rows, dim) and the log-sum-exp per head
    /// (asking rows, heads), or no rows where the gradient does without.
    fn attention(&self, qkv: &Self::Array, op: &Attention<Self>) -> Result<(Self::Array, Self::Array), ModelError>;
    /// Gradient of [`Self::attention`] with respect to `qkv`; probabilities are computed again, from the log-sum-exp where there is
    /// one.
    fn attention_vjp(
        &self,
        qkv: &Self::Array,
        op: &Attention<Self>,
        output: &Self::Array,
        log_sum_exp: &Self::Array,
        grad: &Self::Array,
    ) -> Result<Self::Array, ModelError>;

    /// A linear layer and the GELU of its output: (output, gelu(output)).
    fn linear_gelu(
        &self,
        x: &Self::Array,
        segments: &[Segment<Self>],
    ) -> Result<(Self::Array, Self::Array), ModelError> {
        let hidden = self.linear(x, segments)?;
        let activated = self.gelu(&hidden)?;
        Ok((hidden, activated))
    }
    /// GELU, tanh form.
    fn gelu(&self, x: &Self::Array) -> Result<Self::Array, ModelError>;
    /// (gelu(x), the gradient of [`Self::gelu`]): both need the same exponential.
    fn gelu_vjp(&self, x: &Self::Array, grad: &Self::Array) -> Result<(Self::Array, Self::Array), ModelError>;
    /// x * sigmoid(x).
    fn silu(&self, x: &Self::Array) -> Result<Self::Array, ModelError>;

    /// x + y.
    fn add(&self, x: Self::Array, y: &Self::Array) -> Result<Self::Array, ModelError>;
    /// The rows of all parts, which have the same columns, one part after another.
    fn concat_rows(&self, parts: &[&Self::Array]) -> Result<Self::Array, ModelError>;
    /// The columns of `x`, then those of `y`.
    fn concat_columns(&self, x: &Self::Array, y: &Self::Array) -> Result<Self::Array, ModelError>;
    /// A range of rows.
    fn rows(&self, x: &Self::Array, rows: Range<usize>) -> Result<Self::Array, ModelError>;
    /// A range of columns.
    fn columns(&self, x: &Self::Array, columns: Range<usize>) -> Result<Self::Array, ModelError>;
}
