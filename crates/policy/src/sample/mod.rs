//! Samples candidates from the policy: stochastic trajectories for training, deterministic images for evaluation.
//!
//! What is sampled depends on model, adapter, tasks and noise keys alone: never on which worker samples, on the number of
//! threads, or on what was sampled before.

mod conditioning;
mod encoders;
mod integrate;
mod png;
mod request;
mod states;
mod step;

use std::{path::Path, sync::Arc};

use gavel_core::ids::{Candidate, Digest};
use gavel_core::noise::Use;
use gavel_core::rpo;
use gavel_core::spec::SamplingSpec;
use gavel_core::work::rules::CandidateNoise;
use gavel_models::load::Placement;
use gavel_models::{
    Family, LoadError, ModelError,
    denoiser::{Conditioning, Denoiser, Encoding, Grid, Pipeline, Task},
    load::fingerprint,
    lora::LoraAdapter,
};

use crate::{
    ConditioningFile,
    trajectory::{Extents, HostConditioning, Trajectory, TrajectoryMetadata},
    values::{on_device, to_host},
};
use conditioning::{ConditioningCache, bytes_max};
use integrate::{Batch, Schedule};
use states::Stop;

pub use png::encode_png;
pub use request::{Error, Levels, Method, Negative, Policy, Prompt, Request, Sample, encoding};

/// A loaded pipeline that samples.
pub struct Sampler {
    pipeline: Box<dyn Pipeline>,
    model: Digest,
    encoders: Digest,
    cache: ConditioningCache,
}

/// A prompt with what the denoiser is conditioned on.
struct Conditioned<'a> {
    prompt: Prompt<'a>,
    canvas: Canvas,
    conditioning: Arc<Conditioning>,
    /// Of the negative prompt, where there is one.
    negative: Option<Arc<Conditioning>>,
}

/// The size of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Canvas {
    /// In pixels.
    height: usize,
    /// In pixels.
    width: usize,
    /// In latent tokens.
    grid: Grid,
}

impl Canvas {
    fn of(pipeline: &dyn Pipeline, task: &Task<'_>, sampling: &SamplingSpec) -> Result<Self, ModelError> {
        let (height, width) = (sampling.height, sampling.width);
        let own = sampling
            .source_aspect
            .then(|| pipeline.output_size(task.sources, height * width));
        let (height, width) = own.flatten().unwrap_or((height, width));
        let grid = pipeline.grid(height, width)?;
        Ok(Self { height, width, grid })
    }
}

impl Conditioned<'_> {
    /// Whether both can be rows of one batch.
    fn fits(&self, other: &Self) -> bool {
        let shapes = |one: &Self| {
            let negative = one.negative.as_ref().map(|negative| negative.shapes());
            (one.conditioning.shapes(), negative)
        };
        self.canvas == other.canvas && shapes(self) == shapes(other)
    }
}

impl Sampler {
    /// Loads the pipeline folder of a family.
    ///
    /// # Errors
    /// [`LoadError`] for anything wrong with the folder.
    pub fn load(family: Family, dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let model = fingerprint(&family.denoiser_dir(dir))?;
        let pipeline = family.load_pipeline(dir, placement)?;
        Ok(Self::new(pipeline, model, encoders::encoders(family, dir)?))
    }

    /// A sampler of a loaded pipeline. `model` is the fingerprint of its denoiser's folder, `encoders` that of its other parts.
    pub fn new(pipeline: Box<dyn Pipeline>, model: Digest, encoders: Digest) -> Self {
        Self {
            pipeline,
            model,
            encoders,
            cache: ConditioningCache::default(),
        }
    }

    /// The loaded pipeline.
    pub fn pipeline(&self) -> &dyn Pipeline {
        self.pipeline.as_ref()
    }

    /// The pipeline's denoiser; adapters bind to its layers.
    pub fn denoiser(&self) -> &dyn Denoiser {
        self.pipeline.denoiser()
    }

    /// Fingerprint of the denoiser's folder, recorded in each trajectory.
    pub fn model(&self) -> Digest {
        self.model
    }

    /// Fingerprint of what encodes tasks: the pipeline's parts beside the denoiser.
    pub fn encoders(&self) -> Digest {
        self.encoders
    }

    /// Whether the conditioning of a task is at hand, so that nobody has to fetch or to make it.
    pub fn has_conditioning(&self, task: &Task<'_>, encoding: Encoding) -> bool {
        self.cache.contains(task, encoding)
    }

