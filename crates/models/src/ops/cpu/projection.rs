//! Frozen linear layers, and the same with LoRA.

use std::ops::Range;
use std::sync::OnceLock;

use super::super::Factors;
use super::matmul::{Flipped, Gathered, Left, Order, Packed, Panels, Right, Start, Threads, matmul_on, product};

/// Numbers of a weight up to which speed counts more than memory: such a weight is kept in both orders once a backward has asked
/// for the second, unless it is quantized, and an adapter is multiplied into a copy of it.
const SMALL: usize = 1 << 20;

/// A frozen linear layer.
#[derive(Debug)]
pub(crate) struct Projection {
    weight: Weight,
    bias: Vec<f32>,
}

/// A weight, packed as (inputs, outputs) in the dtype that it was given in.
#[derive(Debug)]
struct Weight {
    packed: Packed,
    /// (outputs, inputs), of a small weight that is not quantized.
    flipped: OnceLock<Packed>,
}

impl Weight {
    fn new(packed: Packed) -> Self {
        Self {
            packed,
            flipped: OnceLock::new(),
        }
    }

    fn is_small(&self) -> bool {
        let (inputs, outputs) = self.packed.shape();
        inputs * outputs <= SMALL
    }

    /// `output` = grad W.
    fn backward(&self, grad: &[f32], output: &mut [f32], threads: Threads) {
        let (inputs, outputs) = self.packed.shape();
        let (rows, left) = (grad.len() / outputs, by_row(grad, outputs));
        if self.is_small() && !self.packed.is_quantized() {
            let weight = self.flipped.get_or_init(|| self.packed.flip());
            product(rows, left, weight, Start::Zero, output, inputs, threads);
        } else {
            let weight = Flipped(&self.packed);
            product(rows, left, &weight, Start::Zero, output, inputs, threads);
        }
    }
}

fn by_row(data: &[f32], stride: usize) -> Left<'_> {
    Left {
        data,
        stride,
        order: Order::RowMajor,
    }
}

fn by_column(data: &[f32], stride: usize) -> Left<'_> {
    Left {
        data,
        stride,
        order: Order::Transposed,
    }
}

impl Projection {
    /// A layer of W^T, packed, and a bias.
    pub(super) fn new(weight: Packed, bias: Vec<f32>) -> Self {
        Self {
            weight: Weight::new(weight),
            bias,
        }
    }

    pub(super) fn inputs(&self) -> usize {
        self.weight.packed.shape().0
    }

    pub(super) fn outputs(&self) -> usize {
        self.weight.packed.shape().1
    }

    /// `output` = x W^T + bias.
    pub(super) fn forward(&self, adapted: Option<&Adapted>, x: &[f32], output: &mut [f32], threads: Threads) {
        let (rows, outputs, left) = (x.len() / self.inputs(), self.outputs(), by_row(x, self.inputs()));
        let merged = adapted.and_then(|adapted| adapted.merged.as_ref());
        let weight = &merged.unwrap_or(&self.weight).packed;
        product(rows, left, weight, Start::Bias(&self.bias), output, outputs, threads);
        if let (Some(adapted), None) = (adapted, merged) {
            adapted.add_forward(x, output, outputs, threads);
        }
    }

    /// `output` = grad W.
    pub(super) fn backward(&self, adapted: Option<&Adapted>, grad: &[f32], output: &mut [f32], threads: Threads) {
        let merged = adapted.and_then(|adapted| adapted.merged.as_ref());
        merged.unwrap_or(&self.weight).backward(grad, output, threads);
        if let (Some(adapted), None) = (adapted, merged) {
            adapted.add_backward(grad, output, self.outputs(), threads);
        }
    }
}

/// A projection with LoRA.
///
/// The factors are multiplied into a copy of a small float32 weight, once per adapter version, so that a forward pass costs the
/// same with and without an adapter; only the adapter's own gradients need the factors. Beside any other weight they stay
/// factors: a copy would double the memory, and a narrow one would round the adapter away.
#[derive(Debug)]
pub(crate) struct Adapted {
    parts: Vec<Part>,
    /// W + scale B A.
    merged: Option<Weight>,
    /// The A factors of all parts side by side, as (inputs, ranks).
    a: Packed,
    inputs: usize,
    /// Sum of the ranks, rounded up to whole vectors.
    ranks: usize,
}

/// One adapted module inside a fused projection.
#[derive(Debug)]
struct Part {
    columns: Range<usize>,
    rank: usize,
    /// First column in the matrix of all ranks.
    first_rank: usize,
    scale: f32,
    /// A, (rank, inputs).
    a: Vec<f32>,
    /// scale * B, (outputs, rank).
    scaled_b: Vec<f32>,
    a_offset: usize,
    b_offset: usize,
}

