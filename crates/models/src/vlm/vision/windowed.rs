//! The vision tower of Qwen2.5-VL.

use std::ops::Range;

use candle_core::Tensor;

use super::{EPS, SelfAttention, rotary_table};
use crate::{
    LoadError, ModelError,
    layers::{Activation, Bias, Linear, RmsNorm, Rotary, gated},
    ops::candle::Calls,
    vlm::{
        config::{VisionConfig, WindowConfig},
        preprocess::Grid,
        source::Source,
    },
};

/// A transformer over patches. Most blocks attend within windows, some over the whole image.
///
/// # Source
/// transformers `Qwen2_5_VisionTransformerPretrainedModel`.
#[derive(Debug)]
pub(in crate::vlm) struct WindowedTower<T = Tensor> {
    patch_embed: Linear<T>,
    blocks: Vec<Block<T>>,
    merger_norm: RmsNorm<T>,
    merger_in: Linear<T>,
    merger_out: Linear<T>,
    head_dim: usize,
    rope_theta: f32,
    /// Side of a window in merged patches.
    window: usize,
    windows_in: WindowOrder,
}

#[derive(Debug)]
struct Block<T> {
    norm1: RmsNorm<T>,
    attention: SelfAttention<T>,
    norm2: RmsNorm<T>,
    gate: Linear<T>,
    up: Linear<T>,
    down: Linear<T>,
    activation: Activation,
    reach: Reach,
}

/// What a block attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Window,
    Image,
}

/// How windows follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowOrder {
    /// From left to right and from top to bottom.
    Reading,
    /// The largest first, so that those of one size, which candle attends in one call, stand side by side.
    Size,
}

/// The merged tokens of a grid, window by window.
struct Arrangement {
    /// Their numbers in reading order.
    order: Vec<usize>,
    /// Ranges of that order.
    windows: Vec<Range<usize>>,
}

impl<T: Calls> WindowedTower<T> {
    pub(in crate::vlm) fn load(
        source: &impl Source<Array = T>,
        name: &str,
        config: &VisionConfig,
        windows: &WindowConfig,
    ) -> Result<Self, LoadError> {
        let (width, merged) = (config.hidden_size, config.merged_width());
        let blocks = (0..config.depth)
            .map(|i| {
                let path = format!("{name}.blocks.{i}");
                let linear = |part: &str, inputs, outputs| {
                    source.linear(&format!("{path}.{part}"), inputs, outputs, Bias::Added)
                };
                Ok(Block {
                    norm1: source.rms_norm(&format!("{path}.norm1"), width, EPS)?,
                    attention: SelfAttention::load(source, &format!("{path}.attn"), config)?,
                    norm2: source.rms_norm(&format!("{path}.norm2"), width, EPS)?,
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
            patch_embed: source.patch_embedding(&format!("{name}.patch_embed.proj"), config, Bias::None)?,
            blocks,
            merger_norm: source.rms_norm(&format!("{name}.merger.ln_q"), width, EPS)?,
            merger_in: source.linear(&format!("{name}.merger.mlp.0"), merged, merged, Bias::Added)?,
            merger_out: source.linear(
                &format!("{name}.merger.mlp.2"),
                merged,
                config.out_hidden_size,
                Bias::Added,
            )?,
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta(),
            window: windows.window_size / config.spatial_merge_size / config.patch_size,
            windows_in: match source.is_host() {
                true => WindowOrder::Reading,
                false => WindowOrder::Size,
            },
        })
    }

    /// Patches of one image, in merge order, to features (merged tokens, width of the language model) in reading order.
    pub(in crate::vlm) fn forward(&self, patches: &[f32], grid: Grid, place: &T::Place) -> Result<T, ModelError> {
        let count = grid.height * grid.width;
        let unit = grid.merge * grid.merge;
        let Arrangement { order, windows } = self.arrangement(grid);
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
        let patches = T::upload(&arranged, (count, depth), place)?;
        let place = (place, self.patch_embed.kernels());
        let rotary = rotary_table(self.rope_theta, self.head_dim, grid, order.iter().copied(), place)?;

        let mut x = self.patch_embed.forward(&patches.to_dtype(self.patch_embed.dtype())?)?;
        for block in &self.blocks {
            let segments = match block.reach {
                Reach::Window => windows.as_slice(),
                Reach::Image => std::slice::from_ref(&whole),
            };
            x = block.forward(&x, segments, &rotary)?;
        }

        let normed = self.merger_norm.forward(&x)?;
        let merged = normed.reshape((grid.merged_tokens(), unit * normed.width()))?;
        let hidden = Activation::Gelu.forward(self.merger_in.kernels(), &self.merger_in.forward(&merged)?)?;
        let features = self.merger_out.forward(&hidden)?;
        let mut positions = vec![0_u32; order.len()];
        for (position, token) in order.iter().enumerate() {
            positions[*token] = position as u32;
        }
        Ok(features.rows(&positions)?)
    }

    /// Cuts a grid into windows.
    fn arrangement(&self, grid: Grid) -> Arrangement {
        let (height, width) = (grid.merged_height(), grid.merged_width());
        let mut windows: Vec<Vec<usize>> = Vec::new();
        for top in (0..height).step_by(self.window) {
            for left in (0..width).step_by(self.window) {
                let rows = top..height.min(top + self.window);
                let columns = left..width.min(left + self.window);
                let tokens = rows.flat_map(|row| columns.clone().map(move |column| row * width + column));
                windows.push(tokens.collect());
            }
        }
        if self.windows_in == WindowOrder::Size {
            windows.sort_by_key(|window| std::cmp::Reverse(window.len()));
        }
        let mut end = 0;
        let ranges = windows.iter().map(|window| {
            end += window.len();
            end - window.len()..end
        });
        Arrangement {
            windows: ranges.collect(),
            order: windows.concat(),
        }
    }
}

impl<T: Calls> Block<T> {
    fn forward(&self, x: &T, segments: &[Range<usize>], rotary: &Rotary<T>) -> Result<T, ModelError> {
        let mixed = self.attention.forward(&self.norm1.forward(x)?, segments, rotary)?;
        let x = x.plus(&mixed)?;
        let normed = self.norm2.forward(&x)?;
        let hidden = gated(
            self.activation,
            self.gate.kernels(),
            &self.gate.forward(&normed)?,
            &self.up.forward(&normed)?,
        )?;
        Ok(x.plus(&self.down.forward(&hidden)?)?)
    }
}
