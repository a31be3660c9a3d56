//! Sampler units of a fleet.

use std::time::Instant;

use gavel_core::{
    RunAssets,
    ids::{Digest, RunId},
    spec::{ModelSpec, RunSpec},
    work::{Assignment, Outcome, PromptTask, Sampled, Unit},
};
use gavel_models::{
    Family,
    denoiser::Task,
    load::Placement,
    lora::{LoraAdapter, LoraConfig},
};
use gavel_policy::{ConditioningFile, Method, Policy, Prompt, Request, Sample, Sampler, encode_png};
use gavel_rubric::data::{Picture, ReadOptions};
use gavel_worker::{Work, WorkContext, WorkError};
use image::RgbImage;

/// [`Work`] of a sampler: training groups, and held-out images.
#[derive(Default)]
pub struct SamplerWork {
    loaded: Option<(ModelSpec, Sampler)>,
    spec: Option<RunSpec>,
    run: Option<RunId>,
    /// The adapters that units used last, newest first.
    adapters: Vec<(Digest, LoraAdapter)>,
}

/// The policy of this step and of the one before.
const ADAPTERS_MAX: usize = 2;

impl SamplerWork {
    /// The sampler of the run that was prepared last.
    pub fn sampler(&self) -> Option<&Sampler> {
        self.loaded.as_ref().map(|(_, sampler)| sampler)
    }
}