    /// Takes the conditioning of a prompt from its file, instead of encoding the task.
    ///
    /// # Errors
    /// Why it is not this prompt's, or none that the denoiser reads, in words; nothing has changed then.
    pub fn take_conditioning(
        &mut self,
        prompt: &Prompt<'_>,
        encoding: Encoding,
        file: &ConditioningFile,
    ) -> Result<(), String> {
        let denoiser = self.pipeline.denoiser();
        let found = (
            file.family.name(),
            file.encoders,
            file.prompt.as_str(),
            file.sources.as_slice(),
        );
        let (family, words) = (denoiser.family().name(), prompt.task.words);
        let expected = (family, self.encoders, words, prompt.sources);
        if found != expected {
            return Err(format!(
                "the conditioning is of (family, encoders, prompt, sources) {found:?}, asked for was {expected:?}"
            ));
        }
        let shapes = file
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shape.clone()));
        denoiser
            .check_conditioning(&shapes.collect())
            .map_err(|error| error.to_string())?;
        for (name, tensor) in file.tensors.iter() {
            if let Some(index) = tensor.values.iter().position(|value| !value.is_finite()) {
                return Err(format!(
                    "the conditioning's `{name}` holds {} at {index}",
                    tensor.values[index]
                ));
            }
        }
        let conditioning = on_device(&file.tensors, denoiser.device()).map_err(|error| error.to_string())?;
        self.cache
            .hand(&prompt.task, encoding, conditioning, bytes_max(denoiser));
        Ok(())
    }

    /// Forgets what [`Sampler::take_conditioning`] took, as is due when somebody else's work begins.
    pub fn forget_taken_conditioning(&mut self) {
        self.cache.forget_handed();
    }

    /// The file of what a sample of this sampler was conditioned on.
    pub fn conditioning_file(&self, sampled: &Trajectory) -> ConditioningFile {
        ConditioningFile {
            family: sampled.metadata.family,
            encoders: self.encoders,
            prompt: sampled.metadata.prompt.clone(),
            sources: sampled.metadata.sources.clone(),
            tensors: Arc::clone(&sampled.conditioning),
        }
    }

    /// Samples every candidate of every prompt, ordered by prompt, then candidate.
    ///
    /// # Errors
    /// [`Error`]; nothing is sampled in part.
    pub fn sample(&mut self, policy: Policy<'_>, request: &Request<'_>) -> Result<Vec<Sample>, Error> {
        let prompts = self.condition(request)?;
        let mut samples = Vec::with_capacity(prompts.len() * usize::from(request.candidates));
        for prompts in prompts.chunk_by(|one, next| one.fits(next)) {
            samples.extend(self.sample_batch(policy, request, prompts)?);
        }
        Ok(samples)
    }

    fn condition<'a>(&mut self, request: &Request<'a>) -> Result<Vec<Conditioned<'a>>, ModelError> {
        let tasks: Vec<Task<'_>> = request.prompts.iter().map(|prompt| prompt.task).collect();
        let conditioning = self.cache.get(self.pipeline.as_ref(), &tasks, request.encoding)?;
        let negatives: Vec<Option<Arc<Conditioning>>> = match request.negative {
            Some(Negative { prompt: words, .. }) => {
                let away: Vec<Task<'_>> = tasks.iter().map(|task| Task { words, ..*task }).collect();
                let negatives = self.cache.get(self.pipeline.as_ref(), &away, request.encoding)?;
                negatives.into_iter().map(Some).collect()
            }
            None => vec![None; tasks.len()],
        };
        let parts = request.prompts.iter().zip(conditioning).zip(negatives);
        let prompts = parts.map(|((prompt, conditioning), negative)| {
            Ok(Conditioned {
                prompt: *prompt,
                canvas: Canvas::of(self.pipeline.as_ref(), &prompt.task, request.sampling)?,
                conditioning,
                negative,
            })
        });
        prompts.collect()
    }

    /// Samples prompts of one canvas whose conditioning has equal shapes.
    fn sample_batch(
        &self,
        policy: Policy<'_>,
        request: &Request<'_>,
        prompts: &[Conditioned<'_>],
    ) -> Result<Vec<Sample>, Error> {
        let candidates = usize::from(request.candidates);
        let rows: Vec<(&Conditioned<'_>, CandidateNoise)> = prompts
            .iter()
            .flat_map(|one| (0..request.candidates).map(move |candidate| (one, noise_of(request, one, candidate))))
            .collect();
        let Some(Conditioned { canvas, .. }) = prompts.first() else {
            return Ok(Vec::new());
        };
        let Canvas { height, width, grid } = *canvas;
        let sampling = request.sampling;
        let denoiser = self.pipeline.denoiser();
        let extents = Extents {
            steps: sampling.steps,
            tokens: grid.tokens(),
            channels: denoiser.latent_channels(),
        };
        let noise_steps = match request.method {
            Method::Sde => sampling.noise_steps,
            Method::Ode => 0,
        };
        let guidance_scale = denoiser.takes_guidance().then_some(sampling.guidance_scale);
        let sigmas = match request.levels {
            Levels::Shift => rpo::sigmas(sampling.steps, sampling.shift),
            Levels::Pipeline => {
                let sigmas = self.pipeline.sigmas(sampling.steps, grid)?;
                sigmas.into_iter().map(|sigma| sigma as f32).collect()
            }
        };
        let schedule = Schedule {
            sigmas,
            sde: sampling.sde,
            eta: sampling.eta,
            noise_steps,
        };

        let batch = self.batch(policy.adapter(), request, &rows, &schedule, grid, guidance_scale)?;
        let initial = initial_latents(request, &batch.noise, &extents)?;
        let (ways, originals) = batch.integrate(initial).map_err(|stop| match stop {
            Stop::Model(error) => Error::Model(error),
            Stop::NotFinite { row, timestep } => Error::NotFinite {
                prompt: rows[row].1.prompt_index,
                candidate: rows[row].1.candidate,
                timestep,
            },
        })?;
        let images = self.pipeline.decode(&originals, grid)?;

        let mut conditioning: Vec<Arc<HostConditioning>> = Vec::with_capacity(rows.len());
        for one in prompts {
            let host = Arc::new(on_host(&one.conditioning)?);
            conditioning.extend(vec![host; candidates]);
        }
        let parts = rows.iter().zip(ways).zip(images).zip(conditioning);
        let samples = parts.map(|((((one, drawn), way), image), conditioning)| Sample {
            prompt_index: drawn.prompt_index,
            candidate: drawn.candidate,
            trajectory: Trajectory {
                metadata: TrajectoryMetadata {
                    family: denoiser.family(),
                    model: self.model,
                    adapter: policy.digest(),
                    prompt: one.prompt.task.words.to_owned(),
                    sources: one.prompt.sources.to_vec(),
                    conditioning: None,
                    seed: request.seed,
                    step: request.step.0,
                    prompt_index: drawn.prompt_index.0,
                    candidate: drawn.candidate.0,
                    sde: sampling.sde,
                    eta: sampling.eta,
                    noise_steps,
                    shift: sampling.shift,
                    guidance_scale,
                    width,
                    height,
                    grid,
                },
                extents,
                latents: way.latents,
                log_probs: way.log_probs,
                sigmas: schedule.sigmas.clone(),
                velocities: way.velocities,
                conditioning,
            },
            image,
        });
        Ok(samples.collect())
    }

    /// Puts the rows' conditioning together, on the denoiser's device.
    fn batch<'a>(
        &'a self,
        adapter: Option<&'a LoraAdapter>,
        request: &Request<'_>,
        rows: &[(&Conditioned<'_>, CandidateNoise)],
        schedule: &'a Schedule,
        grid: Grid,
        guidance_scale: Option<f64>,
    ) -> Result<Batch<'a>, ModelError> {
        let conditioning: Vec<&Conditioning> = rows.iter().map(|(one, _)| one.conditioning.as_ref()).collect();
        let negatives: Vec<&Conditioning> = rows.iter().filter_map(|(one, _)| one.negative.as_deref()).collect();
        let negative = match request.negative {
            Some(Negative { scale, .. }) => Some((Conditioning::stack(&negatives)?, scale)),
            None => None,
        };
        Ok(Batch {
            denoiser: self.pipeline.denoiser(),
            adapter,
            schedule,
            grid,
            guidance: guidance_scale.map(|scale| scale as f32),
            conditioning: Conditioning::stack(&conditioning)?,
            negative,
            noise: rows.iter().map(|(_, noise)| *noise).collect(),
        })
    }
}

fn noise_of(request: &Request<'_>, one: &Conditioned<'_>, candidate: u8) -> CandidateNoise {
    CandidateNoise {
        seed: request.seed,
        step: request.step,
        prompt_index: one.prompt.index,
        candidate: Candidate(request.first_candidate.saturating_add(candidate)),
    }
}

/// x_0 of each row: given, or drawn by key.
fn initial_latents(request: &Request<'_>, noise: &[CandidateNoise], extents: &Extents) -> Result<Vec<Vec<f32>>, Error> {
    let size = extents.latent_size();
    match request.initial_latents {
        Some(given) if given.len() == size => Ok(vec![given.to_vec(); noise.len()]),
        Some(given) => {
            let Extents { tokens, channels, .. } = *extents;
            Err(Error::InitialLatents {
                found: given.len(),
                tokens,
                channels,
            })
        }
        None => {
            // Several pictures of one prompt are evaluated because they differ.
            let shared = request.sampling.shared_noise && request.initial != Use::EvaluationInitial;
            let keys = noise.iter().map(|noise| noise.initial(request.initial, shared));
            Ok(keys.map(|key| key.normal(size)).collect())
        }
    }
}

fn on_host(conditioning: &Conditioning) -> Result<HostConditioning, ModelError> {
    let tensors = conditioning.iter();
    tensors
        .map(|(name, tensor)| Ok((name.to_string(), to_host(tensor)?)))
        .collect()
}
