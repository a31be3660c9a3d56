//! Joint attention in plain candle calls.

use candle_core::{DType, Result};

use super::super::{Attention, Layout, Queries};
use super::{Calls, CandleOps, inverse_root_mean_square, mean};

/// Epsilon of the RMS norms of queries and keys.
const RMS_NORM_EPSILON: f64 = 1e-6;

/// Weights of the RMS norms over the head dimension, float32.
#[derive(Debug)]
pub(crate) struct HeadNorm<T> {
    /// (2, 1, 1, head_dim): of the queries, times the scale of the scores, and of the keys.
    weights: T,
    /// (head_dim,).
    ones: T,
}

impl<T: Calls> HeadNorm<T> {
    pub(super) fn new(query: &T, key: &T) -> Result<Self> {
        let head_dim = query.width();
        let scale = 1.0 / (head_dim as f64).sqrt();
        let query = query.to_dtype(DType::F32)?.affine(scale, 0.0)?;
        Ok(Self {
            weights: T::cat(&[query, key.to_dtype(DType::F32)?], 0)?.reshape((2, 1, 1, head_dim))?,
            ones: T::upload(&vec![1.0; head_dim], head_dim, &key.place())?,
        })
    }
}

/// Cosines and sines as (tokens, head_dim / 2), float32.
#[derive(Debug)]
pub(crate) struct Rotary<T> {
    cos: T,
    sin: T,
    /// -sin, which rotates back.
    inverse_sin: T,
}

impl<T: Calls> Rotary<T> {
    pub(super) fn new(angles: &[f64], tokens: usize, place: &T::Place) -> Result<Self> {
        let pairs = angles.len() / tokens.max(1);
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| of(*angle) as f32).collect();
            T::upload(&values, (tokens, pairs), place)
        };
        Ok(Self {
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
            inverse_sin: table(|angle| -angle.sin())?,
        })
    }
}

/// Output (asking rows, dim).
pub(super) fn forward<T: Calls>(qkv: &T, op: &Attention<CandleOps<T>>) -> Result<T> {
    each_sample(op, [(qkv, op.layout)], op.queries.layout(op.layout), |[qkv]| {
        let sample = Sample::new(&qkv, op)?;
        let heads = split_heads(&qkv, 3, sample.heads)?;
        let turned = heads
            .narrow(0, 0, 2)?
            .to_dtype(DType::F32)?
            .rms_norm(&op.image_norm.ones, RMS_NORM_EPSILON)?
            .times(&sample.weights)?
            .rope(&op.rotary.cos, &op.rotary.sin)?
            .to_dtype(qkv.dtype())?;
        let queries = sample.asking(&part(&turned, 0)?)?;
        let scores = queries.matmul(&part(&turned, 1)?.t()?)?;
        join_heads(&scores.softmax()?.matmul(&part(&heads, 2)?)?)
    })
}

/// Gradient (rows, 3 * dim) of the inputs. Scores and their gradients are float32 here: they are differences of like numbers.
pub(super) fn backward<T: Calls>(qkv: &T, op: &Attention<CandleOps<T>>, output: &T, grad: &T) -> Result<T> {
    let asking = op.queries.layout(op.layout);
    let inputs = [(qkv, op.layout), (output, asking), (grad, asking)];
    each_sample(op, inputs, op.layout, |[qkv, output, grad]| {
        let sample = Sample::new(&qkv, op)?;
        let heads = split_heads(&qkv, 3, sample.heads)?.to_dtype(DType::F32)?;
        let (input, values) = (heads.narrow(0, 0, 2)?, part(&heads, 2)?);
        let inverse = inverse_root_mean_square(&input, RMS_NORM_EPSILON)?;
        let normalised = input.times(&inverse)?;
        let turned = normalised
            .times(&sample.weights)?
            .rope(&op.rotary.cos, &op.rotary.sin)?;
        let (queries, keys) = (sample.asking(&part(&turned, 0)?)?, part(&turned, 1)?);
        let probabilities = queries.matmul(&keys.t()?)?.softmax()?;

        let (output, grad) = (output.to_dtype(DType::F32)?, grad.to_dtype(DType::F32)?);
        let delta = per_head(&output.times(&grad)?, sample.heads)?
            .sum_last()?
            .transpose(0, 1)?;
        let grad = part(&split_heads(&grad, 1, sample.heads)?, 0)?;
        let grad_scores = probabilities.times(&grad.matmul(&values.t()?)?.minus(&delta)?)?;
        let grad_values = probabilities.t()?.matmul(&grad)?;
        let grad_keys = grad_scores.t()?.matmul(&queries)?;
        let grad_queries = sample.all(grad_scores.matmul(&keys)?)?;

        let grad = stacked(&[grad_queries, grad_keys])?
            .rope(&op.rotary.cos, &op.rotary.inverse_sin)?
            .times(&sample.weights)?;
        let along = normalised.times(&mean(&grad.times(&normalised)?)?)?;
        let grad = grad.minus(&along)?.times(&inverse)?;
        let all = T::cat(&[grad, stacked(&[grad_values])?], 0)?;
        let (tokens, dim) = (qkv.dims()[0], qkv.width());
        all.transpose(1, 2)?
            .transpose(0, 1)?
            .reshape((tokens, dim))?
            .to_dtype(qkv.dtype())
    })
}

