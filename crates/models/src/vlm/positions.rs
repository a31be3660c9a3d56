//! Multimodal rotary positions.

use super::{config::TextConfig, preprocess::Grid, vision::inverse_frequencies};
use crate::{
    ModelError,
    layers::Rotary,
    ops::{Kernels, candle::Calls},
};

/// Which frequency turns with which axis of a position.
#[derive(Debug)]
pub(super) struct RotaryPositions {
    frequencies: Vec<f32>,
    /// For each frequency: 0 temporal, 1 vertical, 2 horizontal.
    axes: Vec<usize>,
    kernels: Kernels,
}

/// The temporal, vertical and horizontal position of each token of a prompt.
pub(super) struct PromptPositions {
    pub(super) positions: Vec<[usize; 3]>,
    /// Position of the text that follows.
    pub(super) next: usize,
}

impl RotaryPositions {
    pub(super) fn new(config: &TextConfig, kernels: Kernels) -> Self {
        Self {
            frequencies: inverse_frequencies(config.rope_theta(), config.head_dim()),
            axes: config.rotary_axes(),
            kernels,
        }
    }

    pub(super) fn table<T: Calls>(&self, positions: &[[usize; 3]], place: &T::Place) -> Result<Rotary<T>, ModelError> {
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|position| {
                self.frequencies
                    .iter()
                    .zip(&self.axes)
                    .map(|(frequency, axis)| position[*axis] as f32 * frequency)
            })
            .collect();
        Rotary::new(&angles, positions.len(), place, self.kernels)
    }
}

impl PromptPositions {
    /// Text tokens have one position on all axes; the tokens of an image share the temporal one and count rows and columns;
    /// the text after it goes on behind the larger side. The first token stands at position `next`.
    pub(super) fn of(
        ids: &[u32],
        image_token: u32,
        mut grids: impl Iterator<Item = Grid>,
        mut next: usize,
    ) -> Result<Self, ModelError> {
        let mut positions: Vec<[usize; 3]> = Vec::with_capacity(ids.len());
        while positions.len() < ids.len() {
            if ids[positions.len()] != image_token {
                positions.push([next; 3]);
                next += 1;
                continue;
            }
            let Some(grid) = grids.next() else {
                return Err(ModelError::Value {
                    input: "images",
                    problem: "the prompt has more image tokens than images".to_owned(),
                });
            };
            let (height, width) = (grid.merged_height(), grid.merged_width());
            positions.extend((0..height * width).map(|token| [next, next + token / width, next + token % width]));
            next += height.max(width);
        }
        Ok(Self { positions, next })
    }
}
