//! The whole network on one backend.

use std::sync::Arc;

use candle_core::Tensor;

use super::config::QwenImageTransformerConfig;
use super::embedding::positions;
use crate::denoiser::block::{
    BlockSizes, DoubleBlock, DoubleNames, DoubleTape, InputGradient, InputLayers, Kept, OutputLayers, Pass,
    StreamInputs, step,
};
use crate::denoiser::cache::Recent;
use crate::denoiser::embedding::{Embedder, Sinusoid, rotary_angles};
use crate::denoiser::engine::Network;
use crate::denoiser::loader::{AdaptableLinear, BoundAdapter, LayerSource, Loader};
use crate::denoiser::{ActivationMemory, Conditioning, Grid, Input};
use crate::load::Placement;
use crate::ops::{Backend, Layout, Queries};
use crate::qwen::{PROMPT_EMBEDS, source_latents};
use crate::{LoadError, ModelError};

/// A Qwen-Image transformer with its layers where `S` keeps them.
pub(super) struct QwenImageNetwork<S: LayerSource> {
    config: QwenImageTransformerConfig,
    timestep_embedder: Embedder<S>,
    text_norm: S::RmsNorm,
    input: InputLayers<S>,
    blocks: Vec<DoubleBlock<S>>,
    output: OutputLayers<S>,
    sinusoid: Sinusoid,
}

/// What Qwen-Image calls the layers of a block.
const NAMES: DoubleNames = DoubleNames {
    text_modulation: "txt_mod.1",
    image_modulation: "img_mod.1",
    text_ff: "txt_mlp",
    image_ff: "img_mlp",
};

/// Channels of the sinusoidal embedding of the timestep.
const SINUSOID_CHANNELS: usize = 256;

impl<S: LayerSource> QwenImageNetwork<S> {
    pub(super) fn load(mut root: Loader<'_, S>, config: QwenImageTransformerConfig) -> Result<Self, LoadError> {
        let dim = config.inner_dim();
        let sizes = BlockSizes {
            dim,
            head_dim: config.attention_head_dim,
        };
        let mut embed = root.pp("time_text_embed");
        let timestep_embedder = Embedder::load(embed.pp("timestep_embedder"), SINUSOID_CHANNELS, dim)?;
        let text_norm = root.rms_norm("txt_norm", config.joint_attention_dim)?;
        let image = ("img_in", config.in_channels);
        let text = ("txt_in", config.joint_attention_dim);
        let input = InputLayers::load(&mut root, image, text, dim)?;
        let blocks = (0..config.num_layers)
            .map(|block| {
                let last = block + 1 == config.num_layers;
                let queries = if last { Queries::Image } else { Queries::All };
                DoubleBlock::load(root.block("transformer_blocks", block), NAMES, sizes, queries)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            timestep_embedder,
            text_norm,
            input,
            blocks,
            output: OutputLayers::load(&mut root, dim, config.in_channels)?,
            sinusoid: Sinusoid::new(SINUSOID_CHANNELS),
            config,
        })
    }

    /// The adaptable layers by stage: the input layers, each block, the output layers.
    fn stages(&self) -> Vec<Vec<&AdaptableLinear<S>>> {
        let mut stages = vec![self.input.linears()];
        stages.extend(self.blocks.iter().map(DoubleBlock::linears));
        stages.push(self.output.linears());
        stages
    }
}

/// The latents of all sources of a batch, each (batch, rows, columns, channels), in their order.
fn sources(conditioning: &Conditioning) -> impl Iterator<Item = &Tensor> {
    (0..).map_while(|index| conditioning.get(&source_latents(index)).ok())
}

/// How the tokens of each source lie.
fn source_grids(conditioning: &Conditioning) -> Result<Vec<Grid>, ModelError> {
    sources(conditioning)
        .map(|source| {
            let (_, height, width, _) = source.dims4()?;
            Ok(Grid { height, width })
        })
        .collect()
}

/// SiLU of the embedding of the time, (batch, dim).
struct Embeddings<A> {
    time: A,
    /// At time 0, where the sources are modulated so.
    zero: Option<A>,
}

/// What a pass left for its backward.
pub(super) struct QwenImageTape<B: Backend> {
    layout: Layout,
    embeddings: Embeddings<B::Array>,
    rotary: Arc<B::Rotary>,
    inputs: StreamInputs<B::Array>,
    blocks: Vec<Kept<B::Array, DoubleTape<B::Array>>>,
    /// Target rows after the last block.
    last: B::Array,
}

/// A network with the tables that depend on the layout only.
pub(super) struct QwenImageOnBackend<B: Backend> {
    network: QwenImageNetwork<B>,
    /// Of the frozen weights: where and in what the norm of the text reads its input.
    placement: Placement,
    /// By text tokens, and grids of target and sources.
    rotary: Recent<(usize, Grid, Vec<Grid>), B::Rotary>,
}

impl<B: Backend> QwenImageOnBackend<B> {
    pub(super) fn new(network: QwenImageNetwork<B>, placement: Placement) -> Self {
        Self {
            network,
            placement,
            rotary: Recent::default(),
        }
    }