impl Work for SamplerWork {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, _: &RunAssets) -> Result<(), WorkError> {
        let model = &spec.model;
        if self.loaded.as_ref().is_none_or(|(loaded, _)| loaded != model) {
            // Frees the old model first: two may not fit.
            self.loaded = None;
            let sampler = load(model)?;
            tracing::info!(%run, model = %model.path.display(), fingerprint = %sampler.model().short(), "pipeline loaded");
            self.loaded = Some((model.clone(), sampler));
        }
        if self.run.as_ref() != Some(run)
            && let Some((_, sampler)) = &mut self.loaded
        {
            // What one run was handed is no other run's.
            sampler.forget_taken_conditioning();
        }
        self.run = Some(run.clone());
        // Adapters are bound to a run's [lora] as well as to a model.
        self.adapters.clear();
        self.spec = Some(spec.clone());
        Ok(())
    }

    fn perform(&mut self, _: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let started = Instant::now();
        let Self {
            loaded: Some((_, sampler)),
            spec: Some(spec),
            adapters,
            ..
        } = self
        else {
            return Err(WorkError::Retry(
                "this sampler was given work before it was prepared".into(),
            ));
        };
        let (adapter, tasks) = match assignment {
            Assignment::Sample { policy, prompts, .. } => (Some(policy.adapter), prompts),
            Assignment::EvaluateSample { policy, prompts, .. } => {
                let adapter = policy.as_ref().map(gavel_core::work::Policy::evaluated);
                (adapter, prompts)
            }
            _ => return Err(WorkError::Fatal("a sampler was given a unit of another role".into())),
        };
        let edited: Vec<Vec<RgbImage>> = tasks
            .iter()
            .map(|prompt| sources(prompt, context))
            .collect::<Result<_, _>>()?;
        let prompts: Vec<Prompt<'_>> = tasks
            .iter()
            .zip(&edited)
            .map(|(prompt, sources)| Prompt {
                index: prompt.index,
                task: Task {
                    words: &prompt.task.words,
                    sources,
                },
                sources: &prompt.task.sources,
            })
            .collect();
        let request = match assignment {
            Assignment::Sample { step, .. } => Request::training(spec, *step, &prompts),
            _ => Request::evaluation(spec, &prompts),
        };
        take_conditionings(sampler, &request, tasks, context)?;
        let adapter = adapter
            .map(|digest| bind(adapters, sampler, spec, digest, context))
            .transpose()?;
        let policy = match adapter {
            Some((digest, adapter)) => Policy::Adapted {
                digest: *digest,
                adapter,
            },
            None => Policy::Base,
        };
        if context.cancelled() {
            return Err(WorkError::Cancelled);
        }
        let samples = sampler
            .sample(policy, &request)
            .map_err(|error| WorkError::retry(&error))?;
        let mut stored = Vec::with_capacity(samples.len());
        let mut samples = samples.into_iter();
        for task in tasks {
            let candidates = samples.by_ref().take(usize::from(request.candidates)).collect();
            stored.extend(store(candidates, task.conditioning, request.method, sampler, context)?);
        }
        Ok(Outcome::Sampled {
            samples: stored,
            manifest: adapter.map(|(_, adapter)| Digest(adapter.manifest().names_sha256)),
            model: sampler.model(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

fn load(model: &ModelSpec) -> Result<Sampler, WorkError> {
    let family = Family::from_name(model.family.as_str()).map_err(|error| WorkError::fatal(&error))?;
    let placement =
        Placement::of_model(model).map_err(|error| WorkError::Retry(format!("device {}: {error}", model.device)))?;
    Sampler::load(family, &model.path, &placement).map_err(|error| WorkError::retry(&error))
}

/// The pictures that a task edits.
fn sources(prompt: &PromptTask, context: &WorkContext) -> Result<Vec<RgbImage>, WorkError> {
    let read = |digest: &Digest| {
        Picture::decode(&context.get(digest)?, &ReadOptions::local()).map_err(|fault| {
            WorkError::misleading(
                *digest,
                format!("source picture {digest} cannot be decoded: it {fault}"),
            )
        })
    };
    prompt.task.sources.iter().map(read).collect()
}

/// The adapter of that digest: at hand, or loaded from its blob.
fn bind<'a>(
    adapters: &'a mut Vec<(Digest, LoraAdapter)>,
    sampler: &Sampler,
    spec: &RunSpec,
    digest: Digest,
    context: &WorkContext,
) -> Result<&'a (Digest, LoraAdapter), WorkError> {
    if let Some(index) = adapters.iter().position(|(known, _)| *known == digest) {
        return Ok(&adapters[index]);
    }
    let blob = context.get(&digest)?;
    let adapter = LoraAdapter::from_safetensors(&blob, &LoraConfig::from(&spec.lora), sampler.denoiser().layers())
        .map_err(|error| WorkError::fatal(&error))?;
    adapters.insert(0, (digest, adapter));
    adapters.truncate(ADAPTERS_MAX);
    Ok(&adapters[0])
}

/// Has the sampler read what it is handed instead of encoding the tasks, but for those whose conditioning it has.
fn take_conditionings(
    sampler: &mut Sampler,
    request: &Request<'_>,
    tasks: &[PromptTask],
    context: &WorkContext,
) -> Result<(), WorkError> {
    let handed = request.prompts.iter().zip(tasks);
    let handed = handed.filter_map(|(prompt, task)| Some((prompt, task.conditioning?)));
    let needed: Vec<(&Prompt<'_>, Digest)> = handed
        .filter(|(prompt, _)| !sampler.has_conditioning(&prompt.task, request.encoding))
        .collect();
    let digests: Vec<Digest> = needed.iter().map(|(_, digest)| *digest).collect();
    for ((prompt, digest), blob) in needed.into_iter().zip(context.get_many(&digests)?) {
        let taken = ConditioningFile::from_safetensors(&blob)
            .map_err(|error| error.to_string())
            .and_then(|file| sampler.take_conditioning(prompt, request.encoding, &file));
        taken.map_err(|problem| WorkError::misleading(digest, format!("conditioning blob {digest}: {problem}")))?;
    }
    Ok(())
}

/// Stores the candidates of a prompt, and what they were conditioned on unless that is what the sampler was handed.
fn store(
    candidates: Vec<Sample>,
    handed: Option<Digest>,
    method: Method,
    sampler: &Sampler,
    context: &WorkContext,
) -> Result<Vec<Sampled>, WorkError> {
    let conditioning = match (method, candidates.first()) {
        (Method::Sde, Some(sample)) => {
            let file = sampler.conditioning_file(&sample.trajectory).to_safetensors();
            let digest = Digest::of(&file);
            if handed != Some(digest) {
                context.put(file);
            }
            Some(digest)
        }
        _ => None,
    };
    let mut stored = Vec::with_capacity(candidates.len());
    for mut sample in candidates {
        sample.trajectory.metadata.conditioning = conditioning;
        let image =
            encode_png(&sample.image).map_err(|error| WorkError::Retry(format!("cannot encode an image: {error}")))?;
        stored.push(Sampled {
            prompt_index: sample.prompt_index,
            candidate: sample.candidate,
            trajectory: match method {
                Method::Sde => Some(context.put(sample.trajectory.to_safetensors())),
                Method::Ode => None,
            },
            conditioning,
            image: context.put(image),
        });
    }
    Ok(stored)
}
