//! The conditioning as a file of its own: whoever is handed it samples what somebody samples who encodes the task.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device};
use gavel_core::{
    ids::{Digest, PromptIndex, Step},
    rpo::Sde,
    spec::RunSpec,
};
use gavel_models::{
    Family,
    denoiser::{Grid, Task},
    load::Placement,
};
use gavel_policy::{
    ConditioningFile, HostTensor, Policy, Prompt, Request, Sample, Sampler, Trajectory,
    trajectory::{Extents, TrajectoryMetadata},
};
use safetensors::{Dtype, SafeTensors};

const WORDS: [&str; 2] = [
    "a red circle on a blue background",
    "a green square on a white background",
];

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn spec() -> RunSpec {
    let text = std::fs::read_to_string(root().join("configs/quickstart.toml")).unwrap();
    RunSpec::from_value(toml::from_str(&text).unwrap()).unwrap()
}

fn load(placement: &Placement) -> Sampler {
    Sampler::load(Family::Flux, &root().join("models/tiny-flux"), placement).unwrap()
}

fn prompts() -> [Prompt<'static>; 2] {
    [0, 1].map(|index| Prompt {
        index: PromptIndex(index as u32),
        task: Task {
            words: WORDS[index],
            sources: &[],
        },
        sources: &[],
    })
}

fn sample(sampler: &mut Sampler, prompts: &[Prompt<'_>]) -> Vec<Sample> {
    let spec = spec();
    let request = Request::training(&spec, Step(1), prompts);
    sampler.sample(Policy::Base, &request).unwrap()
}

/// The files of the conditionings of two candidates each, one for each prompt.
fn files(sampler: &Sampler, samples: &[Sample]) -> Vec<Vec<u8>> {
    let pairs = samples.chunks(2);
    pairs
        .map(|pair| {
            let [one, other] = [0, 1].map(|candidate| sampler.conditioning_file(&pair[candidate].trajectory));
            assert_eq!(one, other);
            one.to_safetensors()
        })
        .collect()
}

fn dtypes(file: &[u8]) -> Vec<Dtype> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    tensors
        .tensors()
        .into_iter()
        .map(|(_, tensor)| tensor.dtype())
        .collect()
}

#[test]
fn who_is_handed_a_conditioning_samples_what_an_encoder_gives_bit_for_bit() {
    for placement in [Placement::cpu(), Placement::candle(Device::Cpu, DType::BF16)] {
        let prompts = prompts();
        let mut encoding = load(&placement);
        let encoded = sample(&mut encoding, &prompts);
        let files = files(&encoding, &encoded);

        let mut reading = load(&placement);
        let how = Request::training(&spec(), Step(1), &prompts).encoding;
        for (prompt, file) in prompts.iter().zip(&files) {
            assert!(!reading.has_conditioning(&prompt.task, how));
            let file = ConditioningFile::from_safetensors(file).unwrap();
            reading.take_conditioning(prompt, how, &file).unwrap();
            assert!(reading.has_conditioning(&prompt.task, how));
        }
        let read = sample(&mut reading, &prompts);
        for (read, encoded) in read.iter().zip(&encoded) {
            assert_eq!(read.trajectory.to_safetensors(), encoded.trajectory.to_safetensors());
            assert_eq!(read.image, encoded.image);
        }
        assert_eq!(self::files(&reading, &read), files);

        reading.forget_taken_conditioning();
        assert!(!reading.has_conditioning(&prompts[0].task, how));
        encoding.forget_taken_conditioning();
        assert!(
            encoding.has_conditioning(&prompts[0].task, how),
            "it has made that itself"
        );
    }
}

/// The encoders round their output to the number format that they compute in, so that storing it so rounds nothing: the numbers in
/// the file are those that the denoiser read.
#[test]
fn a_conditioning_is_stored_in_the_number_format_that_it_was_computed_in() {
    let formats = [
        (Placement::cpu(), Dtype::F32),
        (Placement::candle(Device::Cpu, DType::BF16), Dtype::BF16),
    ];
    for (placement, expected) in formats {
        let mut sampler = load(&placement);
        let samples = sample(&mut sampler, &prompts());
        for (file, pair) in files(&sampler, &samples).iter().zip(samples.chunks(2)) {
            assert_eq!(dtypes(file), [expected; 2]);
            let read = ConditioningFile::from_safetensors(file).unwrap();
            for (name, tensor) in pair[0].trajectory.conditioning.iter() {
                let bits = |tensor: &HostTensor| tensor.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&read.tensors[name]), bits(tensor), "{name}");
            }
        }
    }
}

