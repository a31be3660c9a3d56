//! Joint attention in plain candle calls.

use candle_core::{D, DType, Device, Result, Tensor};

use super::super::{Attention, Layout, Queries, Stream};
use super::{CandleOps, map_streams, stream};

/// Epsilon of the RMS norms of queries and keys.
const RMS_NORM_EPSILON: f64 = 1e-6;

/// Weights of the RMS norms over the head dimension, float32.
#[derive(Debug)]
pub(crate) struct HeadNorm {
    pub(super) query: Tensor,
    pub(super) key: Tensor,
}

/// Cosines and sines as (tokens, head_dim / 2, 1), float32.
#[derive(Debug)]
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
    /// -sin, which rotates back.
    inverse_sin: Tensor,
}

impl Rotary {
    pub(super) fn new(angles: &[f64], tokens: usize, device: &Device) -> Result<Self> {
        let pairs = angles.len() / tokens.max(1);
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| of(*angle) as f32).collect();
            Tensor::from_vec(values, (tokens, pairs, 1), device)
        };
        let sin = table(f64::sin)?;
        Ok(Self {
            cos: table(f64::cos)?,
            inverse_sin: sin.neg()?,
            sin,
        })
    }

    /// Rotates the interleaved pairs of (batch, heads, tokens, head_dim); `tokens` are the last ones of the table.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        self.turn(x, &self.sin)
    }

    /// The inverse of [`Self::rotate`], which is also its transpose.
    fn rotate_back(&self, x: &Tensor) -> Result<Tensor> {
        self.turn(x, &self.inverse_sin)
    }

    fn turn(&self, x: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let (batch, heads, tokens, head_dim) = x.dims4()?;
        let first = self.cos.dim(0)? - tokens;
        let (cos, sin) = (self.cos.narrow(0, first, tokens)?, sin.narrow(0, first, tokens)?);
        let pairs = x.reshape((batch, heads, tokens, head_dim / 2, 2))?;
        let (even, odd) = (pairs.narrow(D::Minus1, 0, 1)?, pairs.narrow(D::Minus1, 1, 1)?);
        let new_even = (even.broadcast_mul(&cos)? - odd.broadcast_mul(&sin)?)?;
        let new_odd = (odd.broadcast_mul(&cos)? + even.broadcast_mul(&sin)?)?;
        Tensor::cat(&[new_even, new_odd], D::Minus1)?.reshape((batch, heads, tokens, head_dim))
    }
}

/// Queries, keys and values of all samples and what their norms need in the backward.
struct Heads {
    queries: Normalised,
    keys: Normalised,
    /// (batch, heads, tokens, head_dim).
    values: Tensor,
    scale: f64,
}

/// Queries or keys before and after norm and rotation, (batch, heads, tokens, head_dim).
struct Normalised {
    /// x / rms(x).
    normalised: Tensor,
    /// 1 / rms(x), (batch, heads, tokens, 1).
    inverse: Tensor,
    /// Norm weights, (1, 1, tokens, head_dim).
    weights: Tensor,
    output: Tensor,
}

impl Normalised {
    fn new(x: &Tensor, weights: Tensor, rotary: &Rotary) -> Result<Self> {
        let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + RMS_NORM_EPSILON)?
            .sqrt()?
            .recip()?;
        let normalised = x.broadcast_mul(&inverse)?;
        let output = rotary.rotate(&normalised.broadcast_mul(&weights)?)?;
        Ok(Self {
            normalised,
            inverse,
            weights,
            output,
        })
    }

    fn vjp(&self, grad: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        let grad = rotary.rotate_back(grad)?.broadcast_mul(&self.weights)?;
        let mean = (&grad * &self.normalised)?.mean_keepdim(D::Minus1)?;
        (grad - self.normalised.broadcast_mul(&mean)?)?.broadcast_mul(&self.inverse)
    }
}

/// Token matrix to (batch, heads, tokens, head_dim) in float32, text tokens first.
fn to_heads(x: &Tensor, layout: Layout, head_dim: usize) -> Result<Tensor> {
    let mut streams = Vec::new();
    for (which, tokens) in [(Stream::Text, layout.text), (Stream::Image, layout.image)] {
        if tokens > 0 {
            streams.push(stream(x, layout, which)?);
        }
    }
    let joint = Tensor::cat(&streams, 1)?.to_dtype(DType::F32)?;
    let heads = joint.dim(2)? / head_dim;
    joint
        .reshape((layout.batch, layout.text + layout.image, heads, head_dim))?
        .transpose(1, 2)?
        .contiguous()
}

/// The inverse of [`to_heads`], in float32.
fn from_heads(x: &Tensor, layout: Layout) -> Result<Tensor> {
    let joint = x.transpose(1, 2)?.contiguous()?.flatten(2, 3)?;
    map_streams(layout, |which| match which {
        Stream::Text => joint.narrow(1, 0, layout.text)?.contiguous(),
        Stream::Image => joint.narrow(1, layout.text, layout.image)?.contiguous(),
    })
}