    fn pass<'a>(
        &'a self,
        backend: &'a B,
        layout: Layout,
        rotary: &'a B::Rotary,
        adapter: Option<&'a BoundAdapter<B>>,
        embeddings: &'a Embeddings<B::Array>,
    ) -> Pass<'a, B> {
        Pass {
            backend,
            layout,
            rotary,
            adapter,
            embedding: &embeddings.time,
            source_embedding: embeddings.zero.as_ref(),
            dim: self.network.config.inner_dim(),
        }
    }

    fn embeddings(&self, backend: &B, input: &Input<'_>, layout: Layout) -> Result<Embeddings<B::Array>, ModelError> {
        let embedding = |timesteps: Vec<f32>| {
            let sinusoids = self.network.sinusoid.embed(&timesteps)?;
            backend.silu(&self.network.timestep_embedder.forward(backend, &sinusoids)?)
        };
        let apart = self.network.config.zero_cond_t && layout.source > 0;
        Ok(Embeddings {
            time: embedding(input.sigma.iter().map(|sigma| sigma * 1000.0).collect())?,
            zero: apart.then(|| embedding(vec![0.0; layout.batch])).transpose()?,
        })
    }

    /// The normed states of the text encoder, and the latents of target and sources, sample by sample.
    fn inputs(&self, backend: &B, input: &Input<'_>) -> Result<StreamInputs<B::Array>, ModelError> {
        let text = input.conditioning.get(PROMPT_EMBEDS)?.flatten(0, 1)?;
        let device = self.placement.device();
        let text = text.to_device(device)?.to_dtype(self.placement.dtype())?.contiguous()?;
        let mut pictures = vec![input.latents.to_device(device)?];
        for source in sources(input.conditioning) {
            pictures.push(source.to_device(device)?.flatten(1, 2)?);
        }
        Ok(StreamInputs {
            text: backend.array(&self.network.text_norm.forward(&text)?)?,
            image: backend.array(&Tensor::cat(&pictures, 1)?.flatten(0, 1)?)?,
        })
    }
}

impl<B: Backend> Network<B> for QwenImageOnBackend<B> {
    type Tape = QwenImageTape<B>;

    fn linears(&self) -> Vec<&AdaptableLinear<B>> {
        self.network.stages().concat()
    }

    fn tokens(&self, input: &Input<'_>) -> Result<usize, ModelError> {
        let text = input.conditioning.get(PROMPT_EMBEDS)?.dim(1)?;
        let source = source_grids(input.conditioning)?.into_iter().map(Grid::tokens);
        Ok(text + input.grid.tokens() + source.sum::<usize>())
    }

    fn forward(
        &self,
        backend: &B,
        adapter: Option<&BoundAdapter<B>>,
        input: &Input<'_>,
        memory: Option<ActivationMemory>,
    ) -> Result<(B::Array, Option<QwenImageTape<B>>), ModelError> {
        let network = &self.network;
        let source_grids = source_grids(input.conditioning)?;
        let source = source_grids.iter().map(|grid| grid.tokens()).sum();
        let layout = Layout {
            batch: input.sigma.len(),
            text: input.conditioning.get(PROMPT_EMBEDS)?.dim(1)?,
            image: input.grid.tokens() + source,
            source,
        };
        let rotary = self.rotary.get((layout.text, input.grid, source_grids.clone()), || {
            let positions = positions(layout.text, input.grid, &source_grids);
            let tokens = positions.len();
            backend.rotary(&rotary_angles(&network.config.axes_dims_rope, positions), tokens)
        })?;
        let embeddings = self.embeddings(backend, input, layout)?;
        let inputs = self.inputs(backend, input)?;
        let pass = self.pass(backend, layout, &rotary, adapter, &embeddings);

        let mut x = network.input.forward(&pass, &inputs)?;
        let mut blocks = Vec::new();
        for block in &network.blocks {
            x = step(&mut blocks, memory, x, |x| block.forward(&pass, x))?;
        }
        let last = pass.target_rows(x)?;
        let velocity = network.output.forward(&pass, &last)?;
        let tape = memory.map(|_| QwenImageTape {
            layout,
            embeddings,
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
        tape: QwenImageTape<B>,
        grad: B::Array,
        gradients: &mut B::Gradients,
    ) -> Result<(), ModelError> {
        let QwenImageTape {
            layout,
            embeddings,
            rotary,
            inputs,
            mut blocks,
            last,
        } = tape;
        let network = &self.network;
        let pass = self.pass(backend, layout, &rotary, Some(adapter), &embeddings);
        let first_adapted = adapter.first_stage(&network.stages());

        let input = InputGradient::of_stage(blocks.len() + 1, first_adapted);
        let Some(grad) = network.output.vjp(&pass, &last, &grad, input, gradients)? else {
            return Ok(());
        };
        let mut grad = pass.with_silent_sources(grad)?;
        while let Some(kept) = blocks.pop() {
            let index = blocks.len();
            let block = &network.blocks[index];
            let tape = kept.tape(|x| block.forward(&pass, x))?;
            let input = InputGradient::of_stage(index + 1, first_adapted);
            match block.vjp(&pass, tape, grad, input, gradients)? {
                Some(input_grad) => grad = input_grad,
                None => return Ok(()),
            }
        }
        network.input.vjp(&pass, &inputs, &grad, gradients)
    }
}
