//! Sampling a batch of candidates.

mod integrate;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gavel_core::{
    Hint,
    ids::{Candidate, Digest, PromptIndex, Step},
    noise::Use,
    rpo,
    spec::SamplingSpec,
    work::{PromptTask, rules::CandidateNoise},
};
use gavel_models::{
    LoadError, ModelError,
    flux::pipeline::FluxPipeline,
    load::fingerprint,
    lora::LoraAdapter,
    trajectory::{Extents, Trajectory, TrajectoryMetadata},
};
use image::RgbImage;

use crate::embeds::EmbedCache;

/// A loaded pipeline that samples.
pub struct Sampler {
    pipeline: FluxPipeline,
    model: Digest,
    device: Device,
    embeds: EmbedCache,
}

/// Which policy samples.
#[derive(Clone, Copy)]
pub enum Policy<'a> {
    /// The frozen base.
    Base,
    /// The base with an adapter.
    Adapted {
        /// Hash of the adapter's file, recorded in each trajectory.
        digest: Digest,
        /// The adapter.
        adapter: &'a LoraAdapter,
    },
}

impl<'a> Policy<'a> {
    fn adapter(&self) -> Option<&'a LoraAdapter> {
        match self {
            Self::Base => None,
            Self::Adapted { adapter, .. } => Some(adapter),
        }
    }

    fn digest(&self) -> Option<Digest> {
        match self {
            Self::Base => None,
            Self::Adapted { digest, .. } => Some(*digest),
        }
    }
}

/// How states follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Noise in the first `sampling.noise_steps` steps, plain Euler steps after them.
    Sde,
    /// Plain Euler steps only: the image depends on the initial noise alone.
    Ode,
}

/// What to sample. All of it runs as one batch.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The prompts.
    pub prompts: &'a [PromptTask],
    /// Candidates of each prompt.
    pub candidates: u8,
    /// Stochastic or deterministic.
    pub method: Method,
    /// Run seed, part of every noise key.
    pub seed: u64,
    /// Optimizer step, part of every noise key.
    pub step: Step,
    /// What the initial noise is drawn for: [`Use::Initial`] or [`Use::EvaluationInitial`].
    pub initial: Use,
    /// Initial latents instead of drawn ones: (tokens, channels) packed, shared by all candidates.
    pub initial_latents: Option<&'a [f32]>,
    /// What to steer away from; not for trajectories that are trained on, whose velocity is the transformer's own.
    pub negative: Option<Negative<'a>>,
    /// Schedule, noise and size.
    pub sampling: &'a SamplingSpec,
    /// Tokens of the T5 prompt.
    pub max_sequence_length: usize,
}

/// Classifier-free guidance by a negative prompt, at the price of a second forward in each step:
/// v = v(negative) + scale (v(prompt) - v(negative)).
///
/// # Source
/// diffusers 0.42 `FluxPipeline`, arguments `negative_prompt` and `true_cfg_scale`.
#[derive(Debug, Clone, Copy)]
pub struct Negative<'a> {
    /// The negative prompt.
    pub prompt: &'a str,
    /// Above 1; 1 would be the prompt alone.
    pub scale: f32,
}

/// One sampled candidate.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its prompt.
    pub prompt: PromptIndex,
    /// Its place among its prompt's candidates.
    pub candidate: Candidate,
    /// The whole way.
    pub trajectory: Trajectory,
    /// The decoded x0 estimate of the last step.
    pub image: RgbImage,
}

/// Sampling failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model refused its input, or a tensor operation failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The given initial latents have another size.
    #[error("the initial latents hold {found} values, this model needs {tokens} tokens x {channels} channels")]
    InitialLatents {
        /// Values given.
        found: usize,
        /// Packed tokens at this image size.
        tokens: usize,
        /// Channels per token.
        channels: usize,
    },
    /// The model gave NaN or infinity.
    #[error("the velocity of prompt {prompt}, candidate {candidate} is not finite at timestep {timestep}")]
    NotFinite {
        /// The prompt.
        prompt: PromptIndex,
        /// The candidate.
        candidate: Candidate,
        /// The step, from 0.
        timestep: usize,
    },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Model(_) => None,
            Self::InitialLatents { .. } => Some("store packed latents for this image size (docs/formats.md)".into()),
            Self::NotFinite { .. } => {
                Some("the weights or the adapter are not finite, or the number format overflows: try f32".into())
            }
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

