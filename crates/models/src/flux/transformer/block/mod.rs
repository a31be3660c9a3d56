//! The two kinds of blocks: forward, and the vector-Jacobian product from what the forward kept.

mod double;
mod single;

use crate::ModelError;
use crate::denoiser::loader::{AdaptableLinear, BoundAdapter};
use crate::ops::{Backend, Layout, Segment};
pub(super) use double::{DoubleBlock, DoubleTape};
pub(super) use single::{SingleBlock, SingleTape};

/// What all blocks of one pass share.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) layout: Layout,
    pub(super) rotary: &'a B::Rotary,
    pub(super) adapter: Option<&'a BoundAdapter<B>>,
    /// SiLU of the timestep, guidance and pooled embedding, (batch, dim).
    pub(super) embedding: &'a B::Array,
    pub(super) dim: usize,
}

/// Widths of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockSizes {
    /// Of the residual stream.
    pub(super) dim: usize,
    pub(super) head_dim: usize,
}

/// Whether the gradient of a block's input is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputGradient {
    Needed,
    /// No adapter lies before the block.
    Unused,
}

impl<B: Backend> Pass<'_, B> {
    fn adapted(&self, linear: &AdaptableLinear<B>) -> Option<&B::Adapted> {
        self.adapter.and_then(|adapter| adapter.get(linear))
    }

    /// One layer for the rows of each stream.
    fn per_stream<'s>(&'s self, text: &'s AdaptableLinear<B>, image: &'s AdaptableLinear<B>) -> [Segment<'s, B>; 2] {
        [(text, self.layout.text_rows()), (image, self.layout.image_rows())].map(|(linear, rows)| Segment {
            rows,
            projection: &linear.projection,
            adapted: self.adapted(linear),
        })
    }

    /// One layer for `rows` rows.
    pub(super) fn joint<'s>(&'s self, linear: &'s AdaptableLinear<B>, rows: usize) -> [Segment<'s, B>; 1] {
        [Segment {
            rows: 0..rows,
            projection: &linear.projection,
            adapted: self.adapted(linear),
        }]
    }

    /// Shifts, scales and gates from the embedding.
    pub(super) fn modulation(&self, linear: &B::Projection) -> Result<B::Array, ModelError> {
        self.backend.linear(
            self.embedding,
            &[Segment {
                rows: 0..self.layout.batch,
                projection: linear,
                adapted: None,
            }],
        )
    }

    /// A matrix of image rows with zero text rows before it.
    pub(super) fn with_silent_text(&self, image: &B::Array) -> Result<B::Array, ModelError> {
        let rows = self.layout.text_rows().len();
        let text = self.backend.zeros(rows, self.dim)?;
        self.backend.concat_rows(&text, image)
    }
}

fn has_adapter<B: Backend>(segments: &[Segment<B>]) -> bool {
    segments.iter().any(|segment| segment.adapted.is_some())
}
