//! What is asked of a sampler, and what it gives.

use gavel_core::{
    Hint,
    ids::{Candidate, Digest, PromptIndex, Step},
    noise::Use,
    spec::{PromptsSpec, RunSpec, SamplingSpec},
};
use gavel_models::{
    ModelError,
    denoiser::{Encoding, SourceAreas, Task},
    lora::LoraAdapter,
};
use image::RgbImage;

use crate::Trajectory;

/// Which policy samples.
#[derive(Debug, Clone, Copy)]
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
    pub(super) fn adapter(&self) -> Option<&'a LoraAdapter> {
        match self {
            Self::Base => None,
            Self::Adapted { adapter, .. } => Some(adapter),
        }
    }

    pub(super) fn digest(&self) -> Option<Digest> {
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

/// Where the noise levels of a way come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// `sampling.shift`, the same for every size of picture: what a run uses.
    Shift,
    /// The folder's own scheduler, as its pipeline in diffusers does; not for trajectories that are trained on.
    Pipeline,
}

/// A task with its index.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// Index in the step or in the held-out set, part of every noise key.
    pub index: PromptIndex,
    /// The words, and the source pictures where the family edits.
    pub task: Task<'a>,
    /// Hashes of the source pictures' files, in their order, by which the trajectory names them.
    pub sources: &'a [Digest],
}

/// What to sample. All of it runs as one batch, or, where conditioning differs in shape, as one batch for each shape.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The prompts.
    pub prompts: &'a [Prompt<'a>],
    /// Candidates of each prompt.
    pub candidates: u8,
    /// The number of the first of them, part of every noise key.
    pub first_candidate: u8,
    /// Stochastic or deterministic.
    pub method: Method,
    /// Run seed, part of every noise key.
    pub seed: u64,
    /// Optimizer step, part of every noise key.
    pub step: Step,
    /// What the initial noise is drawn for: [`Use::Initial`], or [`Use::EvaluationInitial`], which no two candidates share.
    pub initial: Use,
    /// Initial latents instead of drawn ones: (tokens, channels) packed, shared by all candidates.
    pub initial_latents: Option<&'a [f32]>,
    /// What to steer away from; not for trajectories that are trained on, whose velocity is the denoiser's own.
    pub negative: Option<Negative<'a>>,
    /// Schedule, noise and size.
    pub sampling: &'a SamplingSpec,
    /// Where the noise levels come from.
    pub levels: Levels,
    /// How tasks are encoded.
    pub encoding: Encoding,
}

impl<'a> Request<'a> {
    /// All candidates of some prompts of a training step.
    pub fn training(spec: &'a RunSpec, step: Step, prompts: &'a [Prompt<'a>]) -> Self {
        Self {
            prompts,
            candidates: spec.sampling.candidates,
            first_candidate: 0,
            method: Method::Sde,
            seed: spec.run.seed,
            step,
            initial: Use::Initial,
            initial_latents: None,
            negative: None,
            sampling: &spec.sampling,
            levels: Levels::Shift,
            encoding: encoding(&spec.prompts),
        }
    }

    /// One deterministic picture of each of some held-out prompts, from noise that no training step draws.
    pub fn evaluation(spec: &'a RunSpec, prompts: &'a [Prompt<'a>]) -> Self {
        Self {
            candidates: 1,
            method: Method::Ode,
            initial: Use::EvaluationInitial,
            ..Self::training(spec, Step(0), prompts)
        }
    }
}

/// How the tasks of a run are encoded.
pub fn encoding(prompts: &PromptsSpec) -> Encoding {
    Encoding {
        max_sequence_length: prompts.max_sequence_length,
        source_areas: prompts.source_areas.map(|areas| SourceAreas {
            latents: areas.latents,
            text: areas.text,
        }),
    }
}

/// Classifier-free guidance by a negative prompt, at the price of a second forward in each step:
/// v = v(negative) + scale (v(prompt) - v(negative)).
///
/// # Source
/// diffusers 0.42, arguments `negative_prompt` and `true_cfg_scale` of its pipelines.
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
    pub prompt_index: PromptIndex,
    /// Its index among its prompt's candidates.
    pub candidate: Candidate,
    /// The whole way.
    pub trajectory: Trajectory,
    /// The decoded clean latents of the last step.
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
            Self::Model(error) => error.hint(),
            Self::InitialLatents { .. } => Some("store packed latents for this image size (docs/formats.md)".into()),
            Self::NotFinite { .. } => {
                Some("the weights or the adapter are not finite, or the number format overflows: try f32".into())
            }
        }
    }
}
