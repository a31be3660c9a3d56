//! The vision tower of Qwen3-VL.

use candle_core::{DType, Device, Tensor};

use super::{EPS, Features, SelfAttention, rotary_table};
use crate::{
    LoadError, ModelError, Weights,
    layers::{Activation, Bias, LayerNorm, Linear, Rotary},
    vlm::{
        config::{DeepstackConfig, VisionConfig},
        preprocess::{Grid, merge_order},
        source::Source,
    },
};

/// A transformer over patches with learned positions. The output of some blocks goes to the language model's first layers.
///
/// # Source
/// transformers `Qwen3VLVisionModel`.
#[derive(Debug)]
pub(crate) struct DeepstackTower {
    patch_embed: Linear,
    /// (side * side, width).
    positions: Tensor,
    side: usize,
    blocks: Vec<Block>,
    merger: Merger,
    /// Merges the output of the block with the index.
    deepstack: Vec<(usize, Merger)>,
    head_dim: usize,
    rope_theta: f32,
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attention: SelfAttention,
    norm2: LayerNorm,
    linear_in: Linear,
    linear_out: Linear,
    activation: Activation,
}

/// Makes one token of a square of patches.
#[derive(Debug)]
struct Merger {
    norm: LayerNorm,
    norms: Norms,
    linear_in: Linear,
    linear_out: Linear,
    /// Width of a square of patches.
    width: usize,
}

/// What a merger normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Norms {
    Patches,
    Squares,
}

impl DeepstackTower {
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        config: &VisionConfig,
        deepstack: &DeepstackConfig,
    ) -> Result<Self, LoadError> {
        let levels = deepstack.deepstack_visual_indexes.iter().enumerate();
        Ok(Self {
            patch_embed: weights.patch_embedding(&format!("{name}.patch_embed.proj"), config, Bias::Added)?,
            positions: weights.get(
                &format!("{name}.pos_embed.weight"),
                &[deepstack.num_position_embeddings, config.hidden_size],
            )?,
            side: deepstack.side(),
            blocks: (0..config.depth)
                .map(|i| Block::load(weights, &format!("{name}.blocks.{i}"), config))
                .collect::<Result<_, _>>()?,
            merger: Merger::load(weights, &format!("{name}.merger"), config, Norms::Patches)?,
            deepstack: levels
                .map(|(i, block)| {
                    let path = format!("{name}.deepstack_merger_list.{i}");
                    Ok((*block, Merger::load(weights, &path, config, Norms::Squares)?))
                })
                .collect::<Result<_, LoadError>>()?,
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta(),
        })
    }

    pub(super) fn forward(&self, patches: &[f32], grid: Grid, device: &Device) -> Result<Features, ModelError> {
        let count = grid.height * grid.width;
        let patches = Tensor::from_slice(patches, (count, patches.len() / count), device)?;
        let place = (device, self.patch_embed.kernels());
        let rotary = rotary_table(self.rope_theta, self.head_dim, grid, 0..grid.merged_tokens(), place)?;

        let x = self.patch_embed.forward(&patches.to_dtype(self.patch_embed.dtype())?)?;
        let mut x = (x + self.position_embeddings(grid, device)?)?;
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &rotary)?;
            if let Some((_, merger)) = self.deepstack.iter().find(|(level, _)| *level == index) {
                deepstack.push(merger.forward(&x)?);
            }
        }
        Ok(Features {
            tokens: self.merger.forward(&x)?,
            deepstack,
        })
    }

    /// The square table of learned positions, stretched over the grid with its corners in the grid's corners.
    fn position_embeddings(&self, grid: Grid, device: &Device) -> Result<Tensor, ModelError> {
        let (rows, columns) = (self.taps(grid.height), self.taps(grid.width));
        let count = grid.height * grid.width;
        let mut sum: Option<Tensor> = None;
        for corner in 0..4 {
            let (mut indices, mut shares) = (Vec::with_capacity(count), Vec::with_capacity(count));
            for (row, column) in merge_order(grid) {
                let (row, column) = (rows[row][corner / 2], columns[column][corner % 2]);
                indices.push((row.0 * self.side + column.0) as u32);
                shares.push(row.1 * column.1);
            }
            let values = self.positions.index_select(&Tensor::new(indices, device)?, 0)?;
            let shares = Tensor::from_vec(shares, (count, 1), device)?;
            let part = values.to_dtype(DType::F32)?.broadcast_mul(&shares)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        let zero = || Tensor::zeros((count, self.positions.dims()[1]), DType::F32, device);
        Ok(sum.map_or_else(zero, Ok)?.to_dtype(self.positions.dtype())?)
    }

    /// For each of `count` positions along a side: its two neighbours in the table, and their shares.
    fn taps(&self, count: usize) -> Vec<[(usize, f32); 2]> {
        let last = self.side - 1;
        let tap = |index: usize| {
            let position = (index * last) as f32 / count.saturating_sub(1).max(1) as f32;
            let below = (position.floor() as usize).min(last);
            let share = position - below as f32;
            [(below, 1.0 - share), ((below + 1).min(last), share)]
        };
        (0..count).map(tap).collect()
    }
}

impl Block {
    fn load(weights: &Weights, name: &str, config: &VisionConfig) -> Result<Self, LoadError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |part: &str, inputs, outputs| {
            Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, Bias::Added)
        };
        Ok(Self {
            norm1: LayerNorm::load(weights, &format!("{name}.norm1"), width, EPS)?,
            attention: SelfAttention::load(weights, &format!("{name}.attn"), config)?,
            norm2: LayerNorm::load(weights, &format!("{name}.norm2"), width, EPS)?,
            linear_in: linear("mlp.linear_fc1", width, inner)?,
            linear_out: linear("mlp.linear_fc2", inner, width)?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor, ModelError> {
        let whole = 0..x.dims()[0];
        let mixed = self
            .attention
            .forward(&self.norm1.forward(x)?, std::slice::from_ref(&whole), rotary)?;
        let x = (x + mixed)?;
        let hidden = self.linear_in.forward(&self.norm2.forward(&x)?)?;
        Ok((&x
            + self
                .linear_out
                .forward(&self.activation.forward(self.linear_out.kernels(), &hidden)?)?)?)
    }
}

impl Merger {
    fn load(weights: &Weights, name: &str, config: &VisionConfig, norms: Norms) -> Result<Self, LoadError> {
        let width = config.merged_width();
        let normed = match norms {
            Norms::Patches => config.hidden_size,
            Norms::Squares => width,
        };
        let linear =
            |part: &str, outputs| Linear::load(weights, &format!("{name}.{part}"), width, outputs, Bias::Added);
        Ok(Self {
            norm: LayerNorm::load(weights, &format!("{name}.norm"), normed, EPS)?,
            norms,
            linear_in: linear("linear_fc1", width)?,
            linear_out: linear("linear_fc2", config.out_hidden_size)?,
            width,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let squares = match self.norms {
            Norms::Patches => self.norm.forward(x)?.reshape(((), self.width))?,
            Norms::Squares => self.norm.forward(&x.reshape(((), self.width))?)?,
        };
        let hidden = Activation::Gelu.forward(self.linear_in.kernels(), &self.linear_in.forward(&squares)?)?;
        self.linear_out.forward(&hidden)
    }
}
