//! The FLUX transformer: diffusers' `FluxTransformer2DModel`, with LoRA and the gradients of LoRA.
//!
//! Forward and backward are hand-written per block. The sampler and the trainer call the same forward, and a sample's
//! result does not depend on the other samples of its batch, so that the policy ratio of a trainer that has not yet
//! stepped is exactly 1.

mod block;
mod config;
mod denoise;
mod embedding;
mod network;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::ModelError;
pub use crate::denoiser::ActivationMemory;
use crate::load::{LoadError, Weights};
use crate::lora::{AdaptableLayers, LoraAdapter, LoraGradients};
use crate::ops::Layout;
use crate::ops::candle::Reference;
use crate::ops::cpu::{Cpu, Split};
use block::Bound;
pub use config::FluxTransformerConfig;
use network::{Inputs, Network, NetworkTape, to_f32};

/// The layers that the configuration implies.
pub(super) fn layers(config: &FluxTransformerConfig) -> AdaptableLayers {
    let mut layers = AdaptableLayers::default();
    for spec in config.projections() {
        layers.add(spec.inputs, spec.parts);
    }
    config
        .fixed_linears()
        .into_iter()
        .for_each(|path| layers.add_fixed(path));
    layers
}

/// What a forward pass reads.
#[derive(Debug, Clone)]
pub struct TransformerInput {
    /// Packed latents (batch, height_tokens * width_tokens, in_channels), any float dtype.
    pub latents: Tensor,
    /// Prompt embeddings (batch, text tokens, joint_attention_dim).
    pub prompt_embeds: Tensor,
    /// Pooled prompt embeddings (batch, pooled_projection_dim).
    pub pooled_prompt_embeds: Tensor,
    /// Noise level of each sample (batch,), in (0, 1]; diffusers' timestep / 1000.
    pub sigma: Tensor,
    /// Guidance scale; needed if the model has `guidance_embeds`, without effect (as in diffusers' pipeline) if it has not.
    pub guidance: Option<f32>,
    /// Latent tokens per column of the picture.
    pub height_tokens: usize,
    /// Latent tokens per row of the picture.
    pub width_tokens: usize,
}

/// What [`FluxTransformer::velocity_for_vjp`] left for [`FluxTransformer::vjp`].
pub struct Tape {
    /// Shape of the velocity.
    shape: (usize, usize, usize),
    parts: Parts,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("Tape")
            .field("velocity_shape", &self.shape)
            .finish_non_exhaustive()
    }
}

enum Parts {
    /// One tape per chunk of the batch.
    Cpu(Vec<NetworkTape<Cpu>>),
    Reference(Box<NetworkTape<Reference>>),
}

/// The one place where the implementation is chosen.
enum Engine {
    Cpu(Box<Network<Cpu>>),
    Reference(Reference, Box<Network<Reference>>),
}

/// A frozen FLUX transformer.
pub struct FluxTransformer {
    config: FluxTransformerConfig,
    layers: AdaptableLayers,
    device: Device,
    engine: Engine,
    /// Tells this instance's adapted weights from another's.
    id: u64,
}

