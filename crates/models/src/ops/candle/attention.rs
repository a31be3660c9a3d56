//! Joint attention in plain candle calls.

use candle_core::{DType, Result};

use super::super::{Attention, Layout, Queries};
use super::kernels::Operation;
use super::{Calls, CandleOps};

/// Epsilon of the RMS norms of queries and keys.
const RMS_NORM_EPSILON: f32 = 1e-6;

/// Weights of the RMS norms over the head dimension, (2, head_dim) float32: of the queries, times the scale of the scores, and of the keys.
#[derive(Debug)]
pub(crate) struct HeadNorm<T>(T);

impl<T: Calls> HeadNorm<T> {
    pub(super) fn new(query: &T, key: &T) -> Result<Self> {
        let head_dim = query.width();
        let scale = 1.0 / (head_dim as f64).sqrt();
        let query = query.to_dtype(DType::F32)?.affine(scale, 0.0)?;
        let weights = T::cat(&[query, key.to_dtype(DType::F32)?], 0)?;
        Ok(Self(weights.reshape((2, head_dim))?))
    }
}

/// (tokens, head_dim) float32: of each token head_dim / 2 cosines, then as many sines.
#[derive(Debug)]
pub(crate) struct Rotary<T>(T);

impl<T: Calls> Rotary<T> {
    pub(super) fn new(angles: &[f64], tokens: usize, place: &T::Place) -> Result<Self> {
        let pairs = angles.len() / tokens.max(1);
        let of_tokens = angles.chunks_exact(pairs.max(1));
        let table: Vec<f32> = of_tokens
            .flat_map(|own| {
                own.iter()
                    .map(|angle| angle.cos())
                    .chain(own.iter().map(|angle| angle.sin()))
            })
            .map(|value| value as f32)
            .collect();
        Ok(Self(T::upload(&table, (tokens, 2 * pairs), place)?))
    }
}

/// Output (asking rows, dim). Scores are float32: rounded to bfloat16, large ones would be off by more than a hundredth.
pub(super) fn forward<T: Calls>(qkv: &T, op: &Attention<CandleOps<T>>) -> Result<T> {
    each_sample(op, [(qkv, op.layout)], op.queries.layout(op.layout), |[qkv]| {
        let sample = Sample::new(&qkv, op);
        let heads = split_heads(&qkv, 3, sample.heads)?;
        let turned = sample.turned(&heads.narrow(0, 0, 2)?)?;
        let queries = sample.asking(&turned.part(0)?)?;
        let scores = queries.wide_product(&turned.part(1)?)?;
        let probabilities = scores.fused(Operation::Softmax { dtype: qkv.dtype() }, &[])?;
        join_heads(&probabilities.matmul(&heads.part(2)?)?)
    })
}

/// Gradient (rows, 3 * dim) of the inputs. Scores and the gradients of their softmax are float32, for the gradients of the scores are
/// differences of like numbers; what the tensor cores multiply is in the dtype of the weights.
pub(super) fn backward<T: Calls>(qkv: &T, op: &Attention<CandleOps<T>>, grad: &T) -> Result<T> {
    let asking = op.queries.layout(op.layout);
    each_sample(op, [(qkv, op.layout), (grad, asking)], op.layout, |[qkv, grad]| {
        let sample = Sample::new(&qkv, op);
        let heads = split_heads(&qkv, 3, sample.heads)?;
        let input = heads.narrow(0, 0, 2)?;
        let turned = sample.turned(&input)?;
        let (queries, keys) = (sample.asking(&turned.part(0)?)?, turned.part(1)?);
        let grad = split_heads(&grad, 1, sample.heads)?.part(0)?;

        let scores = queries.wide_product(&keys)?;
        let grad_softmax = grad.wide_product(&heads.part(2)?)?;
        let both = scores.fused(Operation::SoftmaxVjp { dtype: qkv.dtype() }, &[&grad_softmax])?;
        let (probabilities, grad_scores) = (both.part(0)?, both.part(1)?);
        let grad_values = probabilities.t()?.matmul(&grad)?;
        let grad_keys = grad_scores.t()?.matmul(&queries)?;
        let grad_queries = sample.all(grad_scores.matmul(&keys)?)?;

        let grad = sample.turned_vjp(&input, &stacked(&[grad_queries, grad_keys])?)?;
        let all = T::cat(&[grad, stacked(&[grad_values])?], 0)?;
        join_heads(&all.reshape((3 * sample.heads, all.dims()[2], all.width()))?)
    })
}

/// What the attention of one sample is made with.
struct Sample<'a, T: Calls> {
    heads: usize,
    /// Tokens of its prompt.
    text: usize,
    op: &'a Attention<'a, CandleOps<T>>,
}

impl<'a, T: Calls> Sample<'a, T> {
    /// Of a sample's queries, keys and values (tokens, 3 * dim).
    fn new(qkv: &T, op: &'a Attention<'a, CandleOps<T>>) -> Self {
        Self {
            heads: qkv.width() / 3 / op.image_norm.0.width(),
            text: op.layout.text,
            op,
        }
    }

    /// Queries and keys (2, heads, tokens, head_dim), normalised, weighted and turned.
    fn turned(&self, x: &T) -> Result<T> {
        let turn = Operation::Turned {
            epsilon: RMS_NORM_EPSILON,
            text: self.text,
        };
        x.fused(turn, &[&self.op.text_norm.0, &self.op.image_norm.0, &self.op.rotary.0])
    }

    /// The gradient of what was turned.
    fn turned_vjp(&self, x: &T, grad: &T) -> Result<T> {
        let turn = Operation::TurnedVjp {
            epsilon: RMS_NORM_EPSILON,
            text: self.text,
        };
        x.fused(
            turn,
            &[grad, &self.op.text_norm.0, &self.op.image_norm.0, &self.op.rotary.0],
        )
    }

    /// Of the queries of all tokens (heads, tokens, head_dim) those that ask.
    fn asking(&self, queries: &T) -> Result<T> {
        match self.op.queries {
            Queries::All => Ok(queries.clone()),
            Queries::Image => queries
                .narrow(1, self.text, queries.dims()[1] - self.text)?
                .contiguous(),
        }
    }

    /// The gradient of all queries, of that of those that ask.
    fn all(&self, grad: T) -> Result<T> {
        match self.op.queries {
            Queries::All => Ok(grad),
            Queries::Image => {
                let silent = T::zeros((self.heads, self.text, grad.width()), grad.dtype(), &grad.place())?;
                T::cat(&[silent, grad], 1)
            }
        }
    }
}

/// (tokens, parts * heads * head_dim) as (parts, heads, tokens, head_dim).
fn split_heads<T: Calls>(x: &T, parts: usize, heads: usize) -> Result<T> {
    let (tokens, head_dim) = (x.dims()[0], x.width() / parts / heads);
    x.reshape((tokens, parts * heads, head_dim))?
        .fused(Operation::Swapped, &[])?
        .reshape((parts, heads, tokens, head_dim))
}

/// (heads, tokens, head_dim) as (tokens, heads * head_dim).
fn join_heads<T: Calls>(x: &T) -> Result<T> {
    let (heads, head_dim) = (x.dims()[0], x.width());
    let swapped = x.fused(Operation::Swapped, &[])?;
    swapped.reshape((swapped.dims()[0], heads * head_dim))
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
