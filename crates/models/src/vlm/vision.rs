//! The vision tower.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::{
    config::VisionConfig,
    preprocess::{Grid, merge_order},
};
use crate::{
    LoadError, ModelError, Weights,
    layers::{Activation, Attention, Bias, Linear, Mask, RmsNorm, Rotary, attention, gated},
};

/// Epsilon of all norms of the tower.
const EPS: f64 = 1e-6;

/// A transformer over patches. Most blocks attend within windows, some over the whole image.
#[derive(Debug)]
pub(super) struct VisionTower {
    patch_embed: Linear,
    blocks: Vec<Block>,
    merger_norm: RmsNorm,
    merger_in: Linear,
    merger_out: Linear,
    heads: usize,
    head_dim: usize,
    rope_theta: f32,
    /// Side of a window in merged patches.
    window: usize,
}

#[derive(Debug)]
struct Block {
    norm1: RmsNorm,
    qkv: Linear,
    proj: Linear,
    norm2: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
    reach: Reach,
}

/// What a block attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Window,
    Image,
}

impl VisionTower {
    pub(super) fn load(weights: &Weights, name: &str, config: &VisionConfig) -> Result<Self, LoadError> {
        let width = config.hidden_size;
        let merged = width * config.spatial_merge_size * config.spatial_merge_size;
        let blocks = (0..config.depth)
            .map(|i| {
                let path = format!("{name}.blocks.{i}");
                let linear = |part: &str, inputs, outputs| {
                    Linear::load(weights, &format!("{path}.{part}"), inputs, outputs, Bias::Added)
                };
                Ok(Block {
                    norm1: RmsNorm::load(weights, &format!("{path}.norm1"), width, EPS)?,
                    qkv: linear("attn.qkv", width, 3 * width)?,
                    proj: linear("attn.proj", width, width)?,
                    norm2: RmsNorm::load(weights, &format!("{path}.norm2"), width, EPS)?,
                    gate: linear("mlp.gate_proj", width, config.intermediate_size)?,
                    up: linear("mlp.up_proj", width, config.intermediate_size)?,
                    down: linear("mlp.down_proj", config.intermediate_size, width)?,
                    activation: config.hidden_act,
                    reach: if config.fullatt_block_indexes.contains(&i) {
                        Reach::Image
                    } else {
                        Reach::Window
                    },
                })
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(Self {
            patch_embed: patch_embed(weights, &format!("{name}.patch_embed.proj.weight"), config)?,
            blocks,
            merger_norm: RmsNorm::load(weights, &format!("{name}.merger.ln_q"), width, EPS)?,
            merger_in: Linear::load(weights, &format!("{name}.merger.mlp.0"), merged, merged, Bias::Added)?,
            merger_out: Linear::load(
                weights,
                &format!("{name}.merger.mlp.2"),
                merged,
                config.out_hidden_size,
                Bias::Added,
            )?,
            heads: config.num_heads,
            head_dim: width / config.num_heads,
            rope_theta: config.rope_theta(),
            window: config.window_size / config.spatial_merge_size / config.patch_size,
        })
    }

    /// Patches of one image, in merge order, to features (merged tokens, width of the language model) in reading order.
    pub(super) fn forward(&self, patches: &[f32], grid: Grid, device: &Device) -> Result<Tensor, ModelError> {
        let count = grid.height * grid.width;
        let unit = grid.merge * grid.merge;
        let (order, windows) = self.windows(grid);
        let windows: Vec<Range<usize>> = windows
            .into_iter()
            .map(|window| window.start * unit..window.end * unit)
            .collect();
        let whole = 0..count;
        let depth = patches.len() / count;
        let arranged: Vec<f32> = order
            .iter()
            .flat_map(|token| &patches[token * unit * depth..(token + 1) * unit * depth])
            .copied()
            .collect();
        let patches = Tensor::from_vec(arranged, (count, depth), device)?;
        let rotary = self.rotary(grid, &order, device)?;

        let mut x = self.patch_embed.forward(&patches.to_dtype(self.patch_embed.dtype())?)?;
        for block in &self.blocks {
            let segments = match block.reach {
                Reach::Window => windows.as_slice(),
                Reach::Image => std::slice::from_ref(&whole),
            };
            x = self.block(block, &x, segments, &rotary)?;
        }

        let merged = self.merger_norm.forward(&x)?.reshape((grid.merged_tokens(), ()))?;
        let hidden = Activation::Gelu.forward(&self.merger_in.forward(&merged)?)?;
        let features = self.merger_out.forward(&hidden)?;
        let mut place = vec![0_u32; order.len()];
        for (position, token) in order.iter().enumerate() {
            place[*token] = position as u32;
        }
        Ok(features.index_select(&Tensor::new(place, device)?, 0)?)
    }

    fn block(
        &self,
        block: &Block,
        x: &Tensor,
        segments: &[Range<usize>],
        rotary: &Rotary,
    ) -> Result<Tensor, ModelError> {
        let width = self.heads * self.head_dim;
        let qkv = block.qkv.forward(&block.norm1.forward(x)?)?;
        let part = |i: usize| qkv.narrow(1, i * width, width);
        let shape = Attention {
            heads: self.heads,
            kv_heads: self.heads,
            scale: (self.head_dim as f64).sqrt().recip(),
            mask: Mask::Segments(segments),
            rotary: Some(rotary),
            bias: None,
        };
        let mixed = attention(shape, &part(0)?, &part(1)?, &part(2)?)?;
        let x = (x + block.proj.forward(&mixed)?)?;
        let normed = block.norm2.forward(&x)?;
        let hidden = gated(
            block.activation,
            &block.gate.forward(&normed)?,
            &block.up.forward(&normed)?,
        )?;
        Ok((x + block.down.forward(&hidden)?)?)
    }

    /// Merged tokens (numbered in reading order) window by window, and the windows as ranges of that order.
    fn windows(&self, grid: Grid) -> (Vec<usize>, Vec<Range<usize>>) {
        let (height, width) = (grid.merged_height(), grid.merged_width());
        let mut order = Vec::with_capacity(height * width);
        let mut windows = Vec::new();
        for top in (0..height).step_by(self.window) {
            for left in (0..width).step_by(self.window) {
                let start = order.len();
                for row in top..height.min(top + self.window) {
                    order.extend((left..width.min(left + self.window)).map(|column| row * width + column));
                }
                windows.push(start..order.len());
            }
        }
        (order, windows)
    }

    /// Half of the frequencies turn with the row of a patch, half with its column.
    fn rotary(&self, grid: Grid, order: &[usize], device: &Device) -> Result<Rotary, ModelError> {
        let frequencies = inverse_frequencies(self.rope_theta, self.head_dim / 2);
        let unit = grid.merge * grid.merge;
        let positions: Vec<(usize, usize)> = merge_order(grid).collect();
        let angles: Vec<f32> = order
            .iter()
            .flat_map(|token| &positions[token * unit..(token + 1) * unit])
            .flat_map(|&(row, column)| [row, column])
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
            .collect();
        rotary_table(&angles, grid.height * grid.width, device)
    }
}

/// 1 / theta^(2 i / dim), for half of `dim` frequencies, in float32 as transformers computes them.
pub(super) fn inverse_frequencies(theta: f32, dim: usize) -> Vec<f32> {
    (0..dim)
        .step_by(2)
        .map(|i| 1.0 / theta.powf(i as f32 / dim as f32))
        .collect()
}

/// The rotary table of angles (tokens, head_dim / 2) in radians.
pub(super) fn rotary_table(angles: &[f32], tokens: usize, device: &Device) -> Result<Rotary, ModelError> {
    let table = |function: fn(f32) -> f32| {
        let values: Vec<f32> = angles.iter().map(|angle| function(*angle)).collect();
        Tensor::from_vec(values, (tokens, angles.len() / tokens), device)
    };
    Ok(Rotary {
        cos: table(f32::cos)?,
        sin: table(f32::sin)?,
    })
}

/// The patch embedding as a linear layer over one frame: a still image repeats its frame, so the weights of the frames add.
fn patch_embed(weights: &Weights, name: &str, config: &VisionConfig) -> Result<Linear, LoadError> {
    let (width, frames, patch) = (config.hidden_size, config.temporal_patch_size, config.patch_size);
    let weight = weights.get(name, &[width, 3, frames, patch, patch])?;
    weight
        .sum(2)
        .and_then(|frame| frame.reshape((width, 3 * patch * patch)))
        .and_then(|frame| Linear::new(&frame, None))
        .map_err(|source| weights.candle(source))
}
