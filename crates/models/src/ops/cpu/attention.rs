//! Joint attention over text and image tokens, one head of one sample at a time.

use rayon::prelude::*;

use super::super::{Attention, Layout, Queries};
use super::math::{self, sum, vectorized};
use super::matmul::{Left, Order, Packed, Right, Start, Threads, matmul, product};
use super::matrix::View;
use super::{Cpu, Matrix, Split};

/// Epsilon of the RMS norms of queries and keys.
const RMS_NORM_EPSILON: f32 = 1e-6;

/// Scores are computed for this many queries at a time, so that their memory does not grow with the square of the tokens.
const QUERY_BLOCK: usize = 128;

/// Keys are padded to whole vectors.
const KEY_MULTIPLE: usize = 16;

/// Weights of the RMS norms over the head dimension.
#[derive(Debug)]
pub(crate) struct HeadNorm {
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
}

/// Cosines and sines, (tokens, head_dim / 2).
#[derive(Debug)]
pub(crate) struct Rotary {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    pub(super) fn new(angles: &[f64], tokens: usize) -> Self {
        Self {
            pairs: angles.len() / tokens.max(1),
            cos: angles.iter().map(|angle| angle.cos() as f32).collect(),
            sin: angles.iter().map(|angle| angle.sin() as f32).collect(),
        }
    }
}

/// One head of one sample.
#[derive(Clone, Copy)]
struct Head<'a> {
    op: &'a Attention<'a, Cpu>,
    qkv: View<'a>,
    sample: usize,
    /// First column of the head inside queries, keys and values.
    column: usize,
    head_dim: usize,
}

/// Whether a vector is a query or a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Query,
    Key,
}

impl<'a> Head<'a> {
    fn tokens(&self) -> usize {
        self.op.layout.text + self.op.layout.image
    }

    /// Tokens that ask.
    fn asking(&self) -> std::ops::Range<usize> {
        first_query(self.op)..self.tokens()
    }

    /// Row of a token in the layout of `qkv`.
    #[inline(always)]
    fn row(&self, token: usize) -> usize {
        row_of(self.op.layout, self.sample, token)
    }

    /// The head's part of a token's query (0), key (1) or value (2).
    #[inline(always)]
    fn part(&self, token: usize, which: usize) -> &'a [f32] {
        let dim = self.qkv.columns / 3;
        &self.qkv.data[self.row(token) * self.qkv.columns + which * dim + self.column..][..self.head_dim]
    }

    #[inline(always)]
    fn weights(&self, token: usize, role: Role) -> &'a [f32] {
        let norm = if token < self.op.layout.text {
            self.op.text_norm
        } else {
            self.op.image_norm
        };
        match role {
            Role::Query => &norm.query,
            Role::Key => &norm.key,
        }
    }

    #[inline(always)]
    fn rotation(&self, token: usize) -> (&'a [f32], &'a [f32]) {
        let rotary = self.op.rotary;
        let range = token * rotary.pairs..(token + 1) * rotary.pairs;
        (&rotary.cos[range.clone()], &rotary.sin[range])
    }

    /// Softmax scale, which is folded into the queries.
    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

fn row_of(layout: Layout, sample: usize, token: usize) -> usize {
    match token.checked_sub(layout.text) {
        None => sample * layout.text + token,
        Some(image) => layout.batch * layout.text + sample * layout.image + image,
    }
}

fn first_query(op: &Attention<Cpu>) -> usize {
    match op.queries {
        Queries::All => 0,
        Queries::Image => op.layout.text,
    }
}

vectorized! {
    /// Normalises and rotates the queries or keys of all `tokens` of a head; `output` is (tokens, head_dim).
    fn norm_and_rotate<'a>(head: Head<'a>, role: Role, first: usize, scale: f32, output: &'a mut [f32]) {
        for (i, output) in output.chunks_exact_mut(head.head_dim).enumerate() {
            let token = first + i;
            let x = head.part(token, if role == Role::Query { 0 } else { 1 });
            let weights = head.weights(token, role);
            let (cos, sin) = head.rotation(token);
            let inverse = inverse_rms(x) * scale;
            for (pair, (output, (x, weights))) in
                output.chunks_exact_mut(2).zip(x.chunks_exact(2).zip(weights.chunks_exact(2))).enumerate()
            {
                let (even, odd) = (x[0] * inverse * weights[0], x[1] * inverse * weights[1]);
                output[0] = even * cos[pair] - odd * sin[pair];
                output[1] = odd * cos[pair] + even * sin[pair];
            }
        }
    }
}

