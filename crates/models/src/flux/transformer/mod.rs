//! The FLUX transformer: diffusers' `FluxTransformer2DModel`, with LoRA and the gradients of LoRA.
//!
//! Forward and backward are hand-written per block, once for all backends.

#[cfg(test)]
mod budget;
mod config;
mod network;
mod original;
mod single;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::{POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use crate::denoiser::check::{check_batch, misfit};
use crate::denoiser::engine::{Compute, Engine};
use crate::denoiser::loader::{Headers, Loader};
use crate::denoiser::{ActivationMemory, Denoiser, Input, Tape};
use crate::load::{LoadError, Placement, WeightCounts, Weights};
use crate::lora::{AdaptableLayers, LoraAdapter, LoraGradients};
use crate::ops::{Backend, WithBackend, on_backend};
use crate::{Family, ModelError};
pub use config::FluxTransformerConfig;
use network::{FluxNetwork, FluxOnBackend};

/// A frozen FLUX transformer.
pub struct FluxTransformer {
    config: FluxTransformerConfig,
    placement: Placement,
    engine: Box<dyn Compute>,
}

impl std::fmt::Debug for FluxTransformer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("FluxTransformer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Loads the network where a backend computes.
struct Load<'a> {
    config: FluxTransformerConfig,
    weights: &'a Weights,
}

impl WithBackend for Load<'_> {
    type Output = Result<Box<dyn Compute>, LoadError>;

    fn run<B: Backend>(self, backend: B) -> Self::Output {
        let mut layers = AdaptableLayers::default();
        let network = FluxNetwork::load(Loader::new(&backend, self.weights, &mut layers), self.config)?;
        layers.published = original::names(&layers);
        Ok(Box::new(Engine::new(backend, FluxOnBackend::new(network), layers)))
    }
}

/// The layers of a `transformer` folder and the numbers in its weights, by settings and headers alone.
pub(super) fn inspect(dir: &Path) -> Result<(AdaptableLayers, WeightCounts), LoadError> {
    let config = FluxTransformerConfig::read(dir)?;
    let weights = Weights::open(dir, &Placement::cpu())?;
    let (headers, mut layers) = (Headers::default(), AdaptableLayers::default());
    FluxNetwork::load(Loader::new(&headers, &weights, &mut layers), config)?;
    layers.published = original::names(&layers);
    let counts = headers.counts(&weights);
    weights.finish(&[])?;
    Ok((layers, counts))
}

impl FluxTransformer {
    /// Reads `config.json` and the weights, single or sharded, of a diffusers `transformer` folder.
    ///
    /// On the CPU the fused kernels compute, in float32, with linear weights that stay as narrow as the file has them, or become
    /// as narrow as the placement says. Any other device, and [`Placement::candle`] on every one, is served by plain candle operations.
    ///
    /// # Errors
    /// [`LoadError`] when a file is missing or damaged, a tensor is missing, misshapen or unused, or the configuration is one
    /// that FLUX does not have.
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let config = FluxTransformerConfig::read(dir)?;
        let weights = Weights::open(dir, placement)?;
        let load = Load {
            config: config.clone(),
            weights: &weights,
        };
        let engine = on_backend(placement, load)?;
        weights.finish(&[])?;
        Ok(Self {
            config,
            placement: placement.clone(),
            engine,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &FluxTransformerConfig {
        &self.config
    }

    /// Refuses an input that does not fit, and drops a guidance scale that is not read.
    fn checked<'a>(&self, input: &Input<'a>) -> Result<Input<'a>, ModelError> {
        self.check_conditioning(&check_batch(input, self.config.in_channels)?)?;
        let guidance = match (self.config.guidance_embeds, input.guidance) {
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
        Ok(Input { guidance, ..*input })
    }
}

/// Diffusers 0.42 `FluxTransformer2DModel.forward` is what the velocity follows. Deviations: norms and softmax in float32
/// whatever the dtype; the last single block computes no text output, because nobody reads it.
impl Denoiser for FluxTransformer {
    fn family(&self) -> Family {
        Family::Flux
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn layers(&self) -> &AdaptableLayers {
        self.engine.layers()
    }

    fn latent_channels(&self) -> usize {
        self.config.in_channels
    }

    fn takes_guidance(&self) -> bool {
        self.config.guidance_embeds
    }

    fn check_conditioning(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<(), ModelError> {
        let shape = |name: &str| match shapes.get(name) {
            Some(shape) => Ok(shape.as_slice()),
            None => Err(ModelError::ConditioningMissing { name: name.to_owned() }),
        };
        let (joint, pooled) = (self.config.joint_attention_dim, self.config.pooled_projection_dim);
        match shape(PROMPT_EMBEDS)? {
            [tokens, width] if *tokens > 0 && *width == joint => {}
            found => return Err(misfit(PROMPT_EMBEDS, format!("(at least 1 token, {joint})"), found)),
        }
        match shape(POOLED_PROMPT_EMBEDS)? {
            [width] if *width == pooled => {}
            found => return Err(misfit(POOLED_PROMPT_EMBEDS, format!("({pooled},)"), found)),
        }
        let known = [PROMPT_EMBEDS, POOLED_PROMPT_EMBEDS];
        match shapes.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(ModelError::ConditioningUnread { name: name.clone() }),
            None => Ok(()),
        }
    }

    fn velocity(&self, adapter: Option<&LoraAdapter>, input: &Input<'_>) -> Result<Tensor, ModelError> {
        self.engine.velocity(adapter, &self.checked(input)?)
    }

    fn velocity_for_vjp(
        &self,
        adapter: &LoraAdapter,
        input: &Input<'_>,
        memory: ActivationMemory,
    ) -> Result<(Tensor, Tape), ModelError> {
        self.engine.velocity_for_vjp(adapter, &self.checked(input)?, memory)
    }

    fn vjp(
        &self,
        adapter: &LoraAdapter,
        tape: Tape,
        grad: &Tensor,
        into: &mut LoraGradients,
    ) -> Result<(), ModelError> {
        self.engine.vjp(adapter, tape, grad, into)
    }
}
