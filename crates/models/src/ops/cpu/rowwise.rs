//! Kernels that work row by row: normalisation, modulation, gates, activations.

use super::super::Layout;
use super::math::{self, sum, vectorized};
use super::matrix::View;

/// Epsilon of the modulated LayerNorms.
const LAYER_NORM_EPSILON: f32 = 1e-6;

/// Shifts, scales and gates, addressed by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowModulation<'a> {
    layout: Layout,
    text: View<'a>,
    image: View<'a>,
    source: Option<View<'a>>,
    dim: usize,
}

impl<'a> RowModulation<'a> {
    /// Text and image modulation, and that of the source tokens if it differs; all for rows of `dim` columns.
    pub(super) fn new(layout: Layout, [text, image]: [View<'a>; 2], source: Option<View<'a>>, dim: usize) -> Self {
        Self {
            layout,
            text,
            image,
            source,
            dim,
        }
    }

    /// Chunk `index` for the sample and stream that `row` belongs to.
    #[inline(always)]
    fn chunk(&self, row: usize, index: usize) -> &'a [f32] {
        let Layout { batch, text, image, .. } = self.layout;
        let text_rows = batch * text;
        let (matrix, sample) = if row < text_rows {
            (self.text, row / text)
        } else {
            let sample = (row - text_rows) / image;
            let token = row - text_rows - sample * image;
            match self.source {
                Some(source) if token >= self.layout.target() => (source, sample),
                _ => (self.image, sample),
            }
        };
        &matrix.data[sample * matrix.columns + index * self.dim..][..self.dim]
    }
}

/// (mean, 1 / standard deviation) of a row.
#[inline(always)]
fn moments(row: &[f32]) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum([row], |[x]| x) / count;
    let variance = sum([row], |[x]| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + LAYER_NORM_EPSILON).sqrt())
}

vectorized! {
    pub(super) fn modulated_norm<'a>(
        x: &'a [f32], first: usize, modulation: RowModulation<'a>, shift: usize, scale: usize, output: &'a mut [f32],
    ) {
        let dim = modulation.dim;
        for (i, output) in output.chunks_exact_mut(dim).enumerate() {
            let row = &x[(first + i) * dim..][..dim];
            let shift = modulation.chunk(first + i, shift);
            let scale = modulation.chunk(first + i, scale);
            let (mean, inverse) = moments(row);
            for c in 0..dim {
                output[c] = ((row[c] - mean) * inverse).mul_add(1.0 + scale[c], shift[c]);
            }
        }
    }
}

vectorized! {
    pub(super) fn modulated_norm_vjp<'a>(
        x: &'a [f32], grad: &'a [f32], first: usize, modulation: RowModulation<'a>, scale: usize, output: &'a mut [f32],
    ) {
        let dim = modulation.dim;
        for (i, output) in output.chunks_exact_mut(dim).enumerate() {
            let row = &x[(first + i) * dim..][..dim];
            let grad = &grad[(first + i) * dim..][..dim];
            let scale = modulation.chunk(first + i, scale);
            let (mean, inverse) = moments(row);
            // With n = (x - mean) * inverse and g = grad * (1 + scale): dx = inverse * (g - mean(g) - n mean(g n)).
            let mean_g = sum([grad, scale], |[grad, scale]| grad * (1.0 + scale)) / dim as f32;
            let along = |[grad, scale, x]: [f32; 3]| grad * (1.0 + scale) * ((x - mean) * inverse);
            let mean_gn = sum([grad, scale, row], along) / dim as f32;
            for c in 0..dim {
                let g = grad[c] * (1.0 + scale[c]);
                let n = (row[c] - mean) * inverse;
                output[c] += inverse * (g - mean_g - n * mean_gn);
            }
        }
    }
}

vectorized! {
    /// output += gate * y.
    pub(super) fn add_gated<'a>(y: &'a [f32], first: usize, modulation: RowModulation<'a>, gate: usize, output: &'a mut [f32]) {
        let dim = modulation.dim;
        for (i, output) in output.chunks_exact_mut(dim).enumerate() {
            let y = &y[(first + i) * dim..][..dim];
            let gate = modulation.chunk(first + i, gate);
            for c in 0..dim {
                output[c] = gate[c].mul_add(y[c], output[c]);
            }
        }
    }
}

vectorized! {
    pub(super) fn gelu<'a>(x: &'a [f32], output: &'a mut [f32]) {
        for (output, x) in output.iter_mut().zip(x) {
            *output = math::gelu(*x);
        }
    }
}

vectorized! {
    pub(super) fn gelu_vjp<'a>(x: &'a [f32], grad: &'a [f32], value: &'a mut [f32], gradient: &'a mut [f32]) {
        for (((x, grad), value), gradient) in x.iter().zip(grad).zip(value).zip(gradient) {
            let (y, derivative) = math::gelu_with_derivative(*x);
            *value = y;
            *gradient = grad * derivative;
        }
    }
}

vectorized! {
    pub(super) fn silu<'a>(x: &'a [f32], output: &'a mut [f32]) {
        for (output, x) in output.iter_mut().zip(x) {
            *output = x * math::sigmoid(*x);
        }
    }
}
