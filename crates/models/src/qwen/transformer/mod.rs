//! The Qwen-Image transformer: diffusers' `QwenImageTransformer2DModel`, with LoRA and the gradients of LoRA.
//!
//! Its blocks are the double-stream blocks that FLUX has too, under other names; what is its own are the positions, the source
//! pictures beside the target, and their modulation at time 0 in release 2511.

#[cfg(test)]
mod budget;
mod config;
mod embedding;
mod network;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::guidance::guided;
use super::{PROMPT_EMBEDS, source_latents};
use crate::denoiser::check::{check_batch, misfit};
use crate::denoiser::engine::{Compute, Engine};
use crate::denoiser::loader::{Headers, Loader};
use crate::denoiser::{ActivationMemory, Denoiser, Input, Tape};
use crate::load::{LoadError, Placement, WeightCounts, Weights};
use crate::lora::{AdaptableLayers, LoraAdapter, LoraGradients};
use crate::ops::{Backend, WithBackend, on_backend};
use crate::{Family, ModelError};
pub use config::QwenImageTransformerConfig;
use network::{QwenImageNetwork, QwenImageOnBackend};

/// A frozen Qwen-Image transformer.
pub struct QwenImageTransformer {
    family: Family,
    config: QwenImageTransformerConfig,
    placement: Placement,
    engine: Box<dyn Compute>,
}

impl std::fmt::Debug for QwenImageTransformer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("QwenImageTransformer")
            .field("family", &self.family)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Loads the network where a backend computes.
struct Load<'a> {
    config: QwenImageTransformerConfig,
    weights: &'a Weights,
}

impl WithBackend for Load<'_> {
    type Output = Result<Box<dyn Compute>, LoadError>;

    fn run<B: Backend>(self, backend: B) -> Self::Output {
        let mut layers = AdaptableLayers::default();
        let network = QwenImageNetwork::load(Loader::new(&backend, self.weights, &mut layers), self.config)?;
        let network = QwenImageOnBackend::new(network, self.weights.placement().clone());
        Ok(Box::new(Engine::new(backend, network, layers)))
    }
}

/// The layers of a `transformer` folder and the numbers in its weights, by settings and headers alone.
pub(super) fn inspect(dir: &Path) -> Result<(AdaptableLayers, WeightCounts), LoadError> {
    let config = QwenImageTransformerConfig::read(dir)?;
    let weights = Weights::open(dir, &Placement::cpu())?;
    let (headers, mut layers) = (Headers::default(), AdaptableLayers::default());
    QwenImageNetwork::load(Loader::new(&headers, &weights, &mut layers), config)?;
    let counts = headers.counts(&weights);
    weights.finish(&[])?;
    Ok((layers, counts))
}

