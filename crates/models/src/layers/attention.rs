//! Multi-head attention with grouped keys and values.

use std::ops::Range;

use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

use super::{matrix, values, view::widened};
use crate::{
    ModelError,
    ops::{
        Kernels,
        cpu::{
            math::{self, vectorized},
            matmul::{Left, Order, Right, Start, matmul},
        },
    },
};

/// Multiplications above which one attention is shared among threads.
const SHARED_WORK: usize = 1 << 26;
/// Queries whose scores are held at a time.
const QUERIES_PER_TASK: usize = 64;
const QUERIES_PER_CALL: usize = 2048;

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mask<'a> {
    /// All keys of the query's segment; segments are consecutive row ranges that cover all rows.
    Segments(&'a [Range<usize>]),
    /// All keys up to the query's own row. With fewer queries than keys, the queries are the last rows.
    Causal,
}

/// The constants of an attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention<'a> {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// Factor of the scores.
    pub(crate) scale: f64,
    /// Which keys a query sees.
    pub(crate) mask: Mask<'a>,
    /// Added to the scores: (heads, queries, keys), float32.
    pub(crate) bias: Option<&'a Tensor>,
    /// The kernels that it may take.
    pub(crate) kernels: Kernels,
}

/// softmax(scale q k^T + bias) v for queries (queries, heads * head_dim), keys and values (keys, kv_heads * head_dim).
///
/// Returns (queries, heads * head_dim). The queries are the last rows of the sequence that the keys span.
pub(crate) fn attention(shape: Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, ModelError> {
    if shape.kernels.fuse(q) {
        fused(shape, q, k, v)
    } else {
        reference(shape, q, k, v)
    }
}

fn fused(shape: Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, ModelError> {
    let ((queries, width), (keys, _)) = (q.dims2()?, k.dims2()?);
    let head_dim = width / shape.heads;
    let mut output = vec![0.0; queries * width];
    {
        let (q, k, v) = (matrix(q)?, matrix(k)?, matrix(v)?);
        let bias = shape.bias.map(values).transpose()?;
        let kernel = Kernel {
            shape,
            head_dim,
            queries,
            keys,
            q: (q.slice(), q.stride),
            v: (v.slice(), v.stride),
            bias: bias.as_ref().map(|bias| bias.slice()),
        };
        let transposed = kernel.transposed_keys(k.slice(), k.stride);
        let task = |index: usize, output: &mut [f32]| kernel.rows(index * QUERIES_PER_TASK, &transposed, output);
        if queries * keys * width > SHARED_WORK {
            output
                .par_chunks_mut(QUERIES_PER_TASK * width)
                .enumerate()
                .for_each(|(i, rows)| task(i, rows));
        } else {
            output
                .chunks_mut(QUERIES_PER_TASK * width)
                .enumerate()
                .for_each(|(i, rows)| task(i, rows));
        }
    }
    Ok(Tensor::from_vec(output, (queries, width), q.device())?)
}

struct Kernel<'a> {
    shape: Attention<'a>,
    head_dim: usize,
    queries: usize,
    keys: usize,
    q: (&'a [f32], usize),
    v: (&'a [f32], usize),
    bias: Option<&'a [f32]>,
}

impl Kernel<'_> {
    /// Keys (kv_heads, head_dim, keys).
    fn transposed_keys(&self, keys: &[f32], stride: usize) -> Vec<f32> {
        let mut transposed = vec![0.0; self.shape.kv_heads * self.head_dim * self.keys];
        for (head, transposed) in transposed.chunks_exact_mut(self.head_dim * self.keys).enumerate() {
            for key in 0..self.keys {
                let row = &keys[key * stride + head * self.head_dim..][..self.head_dim];
                for (i, value) in row.iter().enumerate() {
                    transposed[i * self.keys + key] = *value;
                }
            }
        }
        transposed
    }

    /// Output rows from query `first` on, as many as `output` holds.
    fn rows(&self, first: usize, transposed_keys: &[f32], output: &mut [f32]) {
        let (heads, head_dim) = (self.shape.heads, self.head_dim);
        let width = heads * head_dim;
        let end = first + output.len() / width;
        // Row of the sequence that query 0 stands in.
        let offset = self.keys - self.queries;
        match self.shape.mask {
            Mask::Causal => self.block(first..end, 0..offset + end, transposed_keys, output),
            Mask::Segments(segments) => {
                for segment in segments {
                    let rows =
                        first.max(segment.start.saturating_sub(offset))..end.min(segment.end.saturating_sub(offset));
                    if rows.start < rows.end {
                        let output = &mut output[(rows.start - first) * width..(rows.end - first) * width];
                        self.block(rows, segment.clone(), transposed_keys, output);
                    }
                }
            }
        }
    }

    /// Output of `queries`, which see the keys in `seen` (up to their own row, if causal).
    fn block(&self, queries: Range<usize>, seen: Range<usize>, transposed_keys: &[f32], output: &mut [f32]) {
        let (heads, head_dim) = (self.shape.heads, self.head_dim);
        let (rows, columns) = (queries.len(), seen.len());
        let offset = self.keys - self.queries;
        let mut q = vec![0.0; rows * head_dim];
        let mut scores = vec![0.0; rows * columns];
        for head in 0..heads {
            for (query, row) in queries.clone().zip(q.chunks_exact_mut(head_dim)) {
                row.copy_from_slice(&self.q.0[query * self.q.1 + head * head_dim..][..head_dim]);
                row.iter_mut().for_each(|x| *x *= self.shape.scale as f32);
            }
            let kv_head = head / (heads / self.shape.kv_heads);
            let left = Left {
                data: &q,
                stride: head_dim,
                order: Order::RowMajor,
            };
            let keys = &transposed_keys[kv_head * head_dim * self.keys + seen.start..];
            let right = Right {
                data: keys,
                stride: self.keys,
            };
            let start = match self.bias {
                Some(bias) => {
                    for (query, row) in queries.clone().zip(scores.chunks_exact_mut(columns)) {
                        let at = (head * self.queries + query) * self.keys + seen.start;
                        row.copy_from_slice(&bias[at..at + columns]);
                    }
                    Start::Destination
                }
                None => Start::Zero,
            };
            matmul((rows, columns, head_dim), left, right, start, &mut scores, columns);
            for (query, row) in queries.clone().zip(scores.chunks_exact_mut(columns)) {
                let visible = match self.shape.mask {
                    Mask::Causal => offset + query + 1,
                    Mask::Segments(_) => columns,
                };
                softmax(&mut row[..visible]);
                row[visible..].fill(0.0);
            }
            let left = Left {
                data: &scores,
                stride: columns,
                order: Order::RowMajor,
            };
            let (v, stride) = self.v;
            let right = Right {
                data: &v[seen.start * stride + kv_head * head_dim..],
                stride,
            };
            let width = heads * head_dim;
            matmul(
                (rows, head_dim, columns),
                left,
                right,
                Start::Zero,
                &mut output[head * head_dim..],
                width,
            );
        }
    }
}

vectorized! {
    fn softmax<'a>(row: &'a mut [f32]) {
        let max = math::max(row);
        for x in row.iter_mut() {
            *x = math::exp(*x - max);
        }
        let scale = 1.0 / math::sum([&*row], |[value]| value);
        for x in row.iter_mut() {
            *x *= scale;
        }
    }
}

/// The same in candle's tensor calls.
fn reference(shape: Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, ModelError> {
    let ((queries, width), (keys, _)) = (q.dims2()?, k.dims2()?);
    let head_dim = width / shape.heads;
    let split = |x: &Tensor, heads: usize| -> Result<Tensor, ModelError> {
        Ok(x.reshape(((), heads, head_dim))?.transpose(0, 1)?.contiguous()?)
    };
    // Scores keep float32's digits: with large keys those of a half type are further apart than what decides.
    let (q, k, v) = (
        split(&widened(q)?, shape.heads)?,
        split(&widened(k)?, shape.kv_heads)?,
        split(v, shape.kv_heads)?,
    );
    let repeat = |x: Tensor| -> Result<Tensor, ModelError> {
        let group = shape.heads / shape.kv_heads;
        let wide = x.unsqueeze(1)?.expand((shape.kv_heads, group, keys, head_dim))?;
        Ok(wide.contiguous()?.reshape((shape.heads, keys, head_dim))?)
    };
    let (k, v) = (repeat(k)?, repeat(v)?);
    let blocks: Vec<(Range<usize>, Range<usize>)> = match shape.mask {
        Mask::Causal => query_blocks(0..queries)
            .map(|rows| (rows.clone(), 0..keys - queries + rows.end))
            .collect(),
        Mask::Segments(segments) => segments
            .iter()
            .flat_map(|segment| query_blocks(segment.clone()).map(|rows| (rows, segment.clone())))
            .collect(),
    };
    let mut outputs = Vec::with_capacity(blocks.len());
    for (rows, seen) in blocks {
        let k = k.narrow(1, seen.start, seen.len())?;
        let v = v.narrow(1, seen.start, seen.len())?.contiguous()?;
        let q = q.narrow(1, rows.start, rows.len())?.contiguous()?;
        let mut scores = (q.matmul(&k.transpose(1, 2)?)?.to_dtype(DType::F32)? * shape.scale)?;
        if let Some(bias) = shape.bias {
            let bias = bias
                .narrow(1, rows.start, rows.len())?
                .narrow(2, seen.start, seen.len())?;
            scores = scores.broadcast_add(&bias)?;
        }
        if matches!(shape.mask, Mask::Causal) {
            let hidden: Vec<f32> = rows
                .clone()
                .flat_map(|query| {
                    seen.clone().map(move |key| {
                        if key > keys - queries + query {
                            f32::NEG_INFINITY
                        } else {
                            0.0
                        }
                    })
                })
                .collect();
            scores = scores.broadcast_add(&Tensor::from_vec(hidden, (rows.len(), seen.len()), q.device())?)?;
        }
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
        outputs.push(weights.matmul(&v)?);
    }
    let output = Tensor::cat(&outputs, 1)?;
    Ok(output.transpose(0, 1)?.contiguous()?.reshape((queries, width))?)
}

fn query_blocks(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(QUERIES_PER_CALL)
        .map(move |start| start..end.min(start + QUERIES_PER_CALL))
}
