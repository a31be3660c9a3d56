//! The vision towers.

mod deepstack;
mod windowed;

use std::ops::Range;

use candle_core::{Device, Tensor};

use deepstack::DeepstackTower;
pub(super) use windowed::WindowedTower;

use super::{
    config::{VisionConfig, VisionKind},
    preprocess::{Grid, merge_order},
    source::Source,
};
use crate::{
    LoadError, ModelError, Weights,
    layers::{Attention, Bias, Linear, Mask, Rotary, attention},
    ops::{Kernels, candle::Calls},
};

/// Epsilon of all norms of the towers.
const EPS: f64 = 1e-6;

/// A transformer over patches.
#[derive(Debug)]
pub(super) enum VisionTower {
    /// Qwen2.5-VL: most blocks attend within windows.
    Windowed(WindowedTower),
    /// Qwen3-VL: learned positions, features from several depths.
    Deepstack(DeepstackTower),
}

/// What the language model sees of an image.
#[derive(Debug)]
pub(super) struct Features<T = Tensor> {
    /// Takes the positions of the image's tokens: (merged tokens, width of the language model), in reading order.
    pub(super) tokens: T,
    /// Each of the same shape, added to the states of those tokens after the layer with its index.
    pub(super) deepstack: Vec<T>,
}

impl VisionTower {
    pub(super) fn load(weights: &Weights, name: &str, config: &VisionConfig) -> Result<Self, LoadError> {
        Ok(match &config.kind {
            VisionKind::Windowed(windows) => Self::Windowed(WindowedTower::load(weights, name, config, windows)?),
            VisionKind::Deepstack(deepstack) => {
                Self::Deepstack(DeepstackTower::load(weights, name, config, deepstack)?)
            }
        })
    }

    /// What the language model sees of one image, whose patches stand in merge order.
    pub(super) fn forward(&self, patches: &[f32], grid: Grid, device: &Device) -> Result<Features, ModelError> {
        match self {
            Self::Windowed(tower) => Ok(Features {
                tokens: tower.forward(patches, grid, device)?,
                deepstack: Vec::new(),
            }),
            Self::Deepstack(tower) => tower.forward(patches, grid, device),
        }
    }
}

/// Self-attention of a tower's block.
#[derive(Debug)]
struct SelfAttention<T = Tensor> {
    qkv: Linear<T>,
    proj: Linear<T>,
    heads: usize,
    head_dim: usize,
}

impl<T: Calls> SelfAttention<T> {
    fn load(source: &impl Source<Array = T>, name: &str, config: &VisionConfig) -> Result<Self, LoadError> {
        let width = config.hidden_size;
        Ok(Self {
            qkv: source.linear(&format!("{name}.qkv"), width, 3 * width, Bias::Added)?,
            proj: source.linear(&format!("{name}.proj"), width, width, Bias::Added)?,
            heads: config.num_heads,
            head_dim: config.head_dim(),
        })
    }

    /// The patches of each segment see one another.
    fn forward(&self, x: &T, segments: &[Range<usize>], rotary: &Rotary<T>) -> Result<T, ModelError> {
        let width = self.heads * self.head_dim;
        let qkv = self.qkv.forward(x)?;
        let part = |i: usize| qkv.narrow(1, i * width, width);
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.heads,
            scale: (self.head_dim as f64).sqrt().recip(),
            mask: Mask::Segments(segments),
            bias: None,
            kernels: self.qkv.kernels(),
        };
        let (q, k) = (rotary.rotate(&part(0)?, 0)?, rotary.rotate(&part(1)?, 0)?);
        self.proj.forward(&attention(shape, &q, &k, &part(2)?)?)
    }
}

/// The rotary table of patches in merge order, but with the merged tokens in the given order.
///
/// Half of the frequencies turn with the row of a patch, half with its column.
fn rotary_table<T: Calls>(
    theta: f32,
    head_dim: usize,
    grid: Grid,
    order: impl Iterator<Item = usize>,
    (place, kernels): (&T::Place, Kernels),
) -> Result<Rotary<T>, ModelError> {
    let frequencies = inverse_frequencies(theta, head_dim / 2);
    let unit = grid.merge * grid.merge;
    let positions: Vec<(usize, usize)> = merge_order(grid).collect();
    let angles: Vec<f32> = order
        .flat_map(|token| &positions[token * unit..(token + 1) * unit])
        .flat_map(|&(row, column)| [row, column])
        .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
        .collect();
    Rotary::new(&angles, grid.height * grid.width, place, kernels)
}

/// 1 / theta^(2 i / dim), for half of `dim` frequencies, in float32 as transformers computes them.
pub(super) fn inverse_frequencies(theta: f32, dim: usize) -> Vec<f32> {
    (0..dim)
        .step_by(2)
        .map(|i| 1.0 / theta.powf(i as f32 / dim as f32))
        .collect()
}
