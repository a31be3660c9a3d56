//! Sampling on the shipped small model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{path::PathBuf, sync::LazyLock};

use gavel_core::{
    ids::{Digest, PromptIndex, Step},
    noise::Use,
    spec::SamplingSpec,
};
use gavel_models::load::Placement;
use gavel_models::{
    Family,
    denoiser::{Encoding, SourceAreas, Task},
    lora::{LoraAdapter, LoraConfig},
};
use gavel_policy::{Levels, Method, Policy, Prompt, Request, Sample, Sampler, Trajectory, encode_png, sample::Error};

fn tiny_flux() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-flux"))
}

fn load() -> Sampler {
    Sampler::load(Family::Flux, &tiny_flux(), &Placement::cpu()).unwrap()
}

static SAMPLING: LazyLock<SamplingSpec> = LazyLock::new(|| SamplingSpec {
    eta: 1.0,
    noise_steps: 3,
    width: 64,
    height: 64,
    ..SamplingSpec::default()
});

fn prompts(texts: &[&'static str]) -> Vec<Prompt<'static>> {
    let prompt = |(index, words): (usize, &&'static str)| Prompt {
        index: PromptIndex(index as u32),
        task: Task { words, sources: &[] },
        sources: &[],
    };
    texts.iter().enumerate().map(prompt).collect()
}

fn request<'a>(prompts: &'a [Prompt<'a>], sampling: &'a SamplingSpec, method: Method) -> Request<'a> {
    Request {
        prompts,
        candidates: 2,
        first_candidate: 0,
        method,
        seed: 7,
        step: Step(3),
        initial: Use::Initial,
        initial_latents: None,
        negative: None,
        sampling,
        levels: Levels::Shift,
        encoding: Encoding {
            max_sequence_length: 24,
            source_areas: None,
        },
    }
}

/// Trajectory and image as they are stored.
fn bytes(samples: &[Sample]) -> Vec<(Vec<u8>, Vec<u8>)> {
    samples
        .iter()
        .map(|sample| (sample.trajectory.to_safetensors(), encode_png(&sample.image).unwrap()))
        .collect()
}

const TEXTS: [&str; 3] = [
    "a red circle on a blue background",
    "a green square on a white background",
    "a yellow triangle left of a black circle on a gray background",
];

#[test]
fn a_pair_is_a_function_of_its_key() {
    let all = prompts(&TEXTS);
    let mut sampler = load();
    let whole = bytes(
        &sampler
            .sample(Policy::Base, &request(&all, &SAMPLING, Method::Sde))
            .unwrap(),
    );
    assert_eq!(whole.len(), 6);
    let again = bytes(
        &sampler
            .sample(Policy::Base, &request(&all, &SAMPLING, Method::Sde))
            .unwrap(),
    );
    assert_eq!(again, whole, "the same work twice, embeddings now cached");

    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let samples = pool.install(|| {
            load()
                .sample(Policy::Base, &request(&all, &SAMPLING, Method::Sde))
                .unwrap()
        });
        assert_eq!(bytes(&samples), whole, "another worker with {threads} threads");
    }

    let alone = load()
        .sample(Policy::Base, &request(&all[1..2], &SAMPLING, Method::Sde))
        .unwrap();
    assert_eq!(bytes(&alone), whole[2..4], "the same pair in another chunk");
}

#[test]
fn candidates_share_their_first_latent_only_where_asked() {
    let all = prompts(&TEXTS[..1]);
    let mut sampler = load();
    let shared = sampler
        .sample(Policy::Base, &request(&all, &SAMPLING, Method::Sde))
        .unwrap();
    let [first, second] = [&shared[0].trajectory, &shared[1].trajectory];
    assert_eq!(first.latent(0), second.latent(0));
    assert_ne!(first.latent(1), second.latent(1));
    assert_ne!(shared[0].image, shared[1].image);

    let own = SamplingSpec {
        shared_noise: false,
        ..SAMPLING.clone()
    };
    let own = sampler.sample(Policy::Base, &request(&all, &own, Method::Sde)).unwrap();
    assert_eq!(
        own[0].trajectory.latent(0),
        first.latent(0),
        "candidate 0 keeps its key"
    );
    assert_ne!(own[1].trajectory.latent(0), first.latent(0));
}

#[test]
fn a_sample_of_an_evaluation_has_its_own_noise_whatever_candidates_share_and_whatever_is_painted_beside_it() {
    let all = prompts(&TEXTS[..1]);
    let mut sampler = load();
    let mut samples = |first_candidate, candidates| {
        let request = Request {
            candidates,
            first_candidate,
            initial: Use::EvaluationInitial,
            ..request(&all, &SAMPLING, Method::Ode)
        };
        let samples = sampler.sample(Policy::Base, &request).unwrap();
        samples
            .into_iter()
            .map(|sample| (sample.candidate.0, sample.image))
            .collect::<Vec<_>>()
    };
    let both = samples(0, 2);
    assert_ne!(both[0].1, both[1].1);
    assert_eq!([samples(0, 1), samples(1, 1)].concat(), both);
}

