//! The vision tower of Qwen2.5-VL.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::{EPS, SelfAttention, patch_embed, rotary_table};
use crate::{
    LoadError, ModelError, Weights,
    layers::{Activation, Bias, Linear, RmsNorm, Rotary, gated},
    vlm::{
        config::{VisionConfig, WindowConfig},
        preprocess::Grid,
    },
};

/// A transformer over patches. Most blocks attend within windows, some over the whole image.
///
/// # Source
/// transformers `Qwen2_5_VisionTransformerPretrainedModel`.
#[derive(Debug)]
pub(crate) struct WindowedTower {
    patch_embed: Linear,
    blocks: Vec<Block>,
    merger_norm: RmsNorm,
    merger_in: Linear,
    merger_out: Linear,
    head_dim: usize,
    rope_theta: f32,
    /// Side of a window in merged patches.
    window: usize,
}

#[derive(Debug)]
struct Block {
    norm1: RmsNorm,
    attention: SelfAttention,
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

impl WindowedTower {
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        config: &VisionConfig,
        windows: &WindowConfig,
    ) -> Result<Self, LoadError> {
        let (width, merged) = (config.hidden_size, config.merged_width());
        let blocks = (0..config.depth)
            .map(|i| {
                let path = format!("{name}.blocks.{i}");
                let linear = |part: &str, inputs, outputs| {
                    Linear::load(weights, &format!("{path}.{part}"), inputs, outputs, Bias::Added)
                };
                Ok(Block {
                    norm1: RmsNorm::load(weights, &format!("{path}.norm1"), width, EPS)?,
                    attention: SelfAttention::load(weights, &format!("{path}.attn"), config)?,
                    norm2: RmsNorm::load(weights, &format!("{path}.norm2"), width, EPS)?,
                    gate: linear("mlp.gate_proj", width, config.intermediate_size)?,
                    up: linear("mlp.up_proj", width, config.intermediate_size)?,
                    down: linear("mlp.down_proj", config.intermediate_size, width)?,
                    activation: config.hidden_act,
                    reach: if windows.fullatt_block_indexes.contains(&i) {
                        Reach::Image
                    } else {
                        Reach::Window
                    },
                })
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(Self {
            patch_embed: patch_embed(weights, &format!("{name}.patch_embed.proj"), config, Bias::None)?,
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
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta(),
            window: windows.window_size / config.spatial_merge_size / config.patch_size,
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
        let place = (device, self.patch_embed.kernels());
        let rotary = rotary_table(self.rope_theta, self.head_dim, grid, order.iter().copied(), place)?;

        let mut x = self.patch_embed.forward(&patches.to_dtype(self.patch_embed.dtype())?)?;
        for block in &self.blocks {
            let segments = match block.reach {
                Reach::Window => windows.as_slice(),
                Reach::Image => std::slice::from_ref(&whole),
            };
            x = block.forward(&x, segments, &rotary)?;
        }

        let merged = self.merger_norm.forward(&x)?.reshape((grid.merged_tokens(), ()))?;
        let hidden = Activation::Gelu.forward(&self.merger_in.forward(&merged)?)?;
        let features = self.merger_out.forward(&hidden)?;
        let mut positions = vec![0_u32; order.len()];
        for (position, token) in order.iter().enumerate() {
            positions[*token] = position as u32;
        }
        Ok(features.index_select(&Tensor::new(positions, device)?, 0)?)
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
}

impl Block {
    fn forward(&self, x: &Tensor, segments: &[Range<usize>], rotary: &Rotary) -> Result<Tensor, ModelError> {
        let x = (x + self.attention.forward(&self.norm1.forward(x)?, segments, rotary)?)?;
        let normed = self.norm2.forward(&x)?;
        let hidden = gated(
            self.activation,
            self.gate.kernels(),
            &self.gate.forward(&normed)?,
            &self.up.forward(&normed)?,
        )?;
        Ok((x + self.down.forward(&hidden)?)?)
    }
}
