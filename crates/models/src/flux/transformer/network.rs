//! The whole network on one backend.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::ActivationMemory;
use super::block::{Bound, DoubleBlock, DoubleTape, InputGradient, Linear, Pass, SingleBlock, SingleTape};
use super::config::{FluxTransformerConfig, ProjectionSpec};
use super::embedding::{position_angles, sinusoid};
use crate::ModelError;
use crate::load::{LoadError, Weights};
use crate::ops::{Backend, Conditioning, Factors, Layout, Queries, Segment};

/// Two linear layers with a SiLU between them.
struct Embedder<B: Backend> {
    linear_1: B::Projection,
    linear_2: B::Projection,
}

/// A FLUX transformer with its weights where `B` computes.
pub(super) struct Network<B: Backend> {
    config: FluxTransformerConfig,
    timestep_embedder: Embedder<B>,
    guidance_embedder: Option<Embedder<B>>,
    pooled_embedder: Embedder<B>,
    x_embedder: Linear<B>,
    context_embedder: Linear<B>,
    double_blocks: Vec<DoubleBlock<B>>,
    single_blocks: Vec<SingleBlock<B>>,
    norm_out: B::Projection,
    proj_out: Linear<B>,
}

/// The inputs of one pass as row-major values.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub(super) layout: Layout,
    pub(super) height_tokens: usize,
    pub(super) width_tokens: usize,
    /// (batch * image tokens, in_channels).
    pub(super) latents: &'a [f32],
    /// (batch * text tokens, joint_attention_dim).
    pub(super) prompt_embeds: &'a [f32],
    /// (batch, pooled_projection_dim).
    pub(super) pooled: &'a [f32],
    pub(super) sigma: &'a [f32],
    pub(super) guidance: Option<f32>,
}

/// What one block left for its backward.
enum BlockTape<A> {
    Input(A),
    Double(DoubleTape<A>),
    Single(SingleTape<A>),
}

/// What a pass left for its backward.
pub(super) struct NetworkTape<B: Backend> {
    layout: Layout,
    embedding: B::Array,
    rotary: B::Rotary,
    latents: B::Array,
    prompt_embeds: B::Array,
    blocks: Vec<BlockTape<B::Array>>,
    /// Image rows after the last block.
    last: B::Array,
}

impl<B: Backend> NetworkTape<B> {
    pub(super) fn samples(&self) -> usize {
        self.layout.batch
    }
}

/// Reads layers by name.
struct Loader<'a, B: Backend> {
    backend: &'a B,
    weights: &'a Weights,
    dir: &'a Path,
}

impl<B: Backend> Loader<'_, B> {
    fn failed(&self, error: ModelError) -> LoadError {
        let source = match error {
            ModelError::Candle(source) => source,
            other => candle_core::Error::Msg(other.to_string()),
        };
        LoadError::Candle {
            dir: self.dir.to_owned(),
            source,
        }
    }

    fn projection(&self, spec: &ProjectionSpec) -> Result<B::Projection, LoadError> {
        let mut weights = Vec::with_capacity(spec.parts.len());
        let mut biases = Vec::with_capacity(spec.parts.len());
        for (name, outputs) in &spec.parts {
            weights.push(self.weights.get(&format!("{name}.weight"), &[*outputs, spec.inputs])?);
            biases.push(self.weights.get(&format!("{name}.bias"), &[*outputs])?);
        }
        let join = |tensors: &[Tensor]| Tensor::cat(tensors, 0).map_err(|source| self.failed(source.into()));
        self.backend
            .projection(&join(&weights)?, &join(&biases)?)
            .map_err(|error| self.failed(error))
    }

    fn plain(&self, name: &str, inputs: usize, outputs: usize) -> Result<B::Projection, LoadError> {
        self.projection(&ProjectionSpec {
            inputs,
            parts: vec![(name.to_owned(), outputs)],
        })
    }

    fn embedder(&self, name: &str, inputs: usize, dim: usize) -> Result<Embedder<B>, LoadError> {
        Ok(Embedder {
            linear_1: self.plain(&format!("time_text_embed.{name}.linear_1"), inputs, dim)?,
            linear_2: self.plain(&format!("time_text_embed.{name}.linear_2"), dim, dim)?,
        })
    }

    fn head_norm(&self, query: &str, key: &str, head_dim: usize) -> Result<B::HeadNorm, LoadError> {
        let weight = |name: &str| self.weights.get(&format!("{name}.weight"), &[head_dim]);
        self.backend
            .head_norm(&weight(query)?, &weight(key)?)
            .map_err(|error| self.failed(error))
    }
}

