//! Trajectories of the shipped small model.

use std::path::PathBuf;

use gavel_core::{
    ids::{Digest, PromptIndex, Step},
    noise::{NoiseKey, Use},
    spec::{ObjectiveSpec, SamplingSpec},
};
use gavel_models::load::Placement;
use gavel_models::{
    Family,
    denoiser::{ActivationMemory, Encoding, Task},
    lora::{LoraAdapter, LoraConfig},
};
use gavel_policy::{
    GradientSettings, Group, Levels, Method, Policy, Prompt, Request, RewardedTrajectory, Sampler, Trainer,
};

pub(crate) fn tiny_flux() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-flux"))
}

pub(crate) fn trainer() -> Trainer {
    Trainer::load(Family::Flux, &tiny_flux(), &Placement::cpu()).unwrap()
}

pub(crate) fn lora() -> LoraConfig {
    let targets = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
    ];
    let more = [
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    ];
    let target_modules = targets.iter().chain(&more).map(|name| (*name).to_owned()).collect();
    LoraConfig {
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        target_modules,
    }
}

/// An adapter in the middle of training: B is no longer zero.
pub(crate) fn adapter(trainer: &Trainer) -> (Digest, LoraAdapter) {
    let mut adapter = trainer.initialise(&lora(), 1, false).unwrap().adapter;
    let noise = NoiseKey::new(11, Use::AdapterInit).normal(adapter.parameter_count());
    let values: Vec<f32> = adapter
        .flatten()
        .iter()
        .zip(noise)
        .map(|(value, noise)| value + 0.02 * noise)
        .collect();
    adapter.unflatten(&values).unwrap();
    (Digest::of(&adapter.to_safetensors().unwrap()), adapter)
}

pub(crate) fn sampling() -> SamplingSpec {
    SamplingSpec {
        eta: 1.0,
        noise_steps: 3,
        width: 64,
        height: 64,
        ..SamplingSpec::default()
    }
}

/// `count` pairs with rewards +1 and -1.
pub(crate) fn groups(digest: Digest, adapter: &LoraAdapter, count: u32) -> Vec<Group> {
    let mut sampler = Sampler::load(Family::Flux, &tiny_flux(), &Placement::cpu()).unwrap();
    let texts = [
        "a red circle on a blue background",
        "a green square on a white background",
        "a black triangle",
    ];
    let prompts: Vec<Prompt<'_>> = (0..count)
        .map(|index| Prompt {
            index: PromptIndex(index),
            task: Task {
                words: texts[index as usize % texts.len()],
                sources: &[],
            },
            sources: &[],
        })
        .collect();
    let request = Request {
        prompts: &prompts,
        candidates: 2,
        first_candidate: 0,
        method: Method::Sde,
        seed: 5,
        step: Step(1),
        initial: Use::Initial,
        initial_latents: None,
        negative: None,
        sampling: &sampling(),
        levels: Levels::Shift,
        encoding: Encoding {
            max_sequence_length: 24,
            source_areas: None,
        },
    };
    let samples = sampler.sample(Policy::Adapted { digest, adapter }, &request).unwrap();
    samples
        .chunks(2)
        .enumerate()
        .map(|(index, pair)| {
            let sign = if index % 2 == 0 { 1.0 } else { -1.0 };
            let candidates = [(&pair[0], sign), (&pair[1], -sign)].map(|(sample, reward)| RewardedTrajectory {
                trajectory: sample.trajectory.clone(),
                reward,
            });
            Group {
                prompt_index: pair[0].prompt_index,
                candidates: candidates.into(),
            }
        })
        .collect()
}

pub(crate) fn objective() -> ObjectiveSpec {
    ObjectiveSpec {
        kl: gavel_core::rpo::Kl::Gaussian,
        kl_beta: 0.1,
        ..ObjectiveSpec::default()
    }
}

pub(crate) fn settings(objective: &ObjectiveSpec) -> GradientSettings<'_> {
    GradientSettings {
        objective,
        timesteps: vec![0, 1, 2],
        memory: ActivationMemory::KeepAll,
        ratio_deviation: 1e-3,
    }
}
