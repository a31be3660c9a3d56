use std::sync::Arc;

use gavel_core::{ids::Digest, rpo::Sde};
use gavel_models::{Family, denoiser::Grid};

use super::{Extents, Trajectory, TrajectoryMetadata};
use crate::{HostTensor, TensorFile};

/// Written by the version before files named their family, with its `gavel sample` on the shipped small model.
const V1: &[u8] = include_bytes!("../../tests/data/trajectory-v1.safetensors");

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32 * 0.25 - 1.0).collect()
}

fn tensor(shape: &[usize]) -> HostTensor {
    HostTensor {
        shape: shape.to_vec(),
        values: values(shape.iter().product()),
    }
}

fn example() -> Trajectory {
    Trajectory {
        metadata: TrajectoryMetadata {
            family: Family::ALL[0],
            model: Digest([7; 32]),
            adapter: None,
            prompt: "a \"red\" circle\non blue, è".into(),
            sources: Vec::new(),
            conditioning: None,
            seed: u64::MAX,
            step: 3,
            prompt_index: 5,
            candidate: 1,
            sde: Sde::Dance,
            eta: 0.3,
            noise_steps: 1,
            shift: 3.0,
            guidance_scale: Some(3.5),
            width: 48,
            height: 32,
            grid: Grid { height: 2, width: 3 },
        },
        extents: Extents {
            steps: 2,
            tokens: 6,
            channels: 4,
        },
        latents: values(3 * 24),
        log_probs: vec![-0.5, 0.0],
        sigmas: vec![1.0, 0.75, 0.0],
        velocities: values(2 * 24),
        conditioning: Arc::new([("words".to_owned(), tensor(&[3, 5])), ("mask".to_owned(), tensor(&[3]))].into()),
    }
}

#[test]
fn a_trajectory_survives_its_file() {
    let mut trajectory = example();
    let bytes = trajectory.to_safetensors();
    assert_eq!(Trajectory::from_safetensors(&bytes).unwrap(), trajectory);
    assert_eq!(Trajectory::from_safetensors(&bytes).unwrap().to_safetensors(), bytes);
    trajectory.metadata.adapter = Some(Digest([1; 32]));
    trajectory.metadata.guidance_scale = None;
    trajectory.metadata.sde = Sde::Flow;
    trajectory.metadata.sources = vec![Digest([2; 32]), Digest([3; 32])];
    assert_eq!(
        Trajectory::from_safetensors(&trajectory.to_safetensors()).unwrap(),
        trajectory
    );
}