/// Ranks are padded to this many columns.
const RANK_MULTIPLE: usize = 16;

impl Adapted {
    pub(super) fn new(projection: &Projection, factors: &[Factors]) -> Self {
        let (inputs, outputs) = (projection.inputs(), projection.outputs());
        let ranks = factors
            .iter()
            .map(|part| part.rank)
            .sum::<usize>()
            .next_multiple_of(RANK_MULTIPLE);
        let mut a = vec![0.0; inputs * ranks];
        let mut parts = Vec::with_capacity(factors.len());
        let mut first_rank = 0;
        for part in factors {
            for (rank, row) in part.a.chunks_exact(inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    a[input * ranks + first_rank + rank] = *value;
                }
            }
            parts.push(Part {
                columns: part.columns.clone(),
                rank: part.rank,
                first_rank,
                scale: part.scale,
                a: part.a.to_vec(),
                scaled_b: part.b.iter().map(|value| value * part.scale).collect(),
                a_offset: part.a_offset,
                b_offset: part.b_offset,
            });
            first_rank += part.rank;
        }
        let weight = &projection.weight;
        let merged = (weight.is_small() && weight.packed.is_f32()).then(|| {
            let mut sum = weight.packed.unpack();
            parts.iter().for_each(|part| part.merge(&mut sum, inputs, outputs));
            Weight::new(Packed::new((inputs, outputs), &sum, outputs, Order::RowMajor))
        });
        Self {
            parts,
            merged,
            a: Packed::new((inputs, ranks), &a, ranks, Order::RowMajor),
            inputs,
            ranks,
        }
    }

    /// x A^T of all parts, (rows, ranks).
    fn hidden(&self, x: &[f32], threads: Threads) -> Vec<f32> {
        let (inputs, ranks) = (self.inputs, self.ranks);
        let rows = x.len() / inputs;
        let mut hidden = vec![0.0; rows * ranks];
        product(
            rows,
            by_row(x, inputs),
            &self.a,
            Start::Zero,
            &mut hidden,
            ranks,
            threads,
        );
        hidden
    }

    /// scale grad B of all parts, (rows, ranks).
    fn hidden_gradient(&self, grad: &[f32], outputs: usize, threads: Threads) -> Vec<f32> {
        let (rows, ranks) = (grad.len() / outputs, self.ranks);
        let mut hidden = vec![0.0; rows * ranks];
        for part in &self.parts {
            let (width, grad) = (part.columns.len(), by_row(&grad[part.columns.start..], outputs));
            let b = Right {
                data: &part.scaled_b,
                stride: part.rank,
            };
            let to = &mut hidden[part.first_rank..];
            matmul_on(threads, (rows, part.rank, width), grad, b, Start::Zero, to, ranks);
        }
        hidden
    }

    /// `output` += scale (x A^T) B^T.
    fn add_forward(&self, x: &[f32], output: &mut [f32], outputs: usize, threads: Threads) {
        let (hidden, rows) = (self.hidden(x, threads), x.len() / self.inputs);
        for part in &self.parts {
            let left = by_row(&hidden[part.first_rank..], self.ranks);
            let b = part.b_transposed();
            let to = &mut output[part.columns.start..];
            product(rows, left, &b, Start::Destination, to, outputs, threads);
        }
    }

    /// `output` += scale (grad B) A.
    fn add_backward(&self, grad: &[f32], output: &mut [f32], outputs: usize, threads: Threads) {
        let (hidden, rows) = (self.hidden_gradient(grad, outputs, threads), grad.len() / outputs);
        let (left, inputs) = (by_row(&hidden, self.ranks), self.inputs);
        product(
            rows,
            left,
            &Flipped(&self.a),
            Start::Destination,
            output,
            inputs,
            threads,
        );
    }

    /// Adds dA = scale (grad B)^T x and dB = scale grad^T (x A^T) of each part to `gradients`.
    pub(super) fn gradients(
        &self,
        x: &[f32],
        grad: &[f32],
        projection: &Projection,
        gradients: &mut [f32],
        threads: Threads,
    ) {
        let (inputs, outputs, ranks) = (self.inputs, projection.outputs(), self.ranks);
        let rows = x.len() / inputs;
        let hidden = self.hidden(x, threads);
        let grad_hidden = self.hidden_gradient(grad, outputs, threads);
        for part in &self.parts {
            let (rank, width) = (part.rank, part.columns.len());
            let x = Right {
                data: x,
                stride: inputs,
            };
            let left = by_column(&grad_hidden[part.first_rank..], ranks);
            let to = &mut gradients[part.a_offset..part.a_offset + rank * inputs];
            matmul_on(threads, (rank, inputs, rows), left, x, Start::Destination, to, inputs);

            let grad = Right {
                data: &grad[part.columns.start..],
                stride: outputs,
            };
            let left = by_column(&hidden[part.first_rank..], ranks);
            let mut grad_b = vec![0.0; rank * width];
            matmul_on(
                threads,
                (rank, width, rows),
                left,
                grad,
                Start::Zero,
                &mut grad_b,
                width,
            );
            let to = &mut gradients[part.b_offset..part.b_offset + width * rank];
            for (output, row) in to.chunks_exact_mut(rank).enumerate() {
                for (rank, value) in row.iter_mut().enumerate() {
                    *value += part.scale * grad_b[rank * width + output];
                }
            }
        }
    }
}