/// Norm weights per token, (1, 1, tokens, head_dim).
fn token_weights(text: &Tensor, image: &Tensor, layout: Layout) -> Result<Tensor> {
    let head_dim = image.dim(0)?;
    let rows = [(text, layout.text), (image, layout.image)];
    let mut streams = Vec::new();
    for (weights, tokens) in rows.into_iter().filter(|(_, tokens)| *tokens > 0) {
        streams.push(
            weights
                .reshape((1, 1, 1, head_dim))?
                .broadcast_as((1, 1, tokens, head_dim))?
                .contiguous()?,
        );
    }
    Tensor::cat(&streams, 2)
}

impl Heads {
    fn new(qkv: &Tensor, op: &Attention<CandleOps>) -> Result<Self> {
        let (layout, dim) = (op.layout, qkv.dim(1)? / 3);
        let head_dim = op.image_norm.query.dim(0)?;
        let part = |which: usize| to_heads(&qkv.narrow(1, which * dim, dim)?, layout, head_dim);
        let mut queries = part(0)?;
        let mut query_weights = token_weights(&op.text_norm.query, &op.image_norm.query, layout)?;
        if op.queries == Queries::Image {
            queries = queries.narrow(2, layout.text, layout.image)?.contiguous()?;
            query_weights = query_weights.narrow(2, layout.text, layout.image)?.contiguous()?;
        }
        let key_weights = token_weights(&op.text_norm.key, &op.image_norm.key, layout)?;
        Ok(Self {
            queries: Normalised::new(&queries, query_weights, op.rotary)?,
            keys: Normalised::new(&part(1)?, key_weights, op.rotary)?,
            values: part(2)?,
            scale: 1.0 / (head_dim as f64).sqrt(),
        })
    }

    fn scores(&self) -> Result<Tensor> {
        self.queries.output.matmul(&self.keys.output.t()?)? * self.scale
    }
}

/// Output (asking rows, dim) and log-sum-exp (asking rows, heads).
pub(super) fn forward(qkv: &Tensor, op: &Attention<CandleOps>) -> Result<(Tensor, Tensor)> {
    let heads = Heads::new(qkv, op)?;
    let scores = heads.scores()?;
    let log_sum_exp = scores.log_sum_exp(D::Minus1)?.unsqueeze(D::Minus1)?;
    let output = scores.broadcast_sub(&log_sum_exp)?.exp()?.matmul(&heads.values)?;
    let layout = op.queries.layout(op.layout);
    Ok((
        from_heads(&output, layout)?.to_dtype(qkv.dtype())?,
        from_heads(&log_sum_exp, layout)?,
    ))
}

/// Gradient (rows, 3 * dim) of the inputs.
pub(super) fn backward(
    qkv: &Tensor,
    op: &Attention<CandleOps>,
    output: &Tensor,
    log_sum_exp: &Tensor,
    grad: &Tensor,
) -> Result<Tensor> {
    let heads = Heads::new(qkv, op)?;
    let layout = op.queries.layout(op.layout);
    let head_dim = heads.values.dim(3)?;
    let (output, grad) = (to_heads(output, layout, head_dim)?, to_heads(grad, layout, head_dim)?);
    let log_sum_exp = to_heads(log_sum_exp, layout, 1)?;
    let probabilities = heads.scores()?.broadcast_sub(&log_sum_exp)?.exp()?;
    let delta = (&output * &grad)?.sum_keepdim(D::Minus1)?;
    let grad_scores = grad.matmul(&heads.values.t()?)?.broadcast_sub(&delta)?;
    let grad_scores = ((probabilities.clone() * grad_scores)? * heads.scale)?;

    let grad_values = probabilities.t()?.contiguous()?.matmul(&grad)?;
    let grad_keys = heads.keys.vjp(
        &grad_scores.t()?.contiguous()?.matmul(&heads.queries.output)?,
        op.rotary,
    )?;
    let mut grad_queries = heads.queries.vjp(&grad_scores.matmul(&heads.keys.output)?, op.rotary)?;
    if op.queries == Queries::Image {
        let (batch, heads, _, head_dim) = grad_queries.dims4()?;
        let silent = Tensor::zeros((batch, heads, op.layout.text, head_dim), DType::F32, qkv.device())?;
        grad_queries = Tensor::cat(&[silent, grad_queries], 2)?;
    }
    let rows = [grad_queries, grad_keys, grad_values].map(|grad| from_heads(&grad, op.layout));
    let [queries, keys, values] = rows;
    Tensor::cat(&[queries?, keys?, values?], 1)?.to_dtype(qkv.dtype())
}
