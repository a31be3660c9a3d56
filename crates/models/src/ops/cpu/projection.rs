//! Frozen linear layers, and the same with LoRA.

use std::ops::Range;
use std::sync::OnceLock;

use super::super::Factors;
use super::matmul::{Left, Order, Right, Start, matmul};

/// A frozen linear layer, kept in both orders, so that forward and backward read their right operand row by row.
#[derive(Debug)]
pub(crate) struct Projection {
    inputs: usize,
    outputs: usize,
    /// (outputs, inputs), as in the file.
    weight: Vec<f32>,
    /// (inputs, outputs).
    transposed: Vec<f32>,
    bias: Vec<f32>,
}

impl Projection {
    pub(super) fn new(inputs: usize, outputs: usize, weight: Vec<f32>, bias: Vec<f32>) -> Self {
        Self {
            inputs,
            outputs,
            transposed: transpose(&weight, outputs, inputs),
            weight,
            bias,
        }
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// `output` = x W^T + bias.
    pub(super) fn forward(&self, adapted: Option<&Adapted>, x: &[f32], output: &mut [f32]) {
        let transposed = adapted.map_or(&self.transposed, |adapted| &adapted.transposed);
        let left = Left {
            data: x,
            stride: self.inputs,
            order: Order::RowMajor,
        };
        let right = Right {
            data: transposed,
            stride: self.outputs,
        };
        let shape = (x.len() / self.inputs, self.outputs, self.inputs);
        matmul(shape, left, right, Start::Bias(&self.bias), output, self.outputs);
    }

    /// `output` = grad W.
    pub(super) fn backward(&self, adapted: Option<&Adapted>, grad: &[f32], output: &mut [f32]) {
        let weight = adapted.map_or(&self.weight, |adapted| adapted.weight(self));
        let left = Left {
            data: grad,
            stride: self.outputs,
            order: Order::RowMajor,
        };
        let right = Right {
            data: weight,
            stride: self.inputs,
        };
        matmul(
            (grad.len() / self.outputs, self.inputs, self.outputs),
            left,
            right,
            Start::Zero,
            output,
            self.inputs,
        );
    }
}

/// A projection with LoRA. The factors are multiplied into a copy of the weights, once per adapter version, so that a forward
/// pass costs the same with and without an adapter; only the adapter's own gradients need the factors.
#[derive(Debug)]
pub(crate) struct Adapted {
    parts: Vec<Part>,
    /// W + scale B A, as (inputs, outputs).
    transposed: Vec<f32>,
    /// W + scale B A, as (outputs, inputs); made when a backward asks for it.
    weight: OnceLock<Vec<f32>>,
    /// The A factors of all parts side by side, as (inputs, ranks).
    a: Vec<f32>,
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
        let (inputs, outputs) = (projection.inputs, projection.outputs);
        let ranks = factors
            .iter()
            .map(|part| part.rank)
            .sum::<usize>()
            .next_multiple_of(RANK_MULTIPLE);
        let mut a = vec![0.0; inputs * ranks];
        let mut transposed = projection.transposed.clone();
        let mut parts = Vec::with_capacity(factors.len());
        let mut first_rank = 0;
        for part in factors {
            for (rank, row) in part.a.chunks_exact(inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    a[input * ranks + first_rank + rank] = *value;
                }
            }
            let scaled_b: Vec<f32> = part.b.iter().map(|value| value * part.scale).collect();
            let width = part.columns.len();
            let b_transposed = transpose(&scaled_b, width, part.rank);
            let left = Left {
                data: part.a,
                stride: inputs,
                order: Order::Transposed,
            };
            let right = Right {
                data: &b_transposed,
                stride: width,
            };
            let destination = &mut transposed[part.columns.start..];
            matmul(
                (inputs, width, part.rank),
                left,
                right,
                Start::Destination,
                destination,
                outputs,
            );
            parts.push(Part {
                columns: part.columns.clone(),
                rank: part.rank,
                first_rank,
                scale: part.scale,
                a: part.a.to_vec(),
                scaled_b,
                a_offset: part.a_offset,
                b_offset: part.b_offset,
            });
            first_rank += part.rank;
        }
        Self {
            parts,
            transposed,
            weight: OnceLock::new(),
            a,
            ranks,
        }
    }

    fn weight(&self, projection: &Projection) -> &Vec<f32> {
        self.weight.get_or_init(|| {
            let mut weight = projection.weight.clone();
            for part in &self.parts {
                let left = Left {
                    data: &part.scaled_b,
                    stride: part.rank,
                    order: Order::RowMajor,
                };
                let right = Right {
                    data: &part.a,
                    stride: projection.inputs,
                };
                let destination = &mut weight[part.columns.start * projection.inputs..];
                let shape = (part.columns.len(), projection.inputs, part.rank);
                matmul(shape, left, right, Start::Destination, destination, projection.inputs);
            }
            weight
        })
    }

    /// Adds dA = scale (grad B)^T x and dB = scale grad^T (x A^T) of each part to `gradients`.
    pub(super) fn gradients(&self, x: &[f32], grad: &[f32], projection: &Projection, gradients: &mut [f32]) {
        let (inputs, outputs, ranks) = (projection.inputs, projection.outputs, self.ranks);
        let rows = x.len() / inputs;
        let x_left = Left {
            data: x,
            stride: inputs,
            order: Order::RowMajor,
        };
        let mut hidden = vec![0.0; rows * ranks];
        let a = Right {
            data: &self.a,
            stride: ranks,
        };
        matmul((rows, ranks, inputs), x_left, a, Start::Zero, &mut hidden, ranks);

        let mut grad_hidden = vec![0.0; rows * ranks];
        for part in &self.parts {
            let width = part.columns.len();
            let grad_part = &grad[part.columns.start..];
            let left = Left {
                data: grad_part,
                stride: outputs,
                order: Order::RowMajor,
            };
            let right = Right {
                data: &part.scaled_b,
                stride: part.rank,
            };
            let destination = &mut grad_hidden[part.first_rank..];
            matmul((rows, part.rank, width), left, right, Start::Zero, destination, ranks);

            let left = Left {
                data: &grad_hidden[part.first_rank..],
                stride: ranks,
                order: Order::Transposed,
            };
            let right = Right {
                data: x,
                stride: inputs,
            };
            let destination = &mut gradients[part.a_offset..part.a_offset + part.rank * inputs];
            matmul(
                (part.rank, inputs, rows),
                left,
                right,
                Start::Destination,
                destination,
                inputs,
            );

            let left = Left {
                data: &hidden[part.first_rank..],
                stride: ranks,
                order: Order::Transposed,
            };
            let right = Right {
                data: grad_part,
                stride: outputs,
            };
            let mut grad_b = vec![0.0; part.rank * width];
            matmul((part.rank, width, rows), left, right, Start::Zero, &mut grad_b, width);
            let destination = &mut gradients[part.b_offset..part.b_offset + width * part.rank];
            for (output, row) in destination.chunks_exact_mut(part.rank).enumerate() {
                for (rank, value) in row.iter_mut().enumerate() {
                    *value += part.scale * grad_b[rank * width + output];
                }
            }
        }
    }
}

/// The transpose of a row-major (rows, columns) matrix.
fn transpose(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    /// Squares of this side keep both matrices in the cache.
    const TILE: usize = 16;
    let mut output = vec![0.0; matrix.len()];
    for first_row in (0..rows).step_by(TILE) {
        for first_column in (0..columns).step_by(TILE) {
            for row in first_row..rows.min(first_row + TILE) {
                for column in first_column..columns.min(first_column + TILE) {
                    output[column * rows + row] = matrix[row * columns + column];
                }
            }
        }
    }
    output
}