#[test]
fn a_conditioning_that_is_not_the_prompts_is_refused_in_words() {
    let mut sampler = load(&Placement::cpu());
    let prompts = prompts();
    let samples = sample(&mut sampler, &prompts);
    let good = sampler.conditioning_file(&samples[0].trajectory);
    let how = Request::training(&spec(), Step(1), &prompts).encoding;
    let mut refused = |change: fn(&mut ConditioningFile)| {
        let mut file = good.clone();
        change(&mut file);
        sampler.take_conditioning(&prompts[0], how, &file).unwrap_err()
    };
    for problem in [
        refused(|file| file.prompt = WORDS[1].into()),
        refused(|file| file.encoders = Digest([1; 32])),
        refused(|file| file.sources = vec![Digest([1; 32])]),
        refused(|file| file.family = Family::QwenImage),
    ] {
        assert!(problem.contains("asked for was"), "{problem}");
    }
    let problem = refused(|file| drop(Arc::make_mut(&mut file.tensors).remove("prompt_embeds")));
    assert!(problem.contains("prompt_embeds"), "{problem}");
    let problem = refused(|file| {
        let tensor = Arc::make_mut(&mut file.tensors).get_mut("prompt_embeds");
        tensor.unwrap().values[3] = f32::NAN;
    });
    assert!(problem.contains("`prompt_embeds` holds NaN at 3"), "{problem}");
}

/// What one step of `configs/flux-dev.toml` sends: eight pairs of 512 x 512 pixels in eight steps, prompts of 512 tokens.
#[test]
fn the_documentation_says_what_a_step_of_flux_dev_sends() {
    const PAIRS: usize = 8;
    let spec = RunSpec::from_value(
        toml::from_str(&std::fs::read_to_string(root().join("configs/flux-dev.toml")).unwrap()).unwrap(),
    )
    .unwrap();
    assert_eq!(spec.prompts.per_step as usize, PAIRS);
    let sampling = &spec.sampling;
    // 16 pixels a token; 64 channels, T5's 4,096 and CLIP's 768 states are FLUX.1-dev's.
    let grid = Grid {
        height: sampling.height / 16,
        width: sampling.width / 16,
    };
    let extents = Extents {
        steps: sampling.steps,
        tokens: grid.tokens(),
        channels: 64,
    };
    let tensor = |shape: &[usize]| HostTensor {
        shape: shape.to_vec(),
        values: vec![0.5; shape.iter().product()],
    };
    let tokens = spec.prompts.max_sequence_length;
    let conditioning = [
        ("prompt_embeds".to_owned(), tensor(&[tokens, 4096])),
        ("pooled_prompt_embeds".to_owned(), tensor(&[768])),
    ];
    let (steps, size) = (extents.steps, extents.latent_size());
    let mut trajectory = Trajectory {
        metadata: TrajectoryMetadata {
            family: Family::Flux,
            model: Digest([0; 32]),
            adapter: None,
            prompt: WORDS[0].into(),
            sources: Vec::new(),
            conditioning: None,
            seed: 0,
            step: 1,
            prompt_index: 0,
            candidate: 0,
            sde: Sde::Dance,
            eta: sampling.eta,
            noise_steps: sampling.noise_steps,
            shift: sampling.shift,
            guidance_scale: Some(sampling.guidance_scale),
            width: sampling.width,
            height: sampling.height,
            grid,
        },
        extents,
        latents: vec![0.0; (steps + 1) * size],
        log_probs: vec![0.0; steps],
        sigmas: vec![0.0; steps + 1],
        velocities: vec![0.0; steps * size],
        conditioning: Arc::new(conditioning.into()),
    };
    let file = ConditioningFile {
        family: Family::Flux,
        encoders: Digest([0; 32]),
        prompt: WORDS[0].into(),
        sources: Vec::new(),
        tensors: Arc::clone(&trajectory.conditioning),
    };
    let whole = trajectory.to_safetensors().len();
    trajectory.metadata.conditioning = Some(Digest([0; 32]));
    let (alone, file) = (trajectory.to_safetensors().len(), file.to_safetensors().len());

    let candidates = 2 * PAIRS;
    let megabytes = |bytes: usize| format!("{:.1} MB", bytes as f64 / 1e6);
    let documentation = std::fs::read_to_string(root().join("docs/scale.md")).unwrap();
    for (what, before, first, later) in [
        (
            "from samplers",
            candidates * whole,
            candidates * alone + PAIRS * file,
            candidates * alone,
        ),
        ("to samplers", 0, 0, PAIRS * file),
        (
            "to trainers",
            candidates * whole,
            candidates * alone + PAIRS * file,
            candidates * alone + PAIRS * file,
        ),
    ] {
        let [before, first, later] = [before, first, later].map(megabytes);
        let row = format!("| {what} | {before} | {first} | {later} |");
        assert!(documentation.contains(&row), "docs/scale.md lacks the row\n{row}");
    }
}