impl Sampler {
    /// Loads a diffusers FLUX folder.
    ///
    /// # Errors
    /// [`LoadError`] for anything wrong with the folder.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self, LoadError> {
        Ok(Self {
            model: fingerprint(&dir.join("transformer"))?,
            pipeline: FluxPipeline::load(dir, device, dtype)?,
            device: device.clone(),
            embeds: EmbedCache::default(),
        })
    }

    /// The loaded pipeline; adapters bind to its transformer.
    pub fn pipeline(&self) -> &FluxPipeline {
        &self.pipeline
    }

    /// Fingerprint of the transformer's folder, recorded in each trajectory.
    pub fn model(&self) -> Digest {
        self.model
    }

    /// Samples every candidate of every prompt, ordered by prompt, then candidate.
    ///
    /// # Errors
    /// [`Error`]; nothing is sampled in part.
    pub fn sample(&mut self, policy: Policy<'_>, request: &Request<'_>) -> Result<Vec<Sample>, Error> {
        let sampling = request.sampling;
        let (height_tokens, width_tokens) = self.pipeline.latent_tokens(sampling.height, sampling.width)?;
        let tokens = height_tokens * width_tokens;
        let channels = self.pipeline.transformer.config().in_channels;
        let texts: Vec<&str> = request
            .prompts
            .iter()
            .map(|prompt| prompt.task.words.as_str())
            .collect();
        let embeds = self.embeds.get(&self.pipeline, &texts, request.max_sequence_length)?;
        let Some(first) = embeds.first() else {
            return Ok(Vec::new());
        };
        let extents = Extents {
            steps: sampling.steps,
            tokens,
            channels,
            text_tokens: first.text_tokens,
            joint: first.joint,
            pooled: first.pooled.len(),
        };
        let noise_steps = match request.method {
            Method::Sde => sampling.noise_steps,
            Method::Ode => 0,
        };
        let guidance_scale = self
            .pipeline
            .transformer
            .config()
            .guidance_embeds
            .then_some(sampling.guidance_scale);

        let mut trajectories = Vec::with_capacity(request.prompts.len() * usize::from(request.candidates));
        for (prompt, embeds) in request.prompts.iter().zip(&embeds) {
            for candidate in 0..request.candidates {
                let metadata = TrajectoryMetadata {
                    model: self.model,
                    adapter: policy.digest(),
                    prompt: prompt.task.words.clone(),
                    seed: request.seed,
                    step: request.step.0,
                    prompt_index: prompt.index.0,
                    candidate,
                    sde: sampling.sde,
                    eta: sampling.eta,
                    noise_steps,
                    shift: sampling.shift,
                    guidance_scale,
                    width: sampling.width,
                    height: sampling.height,
                    height_tokens,
                    width_tokens,
                };
                trajectories.push(Trajectory {
                    latents: initial_latents(request, &metadata, &extents)?,
                    metadata,
                    extents,
                    log_probs: Vec::with_capacity(sampling.steps),
                    sigmas: rpo::sigmas(sampling.steps, sampling.shift),
                    velocities: Vec::with_capacity(sampling.steps * extents.latent_size()),
                    prompt_embeds: embeds.prompt.clone(),
                    pooled_prompt_embeds: embeds.pooled.clone(),
                });
            }
        }

        let negative = match request.negative {
            Some(Negative { prompt, scale }) => {
                let embeds = self
                    .embeds
                    .get(&self.pipeline, &[prompt], request.max_sequence_length)?;
                embeds.into_iter().next().map(|embeds| (embeds, scale))
            }
            None => None,
        };
        let estimates = self.integrate(policy.adapter(), &mut trajectories, negative)?;
        let packed = Tensor::from_vec(estimates, (trajectories.len(), tokens, channels), &self.device)?;
        let images = self.pipeline.decode_latents(&packed, sampling.height, sampling.width)?;
        let samples = trajectories.into_iter().zip(images).map(|(trajectory, image)| Sample {
            prompt: PromptIndex(trajectory.metadata.prompt_index),
            candidate: Candidate(trajectory.metadata.candidate),
            trajectory,
            image,
        });
        Ok(samples.collect())
    }
}

/// Whose noise a trajectory is sampled with.
fn candidate_noise(metadata: &TrajectoryMetadata) -> CandidateNoise {
    CandidateNoise {
        seed: metadata.seed,
        step: Step(metadata.step),
        prompt_index: PromptIndex(metadata.prompt_index),
        candidate: Candidate(metadata.candidate),
    }
}

/// x_0: given, or drawn by key; candidates that share it are drawn with candidate 0's key.
fn initial_latents(request: &Request<'_>, metadata: &TrajectoryMetadata, extents: &Extents) -> Result<Vec<f32>, Error> {
    let size = extents.latent_size();
    let mut latents = Vec::with_capacity((extents.steps + 1) * size);
    match request.initial_latents {
        Some(given) if given.len() == size => latents.extend_from_slice(given),
        Some(given) => {
            let Extents { tokens, channels, .. } = *extents;
            return Err(Error::InitialLatents {
                found: given.len(),
                tokens,
                channels,
            });
        }
        None => {
            let noise = candidate_noise(metadata);
            let key = noise.initial(request.initial, request.sampling.shared_noise);
            latents.extend(key.normal(size));
        }
    }
    Ok(latents)
}