impl std::fmt::Debug for FluxTransformer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("FluxTransformer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Rows that a chunk of the batch should not exceed by much, so that its activations stay in the cache.
const CHUNK_ROWS: usize = 320;

/// Chunks that a batch is cut into at least, if it has so many samples.
const CHUNKS_MIN: usize = 4;

/// Cuts a batch into chunks. The cut decides the order in which gradients are summed, so it depends on sizes only, never on
/// the number of threads.
fn chunks(batch: usize, tokens: usize) -> Vec<Range<usize>> {
    let count = (batch * tokens).div_ceil(CHUNK_ROWS).max(CHUNKS_MIN).min(batch);
    (0..count)
        .map(|chunk| chunk * batch / count..(chunk + 1) * batch / count)
        .collect()
}

impl FluxTransformer {
    /// Reads `config.json` and the weights, single or sharded, of a diffusers `transformer` folder.
    ///
    /// On the CPU in float32 the fused kernels compute; they hold the linear weights in both orders, which doubles their memory.
    /// Any other device or dtype is served by plain candle operations.
    ///
    /// # Errors
    /// [`LoadError`] when a file is missing or damaged, a tensor is missing, misshapen or unused, or the configuration is one
    /// that FLUX does not have.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self, LoadError> {
        let fused = device.is_cpu() && dtype == DType::F32;
        Self::open(dir, device, dtype, |weights, config| {
            Ok(if fused {
                Engine::Cpu(Box::new(Network::load(
                    &Cpu { split: Split::Rows },
                    config,
                    weights,
                    dir,
                )?))
            } else {
                Self::reference_engine(dir, device, dtype, weights, config)?
            })
        })
    }

    /// The same with plain candle operations on every device: what the fused kernels are checked against.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_reference(dir: &Path, device: &Device, dtype: DType) -> Result<Self, LoadError> {
        Self::open(dir, device, dtype, |weights, config| {
            Self::reference_engine(dir, device, dtype, weights, config)
        })
    }

    fn reference_engine(
        dir: &Path,
        device: &Device,
        dtype: DType,
        weights: &Weights,
        config: FluxTransformerConfig,
    ) -> Result<Engine, LoadError> {
        let backend = Reference {
            device: device.clone(),
            dtype,
        };
        let network = Network::load(&backend, config, weights, dir)?;
        Ok(Engine::Reference(backend, Box::new(network)))
    }

    fn open(
        dir: &Path,
        device: &Device,
        dtype: DType,
        engine: impl FnOnce(&Weights, FluxTransformerConfig) -> Result<Engine, LoadError>,
    ) -> Result<Self, LoadError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let config = FluxTransformerConfig::read(dir)?;
        let weights = Weights::open(dir, device, dtype)?;
        let engine = engine(&weights, config.clone())?;
        weights.finish(&[])?;
        let layers = layers(&config);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            config,
            layers,
            device: device.clone(),
            engine,
            id,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &FluxTransformerConfig {
        &self.config
    }

    /// Predicts the velocity of each sample.
    ///
    /// # Shapes
    /// See [`TransformerInput`]; returns (batch, tokens, channels) float32 on the model's device. `adapter: None` is the base
    /// policy.
    ///
    /// # Errors
    /// [`ModelError::Shape`] or [`ModelError::Value`] when an input does not fit the model.
    ///
    /// # Source
    /// diffusers 0.42 `FluxTransformer2DModel.forward`. Deviations: norms and softmax in float32 whatever the dtype; the
    /// last single block computes no text output, because nobody reads it.
    pub fn velocity(&self, adapter: Option<&LoraAdapter>, input: &TransformerInput) -> Result<Tensor, ModelError> {
        Ok(self.forward(adapter, input, None)?.0)
    }

    /// The same, keeping what the backward needs.
    ///
    /// # Errors
    /// As [`Self::velocity`].
    pub fn velocity_for_vjp(
        &self,
        adapter: &LoraAdapter,
        input: &TransformerInput,
        memory: ActivationMemory,
    ) -> Result<(Tensor, Tape), ModelError> {
        let (velocity, shape, parts) = self.forward(Some(adapter), input, Some(memory))?;
        match parts {
            Some(parts) => Ok((velocity, Tape { shape, parts })),
            None => unreachable!("a forward with an activation memory returns a tape"),
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "velocity, its shape, and the tape if one was asked for"
    )]
    fn forward(
        &self,
        adapter: Option<&LoraAdapter>,
        input: &TransformerInput,
        memory: Option<ActivationMemory>,
    ) -> Result<(Tensor, (usize, usize, usize), Option<Parts>), ModelError> {
        let values = InputValues::new(&self.config, input)?;
        let (velocity, parts) = match &self.engine {
            Engine::Cpu(network) => {
                let bound = adapter
                    .map(|adapter| self.bind(&Cpu { split: Split::Rows }, network, adapter))
                    .transpose()?;
                let plan = chunks(values.batch, values.text + values.image);
                let backend = Cpu {
                    split: split(plan.len()),
                };
                let results: Vec<_> = plan
                    .into_par_iter()
                    .map(|samples| network.forward(&backend, bound.as_deref(), &values.chunk(samples), memory))
                    .collect::<Result<_, _>>()?;
                let mut velocity = Vec::with_capacity(values.batch * values.image * self.config.velocity_channels());
                let mut tapes = Vec::with_capacity(results.len());
                for (chunk, tape) in results {
                    velocity.extend(chunk);
                    tapes.extend(tape);
                }
                (velocity, Parts::Cpu(tapes))
            }
            Engine::Reference(backend, network) => {
                let bound = adapter
                    .map(|adapter| self.bind(backend, network, adapter))
                    .transpose()?;
                let inputs = values.chunk(0..values.batch);
                let (velocity, tape) = network.forward(backend, bound.as_deref(), &inputs, memory)?;
                match tape {
                    Some(tape) => (velocity, Parts::Reference(Box::new(tape))),
                    None => (velocity, Parts::Cpu(Vec::new())),
                }
            }
        };
        let shape = (values.batch, values.image, self.config.velocity_channels());
        Ok((
            Tensor::from_vec(velocity, shape, &self.device)?,
            shape,
            memory.map(|_| parts),
        ))
    }

    /// Adds the gradient of sum(velocity * `grad_velocity`) with respect to the adapter's weights to `gradients`.
    ///
    /// `adapter` must hold the weights that the forward ran with. `grad_velocity` has the velocity's shape, any float dtype.
    /// Samples are summed in an order that depends on the sizes only.
    ///
    /// # Errors
    /// [`ModelError::Shape`] when `grad_velocity` does not fit, [`ModelError::Value`] when `gradients` or the tape belong to
    /// another adapter or transformer.
    pub fn vjp(
        &self,
        adapter: &LoraAdapter,
        tape: Tape,
        grad_velocity: &Tensor,
        gradients: &mut LoraGradients,
    ) -> Result<(), ModelError> {
        let Tape {
            shape: (batch, tokens, channels),
            parts,
        } = tape;
        if grad_velocity.dims() != [batch, tokens, channels] {
            let expected = format!("the velocity's ({batch}, {tokens}, {channels})");
            return Err(ModelError::Shape {
                input: "grad_velocity",
                expected,
                found: grad_velocity.dims().to_vec(),
            });
        }
        let parameters = adapter.parameter_count();
        if gradients.parameter_count() != parameters {
            let problem = format!("has {} values, the adapter {parameters}", gradients.parameter_count());
            return Err(ModelError::Value {
                input: "gradients",
                problem,
            });
        }
        let grad = to_f32(grad_velocity)?;
        match (&self.engine, parts) {
            (Engine::Cpu(network), Parts::Cpu(tapes)) => {
                let bound = self.bind(&Cpu { split: Split::Rows }, network, adapter)?;
                let backend = Cpu {
                    split: split(tapes.len()),
                };
                let mut first = 0;
                let work: Vec<_> = tapes
                    .into_iter()
                    .map(|tape| {
                        let values = tape.samples() * tokens * channels;
                        first += values;
                        (tape, &grad[first - values..first])
                    })
                    .collect();
                let sums: Vec<Vec<f32>> = work
                    .into_par_iter()
                    .map(|(tape, grad)| {
                        let mut sum = vec![0.0; parameters];
                        network.vjp(&backend, &bound, tape, grad, &mut sum).map(|()| sum)
                    })
                    .collect::<Result<_, _>>()?;
                let mut chunks = sums.into_iter();
                if let Some(mut batch) = chunks.next() {
                    chunks.for_each(|sum| batch.iter_mut().zip(sum).for_each(|(total, value)| *total += value));
                    gradients
                        .as_mut_slice()
                        .iter_mut()
                        .zip(batch)
                        .for_each(|(total, value)| *total += value);
                }
                Ok(())
            }
            (Engine::Reference(backend, network), Parts::Reference(tape)) => {
                let bound = self.bind(backend, network, adapter)?;
                network.vjp(backend, &bound, *tape, &grad, gradients.as_mut_slice())
            }
            _ => Err(ModelError::Value {
                input: "tape",
                problem: "comes from another transformer".to_owned(),
            }),
        }
    }

    /// The adapter's weights where this transformer computes, made once per version of the adapter.
    fn bind<B: crate::ops::Backend + 'static>(
        &self,
        backend: &B,
        network: &Network<B>,
        adapter: &LoraAdapter,
    ) -> Result<Arc<Bound<B>>, ModelError> {
        if !adapter.fits(&self.layers) {
            let problem = "was made for a transformer of another architecture".to_owned();
            return Err(ModelError::Value {
                input: "adapter",
                problem,
            });
        }
        adapter.bound(self.id, || network.bind(backend, &adapter.factors()))
    }
}