/// Channels of the sinusoidal embedding of timestep and guidance.
const SINUSOID_CHANNELS: usize = 256;

impl<B: Backend> Network<B> {
    pub(super) fn load(
        backend: &B,
        config: FluxTransformerConfig,
        weights: &Weights,
        dir: &Path,
    ) -> Result<Self, LoadError> {
        let loader = Loader { backend, weights, dir };
        let (dim, head_dim) = (config.inner_dim(), config.attention_head_dim);
        let specs = config.projections();
        let mut linears = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            linears.push(Linear {
                index,
                projection: loader.projection(spec)?,
            });
        }
        let mut linears = linears.into_iter();
        #[expect(clippy::expect_used, reason = "`projections` lists exactly the layers taken here")]
        let mut next = || linears.next().expect("one layer per spec");

        let (x_embedder, context_embedder) = (next(), next());
        let mut double_blocks = Vec::with_capacity(config.num_layers);
        for block in 0..config.num_layers {
            let name = |part: &str| format!("transformer_blocks.{block}.{part}");
            double_blocks.push(DoubleBlock {
                text_modulation: loader.plain(&name("norm1_context.linear"), dim, 6 * dim)?,
                image_modulation: loader.plain(&name("norm1.linear"), dim, 6 * dim)?,
                text_norm: loader.head_norm(&name("attn.norm_added_q"), &name("attn.norm_added_k"), head_dim)?,
                image_norm: loader.head_norm(&name("attn.norm_q"), &name("attn.norm_k"), head_dim)?,
                text_qkv: next(),
                image_qkv: next(),
                text_out: next(),
                image_out: next(),
                text_ff_in: next(),
                image_ff_in: next(),
                text_ff_out: next(),
                image_ff_out: next(),
            });
        }
        let mut single_blocks = Vec::with_capacity(config.num_single_layers);
        for block in 0..config.num_single_layers {
            let name = |part: &str| format!("single_transformer_blocks.{block}.{part}");
            let last = block + 1 == config.num_single_layers;
            single_blocks.push(SingleBlock {
                modulation: loader.plain(&name("norm.linear"), dim, 3 * dim)?,
                norm: loader.head_norm(&name("attn.norm_q"), &name("attn.norm_k"), head_dim)?,
                qkv: next(),
                mlp: next(),
                out: next(),
                queries: if last { Queries::Image } else { Queries::All },
            });
        }
        let proj_out = next();
        let guidance_embedder = config
            .guidance_embeds
            .then(|| loader.embedder("guidance_embedder", SINUSOID_CHANNELS, dim))
            .transpose()?;
        Ok(Self {
            timestep_embedder: loader.embedder("timestep_embedder", SINUSOID_CHANNELS, dim)?,
            guidance_embedder,
            pooled_embedder: loader.embedder("text_embedder", config.pooled_projection_dim, dim)?,
            x_embedder,
            context_embedder,
            double_blocks,
            single_blocks,
            norm_out: loader.plain("norm_out.linear", dim, 2 * dim)?,
            proj_out,
            config,
        })
    }

    /// Brings an adapter to the device; `factors` by layer index.
    pub(super) fn bind(&self, backend: &B, factors: &BTreeMap<usize, Vec<Factors>>) -> Result<Bound<B>, ModelError> {
        let mut layers = Vec::new();
        layers.resize_with(3 + 8 * self.double_blocks.len() + 3 * self.single_blocks.len(), || None);
        let doubles = self.double_blocks.iter().flat_map(|block| {
            let qkv = [&block.text_qkv, &block.image_qkv, &block.text_out, &block.image_out];
            qkv.into_iter().chain([
                &block.text_ff_in,
                &block.image_ff_in,
                &block.text_ff_out,
                &block.image_ff_out,
            ])
        });
        let singles = self
            .single_blocks
            .iter()
            .flat_map(|block| [&block.qkv, &block.mlp, &block.out]);
        let ends = [&self.x_embedder, &self.context_embedder, &self.proj_out];
        for linear in doubles.chain(singles).chain(ends) {
            if let Some(factors) = factors.get(&linear.index) {
                layers[linear.index] = Some(backend.adapt(&linear.projection, factors)?);
            }
        }
        Ok(Bound { layers })
    }

    fn embed(backend: &B, embedder: &Embedder<B>, x: &B::Array, rows: usize) -> Result<B::Array, ModelError> {
        let segment = |projection| {
            [Segment {
                rows: 0..rows,
                projection,
                adapted: None,
            }]
        };
        let hidden = backend.linear(x, &segment(&embedder.linear_1))?;
        backend.linear(&backend.silu(&hidden)?, &segment(&embedder.linear_2))
    }

    /// SiLU of the sum of timestep, guidance and pooled embedding, (batch, dim).
    fn conditioning(&self, backend: &B, inputs: &Inputs) -> Result<B::Array, ModelError> {
        let batch = inputs.layout.batch;
        let sinusoids = |values: &[f32]| backend.array(&sinusoid(values, SINUSOID_CHANNELS), batch, SINUSOID_CHANNELS);
        let thousandfold = |values: &[f32]| values.iter().map(|value| value * 1000.0).collect::<Vec<f32>>();
        let mut sum = Self::embed(
            backend,
            &self.timestep_embedder,
            &sinusoids(&thousandfold(inputs.sigma))?,
            batch,
        )?;
        if let (Some(embedder), Some(guidance)) = (&self.guidance_embedder, inputs.guidance) {
            let guidance = sinusoids(&thousandfold(&vec![guidance; batch]))?;
            sum = backend.add(sum, &Self::embed(backend, embedder, &guidance, batch)?)?;
        }
        let pooled = backend.array(inputs.pooled, batch, self.config.pooled_projection_dim)?;
        let sum = backend.add(sum, &Self::embed(backend, &self.pooled_embedder, &pooled, batch)?)?;
        backend.silu(&sum)
    }

    /// Velocity (batch * image tokens, channels), and the tape if a backward will follow.
    pub(super) fn forward(
        &self,
        backend: &B,
        bound: Option<&Bound<B>>,
        inputs: &Inputs,
        memory: Option<ActivationMemory>,
    ) -> Result<(Vec<f32>, Option<NetworkTape<B>>), ModelError> {
        let (config, layout) = (&self.config, inputs.layout);
        let angles = position_angles(config, layout.text, inputs.height_tokens, inputs.width_tokens);
        let rotary = backend.rotary(&angles, layout.text + layout.image)?;
        let embedding = self.conditioning(backend, inputs)?;
        let dim = config.inner_dim();
        let pass = Pass {
            backend,
            layout,
            rotary: &rotary,
            bound,
            embedding: &embedding,
            dim,
        };

        let (image_rows, text_rows) = (layout.image_rows().len(), layout.text_rows().len());
        let latents = backend.array(inputs.latents, image_rows, config.in_channels)?;
        let prompt_embeds = backend.array(inputs.prompt_embeds, text_rows, config.joint_attention_dim)?;
        let text = backend.linear(&prompt_embeds, &pass.joint(&self.context_embedder, text_rows))?;
        let image = backend.linear(&latents, &pass.joint(&self.x_embedder, image_rows))?;
        let mut x = backend.concat_rows(&text, &image)?;

        let mut blocks = Vec::new();
        for block in &self.double_blocks {
            x = step(&mut blocks, memory, x, |x| {
                let (output, tape) = block.forward(&pass, x)?;
                Ok((output, BlockTape::Double(tape)))
            })?;
        }
        for block in &self.single_blocks {
            x = step(&mut blocks, memory, x, |x| {
                let (output, tape) = block.forward(&pass, x)?;
                Ok((output, BlockTape::Single(tape)))
            })?;
        }
        let last = if self.single_blocks.is_empty() {
            backend.rows(&x, layout.image_rows())?
        } else {
            x
        };
        let normed = self.normed_output(&pass, &last)?.0;
        let velocity = backend.values(&backend.linear(&normed, &pass.joint(&self.proj_out, image_rows))?)?;
        let tape = memory.map(|_| NetworkTape {
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

    /// The modulated output norm, and its modulation.
    fn normed_output(&self, pass: &Pass<B>, last: &B::Array) -> Result<(B::Array, B::Array), ModelError> {
        let modulation = pass.modulation(&self.norm_out)?;
        let conditioning = Conditioning {
            text: &modulation,
            image: &modulation,
        };
        let layout = pass.layout.image_only();
        let normed = pass
            .backend
            .modulated_norm(last, layout, conditioning, OUT_SHIFT, OUT_SCALE)?;
        Ok((normed, modulation))
    }

    /// Adds the adapter's gradients to `gradients`.
    pub(super) fn vjp(
        &self,
        backend: &B,
        bound: &Bound<B>,
        tape: NetworkTape<B>,
        grad_velocity: &[f32],
        gradients: &mut [f32],
    ) -> Result<(), ModelError> {
        let NetworkTape {
            layout,
            embedding,
            rotary,
            latents,
            prompt_embeds,
            mut blocks,
            last,
        } = tape;
        let dim = self.config.inner_dim();
        let pass = Pass {
            backend,
            layout,
            rotary: &rotary,
            bound: Some(bound),
            embedding: &embedding,
            dim,
        };
        let image_rows = layout.image_rows().len();
        let first_needed = self.first_adapted_stage(bound);

        let grad = backend.array(grad_velocity, image_rows, self.config.velocity_channels())?;
        let (normed, modulation) = self.normed_output(&pass, &last)?;
        let segments = pass.joint(&self.proj_out, image_rows);
        backend.lora_vjp(&normed, &segments, &grad, gradients)?;
        if first_needed > blocks.len() {
            return Ok(());
        }
        let conditioning = Conditioning {
            text: &modulation,
            image: &modulation,
        };
        let grad = backend.linear_vjp(&segments, &grad)?;
        let grad = backend.modulated_norm_vjp(&last, layout.image_only(), conditioning, OUT_SCALE, &grad, None)?;
        let mut grad = if self.single_blocks.is_empty() {
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
            &pass.joint(&self.context_embedder, text_rows.len()),
            &grad_text,
            gradients,
        )?;
        let grad_image = backend.rows(&grad, layout.image_rows())?;
        backend.lora_vjp(
            &latents,
            &pass.joint(&self.x_embedder, image_rows),
            &grad_image,
            gradients,
        )
    }

    /// One block's backward; a block of which only the input was kept runs forward again first.
    fn block_vjp(
        &self,
        pass: &Pass<B>,
        index: usize,
        tape: BlockTape<B::Array>,
        grad: B::Array,
        input: InputGradient,
        gradients: &mut [f32],
    ) -> Result<Option<B::Array>, ModelError> {
        match index.checked_sub(self.double_blocks.len()) {
            None => {
                let block = &self.double_blocks[index];
                let tape = match tape {
                    BlockTape::Double(tape) => tape,
                    BlockTape::Input(x) => block.forward(pass, x)?.1,
                    BlockTape::Single(_) => unreachable!("a tape lists its blocks in order"),
                };
                block.vjp(pass, tape, grad, input, gradients)
            }
            Some(index) => {
                let block = &self.single_blocks[index];
                let tape = match tape {
                    BlockTape::Single(tape) => tape,
                    BlockTape::Input(x) => block.forward(pass, x)?.1,
                    BlockTape::Double(_) => unreachable!("a tape lists its blocks in order"),
                };
                block.vjp(pass, tape, grad, input, gradients)
            }
        }
    }

    /// Where the first adapter lies: 0 in the embedders, `i + 1` in block `i`, and one more after the last block.
    fn first_adapted_stage(&self, bound: &Bound<B>) -> usize {
        let first = bound
            .layers
            .iter()
            .position(Option::is_some)
            .unwrap_or(bound.layers.len());
        let singles_from = 2 + 8 * self.double_blocks.len();
        match first {
            0 | 1 => 0,
            _ if first < singles_from => 1 + (first - 2) / 8,
            _ => 1 + self.double_blocks.len() + (first - singles_from) / 3,
        }
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

/// The values of a tensor as float32 in row-major order.
pub(super) fn to_f32(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