/// What the attention of one sample is made with.
struct Sample<T> {
    heads: usize,
    /// Tokens of its prompt.
    text: usize,
    queries: Queries,
    /// Weights of the norms that broadcast over (2, heads, tokens, head_dim).
    weights: T,
}

impl<T: Calls> Sample<T> {
    /// Of a sample's queries, keys and values (tokens, 3 * dim).
    fn new(qkv: &T, op: &Attention<CandleOps<T>>) -> Result<Self> {
        let head_dim = op.image_norm.ones.width();
        let of_streams = [(op.text_norm, op.layout.text), (op.image_norm, op.layout.image)];
        let weights = if std::ptr::eq(op.text_norm, op.image_norm) || op.layout.text == 0 {
            op.image_norm.weights.clone()
        } else {
            let tables = of_streams.map(|(norm, tokens)| norm.weights.expand((2, 1, tokens, head_dim)));
            let [text, image] = tables;
            T::cat(&[text?, image?], 2)?
        };
        Ok(Self {
            heads: qkv.width() / 3 / head_dim,
            text: op.layout.text,
            queries: op.queries,
            weights,
        })
    }

    /// Of the queries of all tokens (heads, tokens, head_dim) those that ask.
    fn asking(&self, queries: &T) -> Result<T> {
        match self.queries {
            Queries::All => Ok(queries.clone()),
            Queries::Image => queries
                .narrow(1, self.text, queries.dims()[1] - self.text)?
                .contiguous(),
        }
    }

    /// The gradient of all queries, of that of those that ask.
    fn all(&self, grad: T) -> Result<T> {
        match self.queries {
            Queries::All => Ok(grad),
            Queries::Image => {
                let silent = T::zeros((self.heads, self.text, grad.width()), DType::F32, &grad.place())?;
                T::cat(&[silent, grad], 1)
            }
        }
    }
}

/// (tokens, heads * head_dim) as (tokens, heads, head_dim).
fn per_head<T: Calls>(x: &T, heads: usize) -> Result<T> {
    x.reshape((x.dims()[0], heads, x.width() / heads))
}

/// (tokens, parts * heads * head_dim) as (parts, heads, tokens, head_dim).
fn split_heads<T: Calls>(x: &T, parts: usize, heads: usize) -> Result<T> {
    x.reshape((x.dims()[0], parts, heads, x.width() / parts / heads))?
        .transpose(0, 1)?
        .transpose(1, 2)?
        .contiguous()
}

/// (heads, tokens, head_dim) as (tokens, heads * head_dim).
fn join_heads<T: Calls>(x: &T) -> Result<T> {
    let [heads, tokens, head_dim] = *x.dims() else {
        return Err(candle_core::Error::Msg(format!("heads of shape {:?}", x.dims())).bt());
    };
    x.transpose(0, 1)?.reshape((tokens, heads * head_dim))
}

/// One of the parts of (parts, heads, tokens, head_dim).
fn part<T: Calls>(x: &T, index: usize) -> Result<T> {
    let shape: Vec<usize> = x.dims()[1..].to_vec();
    x.narrow(0, index, 1)?.reshape(shape)
}

/// Parts (heads, tokens, head_dim) as (parts, heads, tokens, head_dim).
fn stacked<T: Calls>(parts: &[T]) -> Result<T> {
    let parts: Vec<T> = parts
        .iter()
        .map(|part| part.reshape([&[1], part.dims()].concat()))
        .collect::<Result<_>>()?;
    T::cat(&parts, 0)
}

/// Applies `compute` to the rows of each sample, text before image, and orders what it returns as `results` says.
fn each_sample<T: Calls, const N: usize>(
    op: &Attention<CandleOps<T>>,
    inputs: [(&T, Layout); N],
    results: Layout,
    compute: impl Fn([T; N]) -> Result<T>,
) -> Result<T> {
    if op.layout.batch == 1 {
        return compute(inputs.map(|(x, _)| x.clone()));
    }
    let (mut text, mut image) = (Vec::new(), Vec::new());
    for sample in 0..op.layout.batch {
        let mut own = Vec::with_capacity(N);
        for (x, layout) in inputs {
            let first = layout.image_rows().start + sample * layout.image;
            let rows = [
                x.narrow(0, sample * layout.text, layout.text)?,
                x.narrow(0, first, layout.image)?,
            ];
            own.push(match layout.text {
                0 => rows[1].clone(),
                _ => T::cat(&rows, 0)?,
            });
        }
        let own: [T; N] = own
            .try_into()
            .map_err(|_| candle_core::Error::Msg("another number of inputs".to_owned()).bt())?;
        let result = compute(own)?;
        if results.text > 0 {
            text.push(result.narrow(0, 0, results.text)?);
        }
        image.push(result.narrow(0, results.text, results.image)?);
    }
    text.extend(image);
    T::cat(&text, 0)
}