/// Whether operations inside a chunk should share their rows among threads too.
fn split(chunks: usize) -> Split {
    if chunks >= rayon::current_num_threads() {
        Split::Never
    } else {
        Split::Rows
    }
}

/// The checked inputs as row-major values.
struct InputValues {
    batch: usize,
    text: usize,
    image: usize,
    height_tokens: usize,
    width_tokens: usize,
    latents: Vec<f32>,
    prompt_embeds: Vec<f32>,
    pooled: Vec<f32>,
    sigma: Vec<f32>,
    guidance: Option<f32>,
}

impl InputValues {
    fn new(config: &FluxTransformerConfig, input: &TransformerInput) -> Result<Self, ModelError> {
        let misfit = |input, expected: String, found: &Tensor| {
            Err(ModelError::Shape {
                input,
                expected,
                found: found.dims().to_vec(),
            })
        };
        let (height, width) = (input.height_tokens, input.width_tokens);
        let (image, channels) = (height * width, config.in_channels);
        let batch = match *input.latents.dims() {
            [batch, tokens, c] if batch > 0 && tokens > 0 && tokens == image && c == channels => batch,
            _ => {
                let expected = format!("(batch, {height} * {width} tokens, {channels})");
                return misfit("latents", expected, &input.latents);
            }
        };
        let text = match *input.prompt_embeds.dims() {
            [b, text, c] if b == batch && text > 0 && c == config.joint_attention_dim => text,
            _ => {
                let expected = format!("({batch}, at least 1 token, {})", config.joint_attention_dim);
                return misfit("prompt_embeds", expected, &input.prompt_embeds);
            }
        };
        if *input.pooled_prompt_embeds.dims() != [batch, config.pooled_projection_dim] {
            let expected = format!("({batch}, {})", config.pooled_projection_dim);
            return misfit("pooled_prompt_embeds", expected, &input.pooled_prompt_embeds);
        }
        if *input.sigma.dims() != [batch] {
            return misfit("sigma", format!("({batch},)"), &input.sigma);
        }
        let sigma = to_f32(&input.sigma)?;
        if let Some(sigma) = sigma.iter().find(|sigma| !(**sigma > 0.0 && **sigma <= 1.0)) {
            return Err(ModelError::Value {
                input: "sigma",
                problem: format!("is {sigma}, must lie in (0, 1]"),
            });
        }
        let guidance = match (config.guidance_embeds, input.guidance) {
            (false, _) => None,
            (true, Some(guidance)) if guidance.is_finite() => Some(guidance),
            (true, found) => {
                let problem = format!("is {found:?}, this model was distilled with guidance and needs a number");
                return Err(ModelError::Value {
                    input: "guidance",
                    problem,
                });
            }
        };
        Ok(Self {
            batch,
            text,
            image,
            height_tokens: height,
            width_tokens: width,
            latents: to_f32(&input.latents)?,
            prompt_embeds: to_f32(&input.prompt_embeds)?,
            pooled: to_f32(&input.pooled_prompt_embeds)?,
            sigma,
            guidance,
        })
    }

    /// The values of a range of samples.
    fn chunk(&self, samples: Range<usize>) -> Inputs<'_> {
        fn part<'a>(values: &'a [f32], batch: usize, samples: &Range<usize>) -> &'a [f32] {
            let width = values.len() / batch;
            &values[samples.start * width..samples.end * width]
        }
        Inputs {
            layout: Layout {
                batch: samples.len(),
                text: self.text,
                image: self.image,
            },
            height_tokens: self.height_tokens,
            width_tokens: self.width_tokens,
            latents: part(&self.latents, self.batch, &samples),
            prompt_embeds: part(&self.prompt_embeds, self.batch, &samples),
            pooled: part(&self.pooled, self.batch, &samples),
            sigma: part(&self.sigma, self.batch, &samples),
            guidance: self.guidance,
        }
    }
}
