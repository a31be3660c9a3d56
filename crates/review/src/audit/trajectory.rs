//! Whether a trajectory is the one of its position in the run: metadata, noise levels, and each state from the one before it.
//!
//! The velocities are taken as stored (only `gavel verify`, with the model, can say that they are the policy's). With them
//! and the noise of the keys, every latent and log-probability is computed again and must be equal, bit for bit.

use gavel_core::ids::{Candidate, Digest, PromptIndex, Step};
use gavel_core::noise::Use;
use gavel_core::rpo;
use gavel_core::spec::RunSpec;
use gavel_core::work::Task;
use gavel_core::work::rules::CandidateNoise;
use gavel_policy::ConditioningFile;
use gavel_policy::trajectory::{Trajectory, TrajectoryMetadata};

/// What a trajectory's position in the run implies of it.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) step: u32,
    pub(super) prompt_index: u32,
    pub(super) candidate: u8,
    pub(super) task: Task,
    /// What the result says that it was conditioned on.
    pub(super) conditioning: Option<Digest>,
    /// The policy that the step samples from.
    pub(super) adapter: Digest,
    /// Fingerprint of the transformer that the sampler reported.
    pub(super) model: Digest,
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            step,
            prompt_index,
            candidate,
            ..
        } = self;
        write!(f, "step {step}, prompt {prompt_index}, candidate {candidate}")
    }
}

/// The first thing that does not fit.
pub(super) fn problem(trajectory: &Trajectory, position: &Expected, spec: &RunSpec) -> Option<String> {
    let found = &trajectory.metadata;
    if found.family.name() != spec.model.family.as_str() {
        return Some(format!(
            "it is of the family `{}`, the run's is `{}`",
            found.family.name(),
            spec.model.family.as_str()
        ));
    }
    let (width, height) = if spec.sampling.source_aspect {
        // They follow from the source picture; `gavel verify` makes them anew.
        (found.width, found.height)
    } else {
        (spec.sampling.width, spec.sampling.height)
    };
    let expected = TrajectoryMetadata {
        family: found.family,
        model: position.model,
        adapter: Some(position.adapter),
        prompt: position.task.words.clone(),
        sources: position.task.sources.clone(),
        conditioning: position.conditioning,
        seed: spec.run.seed,
        step: position.step,
        prompt_index: position.prompt_index,
        candidate: position.candidate,
        sde: spec.sampling.sde,
        eta: spec.sampling.eta,
        noise_steps: spec.sampling.noise_steps,
        shift: spec.sampling.shift,
        // A transformer without the embedding takes none.
        guidance_scale: found.guidance_scale.and(Some(spec.sampling.guidance_scale)),
        width,
        height,
        grid: found.grid,
    };
    if *found != expected {
        return Some(format!("its metadata is {found:?}, its position implies {expected:?}"));
    }
    if trajectory.extents.steps != spec.sampling.steps {
        return Some(format!(
            "it has {} steps, the run {}",
            trajectory.extents.steps, spec.sampling.steps
        ));
    }
    if !equal(
        &trajectory.sigmas,
        &rpo::sigmas(spec.sampling.steps, spec.sampling.shift),
    ) {
        return Some("its `sigmas` are not the run's noise levels".to_owned());
    }
    let initial = noise(position, spec).initial(Use::Initial, spec.sampling.shared_noise);
    if !equal(trajectory.latent(0), &initial.normal(trajectory.extents.latent_size())) {
        return Some("its first latent is not the noise of its key".to_owned());
    }
    (0..spec.sampling.steps).find_map(|timestep| transition(trajectory, position, spec, timestep))
}

/// What is wrong with the conditioning of a task.
pub(super) fn conditioning_problem(conditioning: &ConditioningFile, task: &Task, spec: &RunSpec) -> Option<String> {
    let found = (conditioning.family.name(), &conditioning.prompt, &conditioning.sources);
    let expected = (spec.model.family.as_str(), &task.words, &task.sources);
    (found != expected).then(|| format!("it is of (family, prompt, sources) {found:?}, its task of {expected:?}"))
}

/// What is wrong with the step from one state to the next.
fn transition(trajectory: &Trajectory, position: &Expected, spec: &RunSpec, timestep: usize) -> Option<String> {
    let (sigma, sigma_next) = (trajectory.sigmas[timestep], trajectory.sigmas[timestep + 1]);
    let (latent, velocity) = (trajectory.latent(timestep), trajectory.velocity(timestep));
    let mut next = latent.to_vec();
    let log_prob = if timestep < spec.sampling.noise_steps {
        let coefficients = rpo::StepCoefficients::new(spec.sampling.sde, spec.sampling.eta, sigma, sigma_next);
        let noise = noise(position, spec).step(timestep).normal(next.len());
        rpo::sde_step(&coefficients, latent, velocity, &noise, &mut next)
    } else {
        rpo::ode_step(sigma, sigma_next, &mut next, velocity);
        0.0
    };
    if !equal(trajectory.latent(timestep + 1), &next) {
        return Some(format!(
            "`latents` row {} does not follow from row {timestep} with the stored velocity and the noise of its key",
            timestep + 1
        ));
    }
    let stored = trajectory.log_probs[timestep];
    (stored.to_bits() != (log_prob as f32).to_bits())
        .then(|| format!("`log_probs` at {timestep} is {stored}, its transition gives {log_prob}"))
}

fn noise(position: &Expected, spec: &RunSpec) -> CandidateNoise {
    CandidateNoise {
        seed: spec.run.seed,
        step: Step(position.step),
        prompt_index: PromptIndex(position.prompt_index),
        candidate: Candidate(position.candidate),
    }
}

fn equal(one: &[f32], other: &[f32]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| one.to_bits() == other.to_bits())
}