impl Part {
    /// scale B^T, (rank, outputs of the part).
    fn b_transposed(&self) -> Gathered<'_> {
        Gathered {
            shape: (self.rank, self.columns.len()),
            data: &self.scaled_b,
            stride: self.rank,
            order: Order::Transposed,
        }
    }

    /// Adds scale (B A)^T to the part's columns of a weight (inputs, outputs).
    fn merge(&self, weight: &mut [f32], inputs: usize, outputs: usize) {
        let a = by_column(&self.a, inputs);
        let to = &mut weight[self.columns.start..];
        product(
            inputs,
            a,
            &self.b_transposed(),
            Start::Destination,
            to,
            outputs,
            Threads::All,
        );
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| (((i * 7919 + seed * 104_729) % 1013) as f32 / 506.5) - 1.0)
            .collect()
    }

    #[test]
    fn factors_beside_a_narrow_weight_do_what_factors_inside_a_wide_one_do() {
        const ROWS: usize = 19;
        let (inputs, outputs) = (70, 90);
        let narrow: Vec<bf16> = values(inputs * outputs, 1).into_iter().map(bf16::from_f32).collect();
        let wide: Vec<f32> = narrow.iter().map(|value| value.to_f32()).collect();
        let bias = values(outputs, 2);
        let shape = (inputs, outputs);
        let narrow = Projection::new(Packed::new(shape, &narrow, inputs, Order::Transposed), bias.clone());
        let wide = Projection::new(Packed::new(shape, &wide, inputs, Order::Transposed), bias);
        let (a, b) = (
            [values(3 * inputs, 3), values(5 * inputs, 4)],
            [values(20 * 3, 5), values(33 * 5, 6)],
        );
        let part = |index: usize, columns: Range<usize>, rank: usize, offset: usize| Factors {
            a: &a[index],
            b: &b[index],
            scale: 0.1,
            a_offset: offset,
            b_offset: offset + rank * inputs,
            columns,
            rank,
        };
        let factors = [part(0, 0..20, 3, 0), part(1, 50..83, 5, 3 * inputs + 60)];
        let (beside, inside) = (Adapted::new(&narrow, &factors), Adapted::new(&wide, &factors));
        assert!(beside.merged.is_none() && inside.merged.is_some());

        let close = |found: &[f32], expected: &[f32]| {
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
                    "{found} {expected}"
                );
            }
        };
        let (x, grad) = (values(ROWS * inputs, 7), values(ROWS * outputs, 8));
        let forward = |projection: &Projection, adapted: Option<&Adapted>| {
            let mut output = vec![f32::NAN; ROWS * outputs];
            projection.forward(adapted, &x, &mut output, Threads::All);
            output
        };
        close(&forward(&narrow, Some(&beside)), &forward(&wide, Some(&inside)));
        assert_eq!(forward(&narrow, None), forward(&wide, None));
        assert_ne!(forward(&narrow, Some(&beside)), forward(&narrow, None));
        let backward = |projection: &Projection, adapted: &Adapted| {
            let mut output = vec![f32::NAN; ROWS * inputs];
            projection.backward(Some(adapted), &grad, &mut output, Threads::All);
            output
        };
        close(&backward(&narrow, &beside), &backward(&wide, &inside));
        let gradients = |projection: &Projection, adapted: &Adapted| {
            let mut sums = vec![0.0; 8 * inputs + 60 + 33 * 5];
            adapted.gradients(&x, &grad, projection, &mut sums, Threads::All);
            sums
        };
        assert_eq!(gradients(&narrow, &beside), gradients(&wide, &inside));
    }
}