vectorized! {
    /// Turns gradients of normalised, rotated queries or keys, (tokens, head_dim), into those of the inputs, in place.
    fn norm_and_rotate_vjp<'a>(head: Head<'a>, role: Role, first: usize, scale: f32, grad: &'a mut [f32]) {
        for (i, grad) in grad.chunks_exact_mut(head.head_dim).enumerate() {
            let token = first + i;
            let x = head.part(token, if role == Role::Query { 0 } else { 1 });
            let weights = head.weights(token, role);
            let (cos, sin) = head.rotation(token);
            let inverse = inverse_rms(x);
            for (pair, (grad, weights)) in grad.chunks_exact_mut(2).zip(weights.chunks_exact(2)).enumerate() {
                let (even, odd) = (grad[0], grad[1]);
                grad[0] = (even * cos[pair] + odd * sin[pair]) * weights[0] * scale;
                grad[1] = (odd * cos[pair] - even * sin[pair]) * weights[1] * scale;
            }
            // With n = x * inverse: dx = inverse * (g - n mean(g n)).
            let mean = sum([grad, x], |[grad, x]| grad * x * inverse) / x.len() as f32;
            for (grad, x) in grad.iter_mut().zip(x) {
                *grad = inverse * (*grad - x * inverse * mean);
            }
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32]) -> f32 {
    1.0 / (sum([x], |[x]| x * x) / x.len() as f32 + RMS_NORM_EPSILON).sqrt()
}

vectorized! {
    /// Replaces each row of scores by exp(score - max) and writes (sum, log-sum-exp) per row. Columns from `keys` on become 0.
    fn softmax_rows<'a>(scores: &'a mut [f32], width: usize, keys: usize, sums: &'a mut [f32], log_sum_exp: &'a mut [f32]) {
        for ((row, total), log_sum_exp) in scores.chunks_exact_mut(width).zip(sums).zip(log_sum_exp) {
            row[keys..].fill(f32::NEG_INFINITY);
            let max = math::max(row);
            for score in row.iter_mut() {
                *score = math::exp(*score - max);
            }
            row[keys..].fill(0.0);
            *total = sum([row], |[x]| x);
            *log_sum_exp = max + total.ln();
        }
    }
}

vectorized! {
    /// Given scores and dP, replaces them by P and dS = P * (dP - delta).
    fn softmax_vjp_rows<'a>(
        scores: &'a mut [f32], grad: &'a mut [f32], width: usize, log_sum_exp: &'a [f32], delta: &'a [f32],
    ) {
        let rows = scores.chunks_exact_mut(width).zip(grad.chunks_exact_mut(width));
        for ((scores, grad), (log_sum_exp, delta)) in rows.zip(log_sum_exp.iter().zip(delta)) {
            for (score, grad) in scores.iter_mut().zip(grad) {
                *score = math::exp(*score - log_sum_exp);
                *grad = *score * (*grad - delta);
            }
        }
    }
}

/// Row-wise scalar products of two matrices of `width` columns.
fn row_dots(x: &[f32], y: &[f32], width: usize) -> Vec<f32> {
    x.chunks_exact(width)
        .zip(y.chunks_exact(width))
        .map(|(x, y)| sum([x, y], |[x, y]| x * y))
        .collect()
}

/// The normalised, rotated keys of a head, (padded tokens, head_dim); the added rows are zero.
fn padded_keys(head: Head, padded: usize) -> Vec<f32> {
    let mut keys = vec![0.0; padded * head.head_dim];
    norm_and_rotate(head, Role::Key, 0, 1.0, &mut keys[..head.tokens() * head.head_dim]);
    keys
}

/// The values of a head, (padded tokens, head_dim); the added rows are zero.
fn padded_values(head: Head, padded: usize) -> Vec<f32> {
    let mut values = concat(head.tokens(), head.head_dim, |token| head.part(token, 2));
    values.resize(padded * head.head_dim, 0.0);
    values
}

