//! The whole network on one backend.

use std::sync::Arc;

use candle_core::Tensor;

use super::block::{BlockSizes, DoubleBlock, DoubleTape, InputGradient, Pass, SingleBlock, SingleTape};
use super::config::FluxTransformerConfig;
use super::embedding::{Sinusoid, position_angles};
use crate::denoiser::engine::Network;
use crate::denoiser::loader::{AdaptableLinear, BoundAdapter, LayerSource, Loader};
use crate::denoiser::recent::Recent;
use crate::denoiser::{ActivationMemory, Grid, Input};
use crate::flux::{POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use crate::ops::{Backend, Layout, Modulation, Queries, Segment};
use crate::{LoadError, ModelError};

/// Two linear layers with a SiLU between them.
struct Embedder<S: LayerSource> {
    linear_1: S::Projection,
    linear_2: S::Projection,
}

impl<S: LayerSource> Embedder<S> {
    fn load(mut embedder: Loader<'_, S>, inputs: usize, dim: usize) -> Result<Self, LoadError> {
        Ok(Self {
            linear_1: embedder.fixed_linear("linear_1", inputs, dim)?,
            linear_2: embedder.fixed_linear("linear_2", dim, dim)?,
        })
    }
}

impl<B: Backend> Embedder<B> {
    fn forward(&self, backend: &B, x: &Tensor) -> Result<B::Array, ModelError> {
        let rows = 0..x.dim(0)?;
        let segment = |projection| {
            [Segment {
                rows: rows.clone(),
                projection,
                adapted: None,
            }]
        };
        let hidden = backend.linear(&backend.array(x)?, &segment(&self.linear_1))?;
        backend.linear(&backend.silu(&hidden)?, &segment(&self.linear_2))
    }
}

/// A FLUX transformer with its layers where `S` keeps them.
pub(super) struct FluxNetwork<S: LayerSource> {
    config: FluxTransformerConfig,
    timestep_embedder: Embedder<S>,
    guidance_embedder: Option<Embedder<S>>,
    pooled_embedder: Embedder<S>,
    x_embedder: AdaptableLinear<S>,
    context_embedder: AdaptableLinear<S>,
    double_blocks: Vec<DoubleBlock<S>>,
    single_blocks: Vec<SingleBlock<S>>,
    norm_out: S::Projection,
    proj_out: AdaptableLinear<S>,
    sinusoid: Sinusoid,
}

/// Channels of the sinusoidal embedding of timestep and guidance.
const SINUSOID_CHANNELS: usize = 256;

impl<S: LayerSource> FluxNetwork<S> {
    pub(super) fn load(mut root: Loader<'_, S>, config: FluxTransformerConfig) -> Result<Self, LoadError> {
        let dim = config.inner_dim();
        let sizes = BlockSizes {
            dim,
            head_dim: config.attention_head_dim,
        };
        let x_embedder = root.linear("x_embedder", config.in_channels, dim)?;
        let context_embedder = root.linear("context_embedder", config.joint_attention_dim, dim)?;
        let double_blocks = (0..config.num_layers)
            .map(|block| DoubleBlock::load(root.pp("transformer_blocks").pp(block), sizes))
            .collect::<Result<_, _>>()?;
        let single_blocks = (0..config.num_single_layers)
            .map(|block| {
                let last = block + 1 == config.num_single_layers;
                let queries = if last { Queries::Image } else { Queries::All };
                SingleBlock::load(root.pp("single_transformer_blocks").pp(block), sizes, queries)
            })
            .collect::<Result<_, _>>()?;
        let mut embed = root.pp("time_text_embed");
        let timestep_embedder = Embedder::load(embed.pp("timestep_embedder"), SINUSOID_CHANNELS, dim)?;
        let guidance_embedder = if config.guidance_embeds {
            Some(Embedder::load(embed.pp("guidance_embedder"), SINUSOID_CHANNELS, dim)?)
        } else {
            None
        };
        let pooled_embedder = Embedder::load(embed.pp("text_embedder"), config.pooled_projection_dim, dim)?;
        Ok(Self {
            timestep_embedder,
            guidance_embedder,
            pooled_embedder,
            x_embedder,
            context_embedder,
            double_blocks,
            single_blocks,
            norm_out: root.fixed_linear("norm_out.linear", dim, 2 * dim)?,
            proj_out: root.linear("proj_out", dim, config.velocity_channels())?,
            sinusoid: Sinusoid::new(SINUSOID_CHANNELS),
            config,
        })
    }

    /// The adaptable layers by stage: the embedders, each block, the output projection.
    fn stages(&self) -> Vec<Vec<&AdaptableLinear<S>>> {
        let mut stages = vec![vec![&self.x_embedder, &self.context_embedder]];
        stages.extend(self.double_blocks.iter().map(DoubleBlock::linears));
        stages.extend(self.single_blocks.iter().map(SingleBlock::linears));
        stages.push(vec![&self.proj_out]);
        stages
    }
}

/// What one block left for its backward.
enum BlockTape<A> {
    Input(A),
    Double(DoubleTape<A>),
    Single(SingleTape<A>),
}

/// What a pass left for its backward.
pub(super) struct FluxTape<B: Backend> {
    layout: Layout,
    embedding: B::Array,
    rotary: Arc<B::Rotary>,
    latents: B::Array,
    prompt_embeds: B::Array,
    blocks: Vec<BlockTape<B::Array>>,
    /// Image rows after the last block.
    last: B::Array,
}

/// A network with the tables that depend on the layout only.
pub(super) struct FluxOnBackend<B: Backend> {
    network: FluxNetwork<B>,
    /// By text tokens and grid.
    rotary: Recent<(usize, Grid), B::Rotary>,
}

impl<B: Backend> FluxOnBackend<B> {
    pub(super) fn new(network: FluxNetwork<B>) -> Self {
        Self {
            network,
            rotary: Recent::default(),
        }
    }

    /// SiLU of the sum of timestep, guidance and pooled embedding, (batch, dim).
    fn embedding(&self, backend: &B, input: &Input<'_>) -> Result<B::Array, ModelError> {
        let FluxNetwork {
            sinusoid,
            timestep_embedder,
            guidance_embedder,
            pooled_embedder,
            ..
        } = &self.network;
        let thousandfold = |values: &[f32]| values.iter().map(|value| value * 1000.0).collect::<Vec<f32>>();
        let mut sum = timestep_embedder.forward(backend, &sinusoid.embed(&thousandfold(input.sigma))?)?;
        if let (Some(embedder), Some(guidance)) = (guidance_embedder, input.guidance) {
            let guidance = vec![guidance; input.sigma.len()];
            let guidance = sinusoid.embed(&thousandfold(&guidance))?;
            sum = backend.add(sum, &embedder.forward(backend, &guidance)?)?;
        }
        let pooled = input.conditioning.get(POOLED_PROMPT_EMBEDS)?;
        let sum = backend.add(sum, &pooled_embedder.forward(backend, pooled)?)?;
        backend.silu(&sum)
    }

    /// The modulated output norm, and its modulation.
    fn normed_output(&self, pass: &Pass<B>, last: &B::Array) -> Result<(B::Array, B::Array), ModelError> {
        let chunks = pass.modulation(&self.network.norm_out)?;
        let modulation = Modulation {
            text: &chunks,
            image: &chunks,
        };
        let layout = pass.layout.image_only();
        let normed = pass
            .backend
            .modulated_norm(last, layout, modulation, OUT_SHIFT, OUT_SCALE)?;
        Ok((normed, chunks))
    }

    /// One block's backward; a block of which only the input was kept runs forward again first.
    fn block_vjp(
        &self,
        pass: &Pass<B>,
        index: usize,
        tape: BlockTape<B::Array>,
        grad: B::Array,
        input: InputGradient,
        gradients: &mut B::Gradients,
    ) -> Result<Option<B::Array>, ModelError> {
        match index.checked_sub(self.network.double_blocks.len()) {
            None => {
                let block = &self.network.double_blocks[index];
                let tape = match tape {
                    BlockTape::Double(tape) => tape,
                    BlockTape::Input(x) => block.forward(pass, x)?.1,
                    BlockTape::Single(_) => unreachable!("a tape lists its blocks in order"),
                };
                block.vjp(pass, tape, grad, input, gradients)
            }
            Some(index) => {
                let block = &self.network.single_blocks[index];
                let tape = match tape {
                    BlockTape::Single(tape) => tape,
                    BlockTape::Input(x) => block.forward(pass, x)?.1,
                    BlockTape::Double(_) => unreachable!("a tape lists its blocks in order"),
                };
                block.vjp(pass, tape, grad, input, gradients)
            }
        }
    }

    /// Where the first adapter lies among the [stages](FluxNetwork::stages): 0 in the embedders, `i + 1` in block `i`, and one more
    /// after the last block.
    fn first_adapted_stage(&self, adapter: &BoundAdapter<B>) -> usize {
        let stages = self.network.stages();
        stages
            .iter()
            .position(|linears| linears.iter().any(|linear| adapter.get(linear).is_some()))
            .unwrap_or(stages.len())
    }
}

impl<B: Backend> Network<B> for FluxOnBackend<B> {
    type Tape = FluxTape<B>;

    fn linears(&self) -> Vec<&AdaptableLinear<B>> {
        self.network.stages().concat()
    }

    fn tokens(&self, input: &Input<'_>) -> Result<usize, ModelError> {
        let text = input.conditioning.get(PROMPT_EMBEDS)?.dim(1)?;
        Ok(text + input.grid.tokens())
    }

    fn forward(
        &self,
        backend: &B,
        adapter: Option<&BoundAdapter<B>>,
        input: &Input<'_>,
        memory: Option<ActivationMemory>,
    ) -> Result<(B::Array, Option<FluxTape<B>>), ModelError> {
        let network = &self.network;
        let prompt_embeds = input.conditioning.get(PROMPT_EMBEDS)?;
        let layout = Layout {
            batch: input.sigma.len(),
            text: prompt_embeds.dim(1)?,
            image: input.grid.tokens(),
        };
        let rotary = self.rotary.get((layout.text, input.grid), || {
            let angles = position_angles(&network.config, layout.text, input.grid);
            backend.rotary(&angles, layout.text + layout.image)
        })?;
        let embedding = self.embedding(backend, input)?;
        let pass = Pass {
            backend,
            layout,
            rotary: &rotary,
            adapter,
            embedding: &embedding,
            dim: network.config.inner_dim(),
        };

        let (image_rows, text_rows) = (layout.image_rows().len(), layout.text_rows().len());
        let latents = backend.array(&input.latents.flatten(0, 1)?)?;
        let prompt_embeds = backend.array(&prompt_embeds.flatten(0, 1)?)?;
        let text = backend.linear(&prompt_embeds, &pass.joint(&network.context_embedder, text_rows))?;
        let image = backend.linear(&latents, &pass.joint(&network.x_embedder, image_rows))?;
        let mut x = backend.concat_rows(&text, &image)?;

        let mut blocks = Vec::new();
        for block in &network.double_blocks {
            x = step(&mut blocks, memory, x, |x| {
                let (output, tape) = block.forward(&pass, x)?;
                Ok((output, BlockTape::Double(tape)))
            })?;
        }
        for block in &network.single_blocks {
            x = step(&mut blocks, memory, x, |x| {
                let (output, tape) = block.forward(&pass, x)?;
                Ok((output, BlockTape::Single(tape)))
            })?;
        }
        let last = if network.single_blocks.is_empty() {
            backend.rows(&x, layout.image_rows())?
        } else {
            x
        };
        let normed = self.normed_output(&pass, &last)?.0;
        let velocity = backend.linear(&normed, &pass.joint(&network.proj_out, image_rows))?;
        let tape = memory.map(|_| FluxTape {
            layout,
            embedding,
            rotary,
            latents,
            prompt_embeds,
            blocks,
            last,
        });
        Ok((velocity, tape))
    }

    fn vjp(
        &self,
        backend: &B,
        adapter: &BoundAdapter<B>,
        tape: FluxTape<B>,
        grad: B::Array,
        gradients: &mut B::Gradients,
    ) -> Result<(), ModelError> {
        let FluxTape {
            layout,
            embedding,
            rotary,
            latents,
            prompt_embeds,
            mut blocks,
            last,
        } = tape;
        let network = &self.network;
        let pass = Pass {
            backend,
            layout,
            rotary: &rotary,
            adapter: Some(adapter),
            embedding: &embedding,
            dim: network.config.inner_dim(),
        };
        let image_rows = layout.image_rows().len();
        let first_needed = self.first_adapted_stage(adapter);

        let (normed, chunks) = self.normed_output(&pass, &last)?;
        let segments = pass.joint(&network.proj_out, image_rows);
        backend.lora_vjp(&normed, &segments, &grad, gradients)?;
        if first_needed > blocks.len() {
            return Ok(());
        }
        let modulation = Modulation {
            text: &chunks,
            image: &chunks,
        };
        let grad = backend.linear_vjp(&segments, &grad)?;
        let grad = backend.modulated_norm_vjp(&last, layout.image_only(), modulation, OUT_SCALE, &grad, None)?;
        let mut grad = if network.single_blocks.is_empty() {
            pass.with_silent_text(&grad)?
        } else {
            grad
        };

        while let Some(block) = blocks.pop() {
            let index = blocks.len();
            let input = if first_needed <= index {
                InputGradient::Needed
            } else {
                InputGradient::Unused
            };
            match self.block_vjp(&pass, index, block, grad, input, gradients)? {
                Some(input_grad) => grad = input_grad,
                None => return Ok(()),
            }
        }
        let text_rows = layout.text_rows();
        let grad_text = backend.rows(&grad, text_rows.clone())?;
        backend.lora_vjp(
            &prompt_embeds,
            &pass.joint(&network.context_embedder, text_rows.len()),
            &grad_text,
            gradients,
        )?;
        let grad_image = backend.rows(&grad, layout.image_rows())?;
        backend.lora_vjp(
            &latents,
            &pass.joint(&network.x_embedder, image_rows),
            &grad_image,
            gradients,
        )
    }
}

/// Chunks of the output norm's modulation; diffusers' `AdaLayerNormContinuous` has the scale first.
const OUT_SCALE: usize = 0;
const OUT_SHIFT: usize = 1;

/// Runs one block and keeps of it what `memory` says.
fn step<A: Clone>(
    blocks: &mut Vec<BlockTape<A>>,
    memory: Option<ActivationMemory>,
    x: A,
    forward: impl FnOnce(A) -> Result<(A, BlockTape<A>), ModelError>,
) -> Result<A, ModelError> {
    match memory {
        None => Ok(forward(x)?.0),
        Some(ActivationMemory::KeepAll) => {
            let (output, tape) = forward(x)?;
            blocks.push(tape);
            Ok(output)
        }
        Some(ActivationMemory::Checkpoint) => {
            blocks.push(BlockTape::Input(x.clone()));
            Ok(forward(x)?.0)
        }
    }
}
