//! Attention by the CPU's kernels, in float32.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Attention, Mask};
use crate::{
    ModelError,
    layers::{matrix, values},
    ops::{
        candle::Calls,
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

/// As [`super::attention`].
pub(super) fn attention<T: Calls>(
    shape: Attention<T>,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor, ModelError> {
    let ((queries, width), (keys, _)) = (q.dims2()?, k.dims2()?);
    let head_dim = width / shape.heads;
    let mut output = vec![0.0; queries * width];
    {
        let (q, k, v) = (matrix(q)?, matrix(k)?, matrix(v)?);
        let bias = shape.bias.map(T::tensor).transpose()?;
        let bias = bias.map(values).transpose()?;
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

struct Kernel<'a, T> {
    shape: Attention<'a, T>,
    head_dim: usize,
    queries: usize,
    keys: usize,
    q: (&'a [f32], usize),
    v: (&'a [f32], usize),
    bias: Option<&'a [f32]>,
}

impl<T: Calls> Kernel<'_, T> {
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
