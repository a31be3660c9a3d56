//! What the networks of all families are made of: input layers, the double-stream block, output layers, each with its forward and
//! its vector-Jacobian product; and how blocks run one after another.

mod double;
mod input;
mod output;

use crate::ModelError;
use crate::denoiser::ActivationMemory;
use crate::denoiser::loader::{AdaptableLinear, BoundAdapter};
use crate::ops::{Backend, Layout, Queries, Segment};
pub(crate) use double::{DoubleBlock, DoubleNames, DoubleTape};
pub(crate) use input::{InputLayers, StreamInputs};
pub(crate) use output::OutputLayers;

/// What all blocks of one pass share.
pub(crate) struct Pass<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) layout: Layout,
    pub(crate) rotary: &'a B::Rotary,
    pub(crate) adapter: Option<&'a BoundAdapter<B>>,
    /// SiLU of the embedding of all that modulates, (batch, dim).
    pub(crate) embedding: &'a B::Array,
    /// The same for the source tokens, where they are modulated apart.
    pub(crate) source_embedding: Option<&'a B::Array>,
    pub(crate) dim: usize,
}

/// Widths of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockSizes {
    /// Of the residual stream.
    pub(crate) dim: usize,
    pub(crate) head_dim: usize,
}

/// Whether the gradient of a block's input is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputGradient {
    Needed,
    /// No adapter lies before the block.
    Unused,
}

impl InputGradient {
    /// Of stage `stage`, if the first adapter lies in stage `first_adapted`.
    pub(crate) fn of_stage(stage: usize, first_adapted: usize) -> Self {
        if first_adapted < stage {
            Self::Needed
        } else {
            Self::Unused
        }
    }
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

    /// One layer for the asking rows of each stream.
    fn per_asking_stream<'s>(
        &'s self,
        queries: Queries,
        text: &'s AdaptableLinear<B>,
        image: &'s AdaptableLinear<B>,
    ) -> Vec<Segment<'s, B>> {
        match queries {
            Queries::All => self.per_stream(text, image).into(),
            Queries::Image => self.joint(image, self.layout.image_rows().len()).into(),
        }
    }

    /// One layer for `rows` rows.
    pub(crate) fn joint<'s>(&'s self, linear: &'s AdaptableLinear<B>, rows: usize) -> [Segment<'s, B>; 1] {
        [Segment {
            rows: 0..rows,
            projection: &linear.projection,
            adapted: self.adapted(linear),
        }]
    }

    /// Shifts, scales and gates from the embedding.
    pub(crate) fn modulation(&self, linear: &B::Projection) -> Result<B::Array, ModelError> {
        self.modulation_from(self.embedding, linear)
    }

    /// Shifts, scales and gates of the source tokens, where they are modulated apart.
    fn source_modulation(&self, linear: &B::Projection) -> Result<Option<B::Array>, ModelError> {
        self.source_embedding
            .map(|embedding| self.modulation_from(embedding, linear))
            .transpose()
    }

    fn modulation_from(&self, embedding: &B::Array, linear: &B::Projection) -> Result<B::Array, ModelError> {
        self.backend.linear(
            embedding,
            &[Segment {
                rows: 0..self.layout.batch,
                projection: linear,
                adapted: None,
            }],
        )
    }

    /// The rows of `x` that a block with these queries goes on with.
    pub(crate) fn asking_rows(&self, queries: Queries, x: &B::Array) -> Result<B::Array, ModelError> {
        match queries {
            Queries::All => Ok(x.clone()),
            Queries::Image => self.backend.rows(x, self.layout.image_rows()),
        }
    }

    /// The inverse of [`Self::asking_rows`] for a gradient.
    pub(crate) fn all_rows(&self, queries: Queries, grad: B::Array) -> Result<B::Array, ModelError> {
        match queries {
            Queries::All => Ok(grad),
            Queries::Image => self.with_silent_text(&grad),
        }
    }

    /// A matrix of image rows with zero text rows before it.
    pub(crate) fn with_silent_text(&self, image: &B::Array) -> Result<B::Array, ModelError> {
        let rows = self.layout.text_rows().len();
        let text = self.backend.zeros(rows, self.dim)?;
        self.backend.concat_rows(&[&text, image])
    }

    /// The target tokens of a matrix of image rows.
    pub(crate) fn target_rows(&self, image: B::Array) -> Result<B::Array, ModelError> {
        let Layout { batch, source, .. } = self.layout;
        if source == 0 {
            return Ok(image);
        }
        let targets = (0..batch)
            .map(|sample| self.backend.rows(&image, self.layout.target_of(sample)))
            .collect::<Result<Vec<_>, _>>()?;
        self.backend.concat_rows(&targets.iter().collect::<Vec<_>>())
    }

    /// The inverse of [`Self::target_rows`] for a gradient: the rows of source tokens are zero.
    pub(crate) fn with_silent_sources(&self, target: B::Array) -> Result<B::Array, ModelError> {
        let Layout { batch, source, .. } = self.layout;
        if source == 0 {
            return Ok(target);
        }
        let tokens = self.layout.target();
        let targets = (0..batch)
            .map(|sample| self.backend.rows(&target, sample * tokens..(sample + 1) * tokens))
            .collect::<Result<Vec<_>, _>>()?;
        let silent = self.backend.zeros(source, self.dim)?;
        let rows: Vec<&B::Array> = targets.iter().flat_map(|target| [target, &silent]).collect();
        self.backend.concat_rows(&rows)
    }
}

/// What is kept of one block for its backward.
pub(crate) enum Kept<A, T> {
    /// The block's input.
    Input(A),
    /// All that its backward reads.
    Tape(T),
}

impl<A, T> Kept<A, T> {
    /// The tape; a block of which only the input was kept runs forward again.
    pub(crate) fn tape(self, forward: impl FnOnce(A) -> Result<(A, T), ModelError>) -> Result<T, ModelError> {
        match self {
            Self::Input(x) => Ok(forward(x)?.1),
            Self::Tape(tape) => Ok(tape),
        }
    }
}

/// Runs one block and keeps of it what `memory` says.
pub(crate) fn step<A: Clone, T>(
    blocks: &mut Vec<Kept<A, T>>,
    memory: Option<ActivationMemory>,
    x: A,
    forward: impl FnOnce(A) -> Result<(A, T), ModelError>,
) -> Result<A, ModelError> {
    match memory {
        None => Ok(forward(x)?.0),
        Some(ActivationMemory::KeepAll) => {
            let (output, tape) = forward(x)?;
            blocks.push(Kept::Tape(tape));
            Ok(output)
        }
        Some(ActivationMemory::Checkpoint) => {
            blocks.push(Kept::Input(x.clone()));
            Ok(forward(x)?.0)
        }
    }
}

pub(crate) fn has_adapter<B: Backend>(segments: &[Segment<B>]) -> bool {
    segments.iter().any(|segment| segment.adapted.is_some())
}
