//! The whole network on one backend.

use std::sync::Arc;

use super::config::FluxTransformerConfig;
use super::single::{SingleBlock, SingleTape};
use crate::denoiser::block::{
    BlockSizes, DoubleBlock, DoubleNames, DoubleTape, InputGradient, InputLayers, Kept, OutputLayers, Pass,
    StreamInputs, step,
};
use crate::denoiser::cache::Recent;
use crate::denoiser::embedding::{Embedder, Position, Sinusoid, rotary_angles};
use crate::denoiser::engine::Network;
use crate::denoiser::loader::{AdaptableLinear, BoundAdapter, LayerSource, Loader};
use crate::denoiser::{ActivationMemory, Grid, Input};
use crate::flux::{POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use crate::ops::{Backend, Layout, Queries};
use crate::{LoadError, ModelError};

/// A FLUX transformer with its layers where `S` keeps them.
pub(super) struct FluxNetwork<S: LayerSource> {
    config: FluxTransformerConfig,
    timestep_embedder: Embedder<S>,
    guidance_embedder: Option<Embedder<S>>,
    pooled_embedder: Embedder<S>,
    input: InputLayers<S>,
    double_blocks: Vec<DoubleBlock<S>>,
    single_blocks: Vec<SingleBlock<S>>,
    output: OutputLayers<S>,
    sinusoid: Sinusoid,
}

/// What FLUX calls the layers of a double block.
const NAMES: DoubleNames = DoubleNames {
    text_modulation: "norm1_context.linear",
    image_modulation: "norm1.linear",
    text_ff: "ff_context",
    image_ff: "ff",
};

/// Where the tokens stand: text at (0, 0, 0), the image token in row r and column c at (0, r, c), as in diffusers' `FluxPipeline`.
fn positions(text: usize, grid: Grid) -> impl Iterator<Item = Position> {
    let columns = 0..grid.width as i64;
    let image = (0..grid.height as i64).flat_map(move |row| columns.clone().map(move |column| [0, row, column]));
    std::iter::repeat_n([0; 3], text).chain(image)
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
        let image = ("x_embedder", config.in_channels);
        let text = ("context_embedder", config.joint_attention_dim);
        let input = InputLayers::load(&mut root, image, text, dim)?;
        let double_blocks = (0..config.num_layers)
            .map(|block| DoubleBlock::load(root.block("transformer_blocks", block), NAMES, sizes, Queries::All))
            .collect::<Result<_, _>>()?;
        let single_blocks = (0..config.num_single_layers)
            .map(|block| {
                let last = block + 1 == config.num_single_layers;
                let queries = if last { Queries::Image } else { Queries::All };
                SingleBlock::load(root.block("single_transformer_blocks", block), sizes, queries)
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
            input,
            double_blocks,
            single_blocks,
            output: OutputLayers::load(&mut root, dim, config.velocity_channels())?,
            sinusoid: Sinusoid::new(SINUSOID_CHANNELS),
            config,
        })
    }

    /// The adaptable layers by stage: the embedders, each block, the output projection.
    fn stages(&self) -> Vec<Vec<&AdaptableLinear<S>>> {
        let mut stages = vec![self.input.linears()];
        stages.extend(self.double_blocks.iter().map(DoubleBlock::linears));
        stages.extend(self.single_blocks.iter().map(SingleBlock::linears));
        stages.push(self.output.linears());
        stages
    }
}

/// What the backward of one block reads.
enum BlockTape<A> {
    Double(DoubleTape<A>),
    Single(SingleTape<A>),
}

/// What a pass left for its backward.
pub(super) struct FluxTape<B: Backend> {
    layout: Layout,
    embedding: B::Array,
    rotary: Arc<B::Rotary>,
    inputs: StreamInputs<B::Array>,
    blocks: Vec<Kept<B::Array, BlockTape<B::Array>>>,
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

    /// One block's forward: (output, tape).
    fn block(&self, pass: &Pass<B>, index: usize, x: B::Array) -> Result<(B::Array, BlockTape<B::Array>), ModelError> {
        match index.checked_sub(self.network.double_blocks.len()) {
            None => {
                let (output, tape) = self.network.double_blocks[index].forward(pass, x)?;
                Ok((output, BlockTape::Double(tape)))
            }
            Some(single) => {
                let (output, tape) = self.network.single_blocks[single].forward(pass, x)?;
                Ok((output, BlockTape::Single(tape)))
            }
        }
    }

    /// One block's backward; a block of which only the input was kept runs forward again first.
    fn block_vjp(
        &self,
        pass: &Pass<B>,
        index: usize,
        kept: Kept<B::Array, BlockTape<B::Array>>,
        grad: B::Array,
        input: InputGradient,
        gradients: &mut B::Gradients,
    ) -> Result<Option<B::Array>, ModelError> {
        match kept.tape(|x| self.block(pass, index, x))? {
            BlockTape::Double(tape) => {
                let block = &self.network.double_blocks[index];
                block.vjp(pass, tape, grad, input, gradients)
            }
            BlockTape::Single(tape) => {
                let block = &self.network.single_blocks[index - self.network.double_blocks.len()];
                block.vjp(pass, tape, grad, input, gradients)
            }
        }
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
            source: 0,
        };
        let rotary = self.rotary.get((layout.text, input.grid), || {
            let angles = rotary_angles(&network.config.axes_dims_rope, positions(layout.text, input.grid));
            backend.rotary(&angles, layout.text + layout.image)
        })?;
        let embedding = self.embedding(backend, input)?;
        let pass = Pass {
            backend,
            layout,
            rotary: &rotary,
            adapter,
            embedding: &embedding,
            source_embedding: None,
            dim: network.config.inner_dim(),
        };

        let inputs = StreamInputs {
            text: backend.array(&prompt_embeds.flatten(0, 1)?)?,
            image: backend.array(&input.latents.flatten(0, 1)?)?,
        };
        let mut x = network.input.forward(&pass, &inputs)?;
        let mut blocks = Vec::new();
        for index in 0..network.double_blocks.len() + network.single_blocks.len() {
            x = step(&mut blocks, memory, x, |x| self.block(&pass, index, x))?;
        }
        let last = if network.single_blocks.is_empty() {
            backend.rows(&x, layout.image_rows())?
        } else {
            x
        };
        let velocity = network.output.forward(&pass, &last)?;
        let tape = memory.map(|_| FluxTape {
            layout,
            embedding,
            rotary,
            inputs,
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
            inputs,
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
            source_embedding: None,
            dim: network.config.inner_dim(),
        };
        let first_adapted = adapter.first_stage(&network.stages());

        let input = InputGradient::of_stage(blocks.len() + 1, first_adapted);
        let Some(grad) = network.output.vjp(&pass, &last, &grad, input, gradients)? else {
            return Ok(());
        };
        let mut grad = if network.single_blocks.is_empty() {
            pass.with_silent_text(&grad)?
        } else {
            grad
        };

        while let Some(block) = blocks.pop() {
            let index = blocks.len();
            let input = InputGradient::of_stage(index + 1, first_adapted);
            match self.block_vjp(&pass, index, block, grad, input, gradients)? {
                Some(input_grad) => grad = input_grad,
                None => return Ok(()),
            }
        }
        network.input.vjp(&pass, &inputs, &grad, gradients)
    }
}