/// Output (asking, head_dim) and log-sum-exp (asking,) of one head.
fn head_forward(head: Head) -> (Vec<f32>, Vec<f32>) {
    let (tokens, head_dim, asking) = (head.tokens(), head.head_dim, head.asking());
    let padded = tokens.next_multiple_of(KEY_MULTIPLE);
    let mut queries = vec![0.0; asking.len() * head_dim];
    norm_and_rotate(head, Role::Query, asking.start, head.scale(), &mut queries);
    let across = (head_dim, padded);
    let keys = Packed::new(across, &padded_keys(head, padded), head_dim, Order::Transposed);
    let values = padded_values(head, padded);
    let values = Packed::new((tokens, head_dim), &values, head_dim, Order::RowMajor);

    let mut output = vec![0.0; asking.len() * head_dim];
    let mut log_sum_exp = vec![0.0; asking.len()];
    let block = QUERY_BLOCK.min(asking.len());
    let mut scores = vec![0.0; block * padded];
    let mut sums = vec![0.0; block];
    for first in (0..asking.len()).step_by(QUERY_BLOCK) {
        let rows = block.min(asking.len() - first);
        let scores = &mut scores[..rows * padded];
        let left = Left {
            data: &queries[first * head_dim..],
            stride: head_dim,
            order: Order::RowMajor,
        };
        product(rows, left, &keys, Start::Zero, scores, padded, Threads::One);
        softmax_rows(
            scores,
            padded,
            tokens,
            &mut sums[..rows],
            &mut log_sum_exp[first..first + rows],
        );
        let left = Left {
            data: scores,
            stride: padded,
            order: Order::RowMajor,
        };
        let output = &mut output[first * head_dim..(first + rows) * head_dim];
        product(rows, left, &values, Start::Zero, output, head_dim, Threads::One);
        for (row, sum) in output.chunks_exact_mut(head_dim).zip(&sums) {
            row.iter_mut().for_each(|value| *value /= sum);
        }
    }
    (output, log_sum_exp)
}

/// Gradients of a head's inputs: queries (asking, head_dim), keys and values (tokens, head_dim).
struct HeadGradients {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

fn head_backward(head: Head, output: &[f32], log_sum_exp: &[f32], grad: &[f32]) -> HeadGradients {
    let (tokens, head_dim, asking) = (head.tokens(), head.head_dim, head.asking());
    let padded = tokens.next_multiple_of(KEY_MULTIPLE);
    let mut queries = vec![0.0; asking.len() * head_dim];
    norm_and_rotate(head, Role::Query, asking.start, head.scale(), &mut queries);
    let (along, across) = ((tokens, head_dim), (head_dim, padded));
    let keys = padded_keys(head, padded);
    let keys_transposed = Packed::new(across, &keys, head_dim, Order::Transposed);
    let keys = Packed::new(along, &keys, head_dim, Order::RowMajor);
    let values_transposed = Packed::new(across, &padded_values(head, padded), head_dim, Order::Transposed);
    let delta = row_dots(output, grad, head_dim);

    let mut gradients = HeadGradients {
        queries: vec![0.0; asking.len() * head_dim],
        keys: vec![0.0; tokens * head_dim],
        values: vec![0.0; tokens * head_dim],
    };
    let block = QUERY_BLOCK.min(asking.len());
    let mut scores = vec![0.0; block * padded];
    let mut grad_scores = vec![0.0; block * padded];
    for first in (0..asking.len()).step_by(QUERY_BLOCK) {
        let rows = block.min(asking.len() - first);
        let (scores, grad_scores) = (&mut scores[..rows * padded], &mut grad_scores[..rows * padded]);
        let range = first * head_dim..(first + rows) * head_dim;
        let (queries, grad) = (&queries[range.clone()], &grad[range.clone()]);
        let by_row = |data, stride| Left {
            data,
            stride,
            order: Order::RowMajor,
        };
        let by_column = |data, stride| Left {
            data,
            stride,
            order: Order::Transposed,
        };
        let right = |data, stride| Right { data, stride };

        let left = by_row(queries, head_dim);
        product(rows, left, &keys_transposed, Start::Zero, scores, padded, Threads::One);
        let left = by_row(grad, head_dim);
        product(
            rows,
            left,
            &values_transposed,
            Start::Zero,
            grad_scores,
            padded,
            Threads::One,
        );
        let delta = &delta[first..first + rows];
        softmax_vjp_rows(scores, grad_scores, padded, &log_sum_exp[first..first + rows], delta);

        let shape = (tokens, head_dim, rows);
        matmul(
            shape,
            by_column(scores, padded),
            right(grad, head_dim),
            Start::Destination,
            &mut gradients.values,
            head_dim,
        );
        let to = &mut gradients.keys;
        matmul(
            shape,
            by_column(grad_scores, padded),
            right(queries, head_dim),
            Start::Destination,
            to,
            head_dim,
        );
        let to = &mut gradients.queries[range];
        let left = by_row(grad_scores, padded);
        product(rows, left, &keys, Start::Zero, to, head_dim, Threads::One);
    }
    norm_and_rotate_vjp(head, Role::Query, asking.start, head.scale(), &mut gradients.queries);
    norm_and_rotate_vjp(head, Role::Key, 0, 1.0, &mut gradients.keys);
    gradients
}

/// Runs `work` for each head of each sample and hands the results to `store` in order.
fn each_head<T: Send>(
    qkv: View<'_>,
    op: &Attention<Cpu>,
    split: Split,
    work: impl Fn(Head) -> T + Sync,
    mut store: impl FnMut(Head, T),
) {
    let head_dim = 2 * op.rotary.pairs;
    let heads = qkv.columns / 3 / head_dim;
    let head = |index: usize| Head {
        op,
        qkv,
        sample: index / heads,
        column: index % heads * head_dim,
        head_dim,
    };
    let count = op.layout.batch * heads;
    match split {
        Split::Never => (0..count).map(head).for_each(|head| store(head, work(head))),
        Split::Rows => {
            let results: Vec<T> = (0..count).into_par_iter().map(|index| work(head(index))).collect();
            results
                .into_iter()
                .enumerate()
                .for_each(|(index, result)| store(head(index), result));
        }
    }
}

/// A token matrix that is being written.
struct Target {
    columns: usize,
    data: Vec<f32>,
}

impl Target {
    fn zeros(rows: usize, columns: usize) -> Self {
        Self {
            columns,
            data: vec![0.0; rows * columns],
        }
    }