#[test]
fn a_trajectory_of_a_run_names_its_conditioning_and_can_be_written_with_it_too() {
    let whole = example();
    let mut trajectory = example();
    trajectory.metadata.conditioning = Some(Digest([9; 32]));
    let bytes = trajectory.to_safetensors();
    let file = TensorFile::from_bytes(&bytes).unwrap();
    assert_eq!(file.metadata["format"], "gavel.trajectory.v3");
    assert_eq!(file.metadata["conditioning"], Digest([9; 32]).to_string());
    assert_eq!(file.tensors.len(), 4);

    let read = Trajectory::from_safetensors(&bytes).unwrap();
    assert!(read.conditioning.is_empty());
    assert_eq!(read.to_safetensors(), bytes);
    let read = read.with_conditioning(&whole.conditioning);
    assert_eq!(read, trajectory);
    let digest = Digest::of(&whole.to_safetensors());
    assert_eq!(read.to_safetensors_of(digest), Some(whole.to_safetensors()));
    assert_eq!(read.to_safetensors_of(Digest::of(&bytes)), Some(bytes.clone()));

    let mut file = file;
    file.metadata.remove("conditioning");
    let error = Trajectory::from_safetensors(&file.to_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "metadata `conditioning` is absent");
    file.metadata.insert("conditioning".into(), Digest([9; 32]).to_string());
    file.insert("conditioning.words", &[1], vec![0.0]);
    let error = Trajectory::from_safetensors(&file.to_bytes()).unwrap_err();
    let expected = "has a tensor `conditioning.words`, which this format does not have";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_file_of_the_first_format_opens_and_can_be_written_again_byte_for_byte() {
    let old = Trajectory::from_safetensors(V1).unwrap();
    assert_eq!(old.metadata.family.name(), "flux");
    assert_eq!(old.metadata.prompt, "a red circle on a blue background");
    assert_eq!((old.extents.steps, old.extents.tokens), (2, 1));
    let names: Vec<&str> = old.conditioning.keys().map(String::as_str).collect();
    assert_eq!(names, ["pooled_prompt_embeds", "prompt_embeds"]);
    assert_eq!(old.conditioning["prompt_embeds"].shape[0], 4);
    assert_eq!(old.to_safetensors_v1().as_deref(), Some(V1));
    assert_eq!(old.to_safetensors_of(Digest::of(V1)).as_deref(), Some(V1));

    let new = old.to_safetensors();
    let file = TensorFile::from_bytes(&new).unwrap();
    assert_eq!(file.metadata["format"], "gavel.trajectory.v2");
    assert_eq!(file.metadata["family"], "flux");
    assert!(file.tensors.contains_key("conditioning.prompt_embeds"));
    assert_eq!(Trajectory::from_safetensors(&new).unwrap(), old);
    assert_eq!(old.to_safetensors_of(Digest::of(&new)), Some(new));

    let mut other = old;
    other.log_probs[0] += 1.0;
    assert_eq!(other.to_safetensors_of(Digest::of(V1)), None);
}

#[test]
fn the_first_format_has_no_words_for_other_conditioning() {
    assert_eq!(example().to_safetensors_v1(), None);
}

#[test]
fn broken_files_are_refused_by_name() {
    let check_of = |bytes: &[u8], change: fn(&mut TensorFile), expected: &str| {
        let mut file = TensorFile::from_bytes(bytes).unwrap();
        change(&mut file);
        let error = Trajectory::from_safetensors(&file.to_bytes()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let bytes = example().to_safetensors();
    let check = |change, expected| check_of(&bytes, change, expected);
    check(
        |file| file.insert("sigmas", &[2], vec![1.0, 0.0]),
        "tensor `sigmas` has shape [2], expected [3]",
    );
    check(|file| drop(file.take("velocities")), "has no tensor `velocities`");
    check(
        |file| file.insert("extra", &[1], vec![0.0]),
        "has a tensor `extra`, which this format does not have",
    );
    check(|file| drop(file.metadata.remove("eta")), "metadata `eta` is absent");
    check(
        |file| drop(file.metadata.remove("family")),
        "metadata `family` is absent",
    );
    check(
        |file| drop(file.metadata.insert("family".into(), "none".into())),
        "metadata `family` is `none`, which is not a model family of this version",
    );
    check(
        |file| drop(file.metadata.insert("model".into(), "tiny".into())),
        "metadata `model` is `tiny`, which is not a SHA-256",
    );
    check(
        |file| drop(file.metadata.insert("adapter".into(), "tiny".into())),
        "metadata `adapter` is `tiny`, which is not a SHA-256 or `base`",
    );
    check(
        |file| drop(file.metadata.insert("sources".into(), "a.png".into())),
        "metadata `sources` is `a.png`, which is not SHA-256 sums with commas between them",
    );
    check(
        |file| drop(file.metadata.insert("format".into(), "gavel.gradient.v1".into())),
        "metadata `format` is `gavel.gradient.v1`, expected `gavel.trajectory.v3`",
    );
    check(
        |file| drop(file.metadata.insert("noise_steps".into(), "9".into())),
        "metadata `noise_steps` is `9`, which is not at most the number of steps",
    );
    check_of(
        V1,
        |file| drop(file.take("prompt_embeds")),
        "has no tensor `prompt_embeds`",
    );
    check_of(
        V1,
        |file| file.insert("conditioning.prompt_embeds", &[1], vec![0.0]),
        "has a tensor `conditioning.prompt_embeds`, which this format does not have",
    );
}