impl QwenImageTransformer {
    /// The layers that the published recipe adapts: the eight attention projections.
    pub const PUBLISHED_TARGETS: &'static [&'static str] = &[
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    ];

    /// Reads `config.json` and the weights, single or sharded, of a diffusers `transformer` folder. `family` says whether it
    /// edits source pictures, which the folder does not tell.
    ///
    /// On the CPU the fused kernels compute, in float32, with linear weights that stay as narrow as the file has them, or become
    /// as narrow as the placement says. Any other device, and [`Placement::candle`] on every one, is served by plain candle operations.
    ///
    /// # Errors
    /// [`LoadError`] when a file is missing or damaged, a tensor is missing, misshapen or unused, or the configuration is one
    /// that Qwen-Image does not have.
    pub fn load(family: Family, dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let config = QwenImageTransformerConfig::read(dir)?;
        let weights = Weights::open(dir, placement)?;
        let load = Load {
            config: config.clone(),
            weights: &weights,
        };
        let engine = on_backend(placement, load)?;
        weights.finish(&[])?;
        Ok(Self {
            family,
            config,
            placement: placement.clone(),
            engine,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &QwenImageTransformerConfig {
        &self.config
    }

    /// Refuses an input that does not fit.
    fn check(&self, input: &Input<'_>) -> Result<(), ModelError> {
        self.check_conditioning(&check_batch(input, self.config.in_channels)?)
    }

    /// Refuses a source of which no tokens can be made.
    fn check_source(&self, index: usize, shape: &[usize]) -> Result<(), ModelError> {
        let channels = self.config.in_channels;
        match shape {
            [rows, columns, width] if *rows > 0 && *columns > 0 && *width == channels => Ok(()),
            found => {
                let name = source_latents(index);
                let expected = format!("(at least 1 row, at least 1 column, {channels}) in `{name}`");
                Err(misfit("source_latents", expected, found))
            }
        }
    }
}

/// The number of the source picture whose latents are called `name`.
fn source_index(name: &str) -> Option<usize> {
    let digits = name.rsplit_once('.')?.1;
    digits.parse().ok().filter(|index| source_latents(*index) == name)
}

/// Diffusers 0.42 `QwenImageTransformer2DModel.forward` is what the velocity follows, for prompts without padding. Deviations: norms
/// and softmax in float32 whatever the dtype; positions in float64; the last block computes no text output, and the output
/// layers no source tokens, because nobody reads them.
impl Denoiser for QwenImageTransformer {
    fn family(&self) -> Family {
        self.family
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
        false
    }

    fn check_conditioning(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<(), ModelError> {
        let missing = |name: String| Err(ModelError::ConditioningMissing { name });
        let joint = self.config.joint_attention_dim;
        match shapes.get(PROMPT_EMBEDS).map(Vec::as_slice) {
            Some([tokens, width]) if *tokens > 0 && *width == joint => {}
            Some(found) => return Err(misfit(PROMPT_EMBEDS, format!("(at least 1 token, {joint})"), found)),
            None => return missing(PROMPT_EMBEDS.to_owned()),
        }
        let mut sources = BTreeMap::new();
        for (name, shape) in shapes.iter().filter(|(name, _)| *name != PROMPT_EMBEDS) {
            match source_index(name) {
                Some(index) if self.family.takes_sources() => sources.insert(index, shape),
                _ => return Err(ModelError::ConditioningUnread { name: name.clone() }),
            };
        }
        let needed = sources.len().max(usize::from(self.family.takes_sources()));
        for index in 0..needed {
            match sources.get(&index) {
                Some(shape) => self.check_source(index, shape)?,
                None => return missing(source_latents(index)),
            }
        }
        Ok(())
    }

    fn velocity(&self, adapter: Option<&LoraAdapter>, input: &Input<'_>) -> Result<Tensor, ModelError> {
        self.check(input)?;
        self.engine.velocity(adapter, input)
    }

    fn guided(&self, prompt: &Tensor, negative: &Tensor, scale: f32) -> Result<Tensor, ModelError> {
        guided(prompt, negative, scale)
    }

    fn velocity_for_vjp(
        &self,
        adapter: &LoraAdapter,
        input: &Input<'_>,
        memory: ActivationMemory,
    ) -> Result<(Tensor, Tape), ModelError> {
        self.check(input)?;
        self.engine.velocity_for_vjp(adapter, input, memory)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{LoraConfig, Manifest};

    fn config(target: &str) -> LoraConfig {
        LoraConfig {
            rank: 4,
            alpha: 8.0,
            dropout: 0.0,
            target_modules: vec![target.to_owned()],
        }
    }

    #[test]
    fn an_adapter_binds_to_a_folder_as_to_the_loaded_transformer() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/qwen_transformer/sharded/transformer");
        let loaded = QwenImageTransformer::load(Family::QwenImageEdit, &dir, &Placement::cpu()).unwrap();
        let (layers, counts) = inspect(&dir).unwrap();
        assert_eq!(&layers, loaded.layers());
        // One matrix of 6 dim^2 and its bias per modulation, four projections and an MLP of 8 dim^2 per stream, head norms.
        let (dim, head, text, channels, sinusoid) = (48, 8, 10, 16, 256);
        let stream = 18 * dim * dim + (6 + 4 + 5) * dim + 2 * head;
        let time = (sinusoid + dim + 2) * dim;
        let ends = (channels + text + 2) * dim + text + (dim + 1) * (2 * dim + channels);
        assert_eq!(counts.whole + counts.quantizable, 2 * 2 * stream + time + ends);
        // What may be quantized is a block's matrices: their outputs are rows.
        assert_eq!(counts.quantizable, 2 * 2 * 18 * dim * dim);
        assert_eq!(counts.quantizable_rows, 2 * 2 * (6 + 4 + 5) * dim);
        for target in QwenImageTransformer::PUBLISHED_TARGETS {
            Manifest::of(&config(target), &layers).unwrap();
        }
        let modulation = Manifest::of(&config("img_mod.1"), &layers).unwrap_err().to_string();
        assert!(modulation.contains("img_mod.1"), "{modulation}");
    }

    #[test]
    fn only_the_exact_names_of_sources_are_theirs() {
        assert_eq!(source_index("source_latents.0"), Some(0));
        assert_eq!(source_index("source_latents.12"), Some(12));
        for other in [
            "source_latents",
            "source_latents.",
            "source_latents.01",
            "source_latents.+1",
            "latents.1",
        ] {
            assert_eq!(source_index(other), None, "{other}");
        }
    }
}