    fn finish(self) -> Matrix {
        Matrix::new(self.data, self.columns)
    }
}

/// Copies the rows of one head between a token matrix and a contiguous block.
fn scatter(head: Head, first: usize, layout: Layout, source: &[f32], target: &mut Target, column: usize) {
    for (i, values) in source.chunks_exact(head.head_dim).enumerate() {
        let row = row_of(layout, head.sample, first + i);
        target.data[row * target.columns + column..][..head.head_dim].copy_from_slice(values);
    }
}

fn gather(head: Head, layout: Layout, tokens: usize, source: View, column: usize) -> Vec<f32> {
    concat(tokens, head.head_dim, |token| {
        &source.data[row_of(layout, head.sample, token) * source.columns + column..][..head.head_dim]
    })
}

/// The rows of all tokens, one after the other.
fn concat<'a>(tokens: usize, width: usize, row: impl Fn(usize) -> &'a [f32]) -> Vec<f32> {
    let mut output = Vec::with_capacity(tokens * width);
    (0..tokens).for_each(|token| output.extend_from_slice(row(token)));
    output
}

/// Output (asking rows, dim) and log-sum-exp (asking rows, heads).
pub(super) fn forward(qkv: View, op: &Attention<Cpu>, split: Split) -> (Matrix, Matrix) {
    let (layout, dim, head_dim) = (op.queries.layout(op.layout), qkv.columns / 3, 2 * op.rotary.pairs);
    let mut output = Target::zeros(layout.rows(), dim);
    let mut log_sum_exp = Target::zeros(layout.rows(), dim / head_dim);
    each_head(qkv, op, split, head_forward, |head, (values, sums)| {
        scatter(head, 0, layout, &values, &mut output, head.column);
        for (token, value) in sums.iter().enumerate() {
            let row = row_of(layout, head.sample, token);
            log_sum_exp.data[row * log_sum_exp.columns + head.column / head_dim] = *value;
        }
    });
    (output.finish(), log_sum_exp.finish())
}

/// What the forward left.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub(super) output: View<'a>,
    pub(super) log_sum_exp: View<'a>,
}

/// Gradient (rows, 3 * dim) of the inputs.
pub(super) fn backward(
    qkv: View<'_>,
    op: &Attention<Cpu>,
    Kept { output, log_sum_exp }: Kept<'_>,
    grad: View<'_>,
    split: Split,
) -> Matrix {
    let (layout, dim) = (op.queries.layout(op.layout), qkv.columns / 3);
    let asking = layout.text + layout.image;
    let mut gradient = Target::zeros(op.layout.rows(), qkv.columns);
    let work = |head: Head| {
        let sums: Vec<f32> = (0..asking)
            .map(|token| row_of(layout, head.sample, token))
            .map(|row| log_sum_exp.data[row * log_sum_exp.columns + head.column / head.head_dim])
            .collect();
        let output = gather(head, layout, asking, output, head.column);
        head_backward(head, &output, &sums, &gather(head, layout, asking, grad, head.column))
    };
    each_head(qkv, op, split, work, |head, gradients| {
        scatter(
            head,
            first_query(op),
            op.layout,
            &gradients.queries,
            &mut gradient,
            head.column,
        );
        scatter(head, 0, op.layout, &gradients.keys, &mut gradient, dim + head.column);
        scatter(
            head,
            0,
            op.layout,
            &gradients.values,
            &mut gradient,
            2 * dim + head.column,
        );
    });
    gradient.finish()
}