#[test]
fn noise_ends_with_the_window() {
    let all = prompts(&TEXTS[..1]);
    let samples = load()
        .sample(Policy::Base, &request(&all, &SAMPLING, Method::Sde))
        .unwrap();
    let Trajectory { log_probs, sigmas, .. } = &samples[0].trajectory;
    assert!(log_probs[..3].iter().all(|value| *value != 0.0), "{log_probs:?}");
    assert!(log_probs[3..].iter().all(|value| *value == 0.0), "{log_probs:?}");
    let euler_gap = |step: usize| {
        let trajectory = &samples[0].trajectory;
        let d = sigmas[step + 1] - sigmas[step];
        let states = trajectory
            .latent(step)
            .iter()
            .zip(trajectory.velocity(step))
            .zip(trajectory.latent(step + 1));
        states.fold(0.0_f32, |gap, ((x, v), next)| gap.max((x + d * v - next).abs()))
    };
    for step in 0..8 {
        assert_eq!(euler_gap(step) > 0.05, step < 3, "step {step}: {}", euler_gap(step));
    }
}

#[test]
fn a_deterministic_sample_depends_on_its_first_latent_alone() {
    let all = prompts(&TEXTS[..1]);
    let mut sampler = load();
    let samples = sampler
        .sample(Policy::Base, &request(&all, &SAMPLING, Method::Ode))
        .unwrap();
    assert_eq!(samples[0].image, samples[1].image);
    assert_eq!(samples[0].trajectory.metadata.noise_steps, 0);

    let given = samples[0].trajectory.latent(0).to_vec();
    let from_given = Request {
        initial_latents: Some(&given),
        seed: 99,
        ..request(&all, &SAMPLING, Method::Ode)
    };
    assert_eq!(
        sampler.sample(Policy::Base, &from_given).unwrap()[0].image,
        samples[0].image
    );

    let short = Request {
        initial_latents: Some(&given[1..]),
        ..from_given
    };
    let error = sampler.sample(Policy::Base, &short).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InitialLatents {
                found: 1023,
                tokens: 16,
                channels: 64
            }
        ),
        "{error}"
    );
}

#[test]
fn an_adapter_that_changes_nothing_yet_samples_as_the_base() {
    let all = prompts(&TEXTS[..1]);
    let mut sampler = load();
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        target_modules: vec!["attn.to_q".into(), "ff.net.2".into()],
    };
    let mut adapter = LoraAdapter::init(sampler.denoiser().layers(), &config, [1; 32]).unwrap();
    let digest = Digest([5; 32]);
    let base = sampler
        .sample(Policy::Base, &request(&all, &SAMPLING, Method::Sde))
        .unwrap();
    let fresh = sampler
        .sample(
            Policy::Adapted {
                digest,
                adapter: &adapter,
            },
            &request(&all, &SAMPLING, Method::Sde),
        )
        .unwrap();
    assert_eq!(fresh[0].trajectory.latents, base[0].trajectory.latents);
    assert_eq!(fresh[0].trajectory.metadata.adapter, Some(digest));

    let louder: Vec<f32> = adapter.flatten().iter().map(|value| value + 0.05).collect();
    adapter.unflatten(&louder).unwrap();
    let changed = sampler
        .sample(
            Policy::Adapted {
                digest,
                adapter: &adapter,
            },
            &request(&all, &SAMPLING, Method::Sde),
        )
        .unwrap();
    assert_ne!(changed[0].trajectory.latents, base[0].trajectory.latents);
}

#[test]
fn an_adapter_that_is_not_finite_is_named_as_such() {
    let all = prompts(&TEXTS[..1]);
    let mut sampler = load();
    let config = LoraConfig {
        rank: 1,
        alpha: 1.0,
        dropout: 0.0,
        target_modules: vec!["attn.to_q".into()],
    };
    let mut adapter = LoraAdapter::init(sampler.denoiser().layers(), &config, [1; 32]).unwrap();
    adapter.unflatten(&vec![f32::NAN; adapter.parameter_count()]).unwrap();
    let policy = Policy::Adapted {
        digest: Digest([5; 32]),
        adapter: &adapter,
    };
    let error = sampler
        .sample(policy, &request(&all, &SAMPLING, Method::Sde))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the velocity of prompt 0, candidate 0 is not finite at timestep 0"
    );
}

#[test]
fn a_folder_that_does_not_exist_is_named() {
    let error = Sampler::load(Family::Flux, &tiny_flux().join("none"), &Placement::cpu())
        .err()
        .unwrap();
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn an_edit_takes_the_aspect_ratio_of_its_source_where_it_is_asked_to_and_names_it() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen-edit"));
    let mut sampler = Sampler::load(Family::QwenImageEdit, &folder, &Placement::cpu()).unwrap();
    let source = image::RgbImage::from_pixel(128, 32, image::Rgb([220, 40, 40]));
    let names = [Digest::of(b"the source's file")];
    let edit = [Prompt {
        index: PromptIndex(0),
        task: Task {
            words: "make the background pink",
            sources: std::slice::from_ref(&source),
        },
        sources: &names,
    }];
    for (source_aspect, expected) in [(true, (128, 32)), (false, (64, 64))] {
        let sampling = SamplingSpec {
            source_aspect,
            ..SAMPLING.clone()
        };
        let mut request = request(&edit, &sampling, Method::Sde);
        request.encoding.source_areas = Some(SourceAreas {
            latents: 64 * 64,
            text: 64 * 64,
        });
        let samples = sampler.sample(Policy::Base, &request).unwrap();
        let sample = &samples[0];
        assert_eq!(sample.image.dimensions(), expected);
        let metadata = &sample.trajectory.metadata;
        assert_eq!((metadata.width as u32, metadata.height as u32), expected);
        assert_eq!(metadata.sources, names);
        assert_ne!(sample.image, samples[1].image, "two candidates have noise of their own");
    }
}
