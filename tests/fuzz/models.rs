//! Model folders, adapters and trajectories.

use std::path::Path;
use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_core::rpo::Sde;
use gavel_models::Family;
use gavel_models::denoiser::{Grid, Inspection};
use gavel_models::lora::{LoraAdapter, LoraConfig};
use gavel_models::vlm::VlmInspection;
use gavel_policy::trajectory::{Extents, TrajectoryMetadata};
use gavel_policy::{ConditioningFile, HostConditioning, HostTensor, OptimizerState, TensorFile, Trajectory};

use crate::{file, fuzz, fuzz_cases, root};

const MODEL: &str = "models/tiny-flux";

fn model() -> Box<dyn Inspection> {
    Family::Flux.inspect(&root().join(MODEL)).unwrap()
}

fn config() -> LoraConfig {
    LoraConfig {
        rank: 2,
        alpha: 4.0,
        dropout: 0.0,
        target_modules: vec!["attn.to_q".to_owned()],
    }
}

fn adapter() -> LoraAdapter {
    LoraAdapter::init(model().layers(), &config(), [0; 32]).unwrap()
}

#[test]
fn adapters() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    adapter().save(folder.path()).unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let weights = ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"].map(read);
    let lone = folder.path().join("lone.safetensors");
    fuzz(&weights, |bytes| {
        let _ = LoraAdapter::from_safetensors(bytes, &config(), model.layers());
        std::fs::write(&lone, bytes).unwrap();
        let _ = LoraAdapter::import(&lone, model.layers());
    });
    let settings = folder.path().join("adapter_config.json");
    fuzz(&[read("adapter_config.json")], |bytes| {
        std::fs::write(&settings, bytes).unwrap();
        let _ = LoraAdapter::load(folder.path(), model.layers());
    });
}

#[test]
fn trajectories_and_optimizer_states() {
    let trajectory = Trajectory {
        metadata: TrajectoryMetadata {
            family: Family::Flux,
            model: Digest::of(b"model"),
            adapter: None,
            prompt: "a circle".into(),
            sources: Vec::new(),
            conditioning: None,
            seed: 0,
            step: 3,
            prompt_index: 5,
            candidate: 1,
            sde: Sde::Dance,
            eta: 0.3,
            noise_steps: 1,
            shift: 1.0,
            guidance_scale: Some(3.5),
            width: 32,
            height: 16,
            grid: Grid { height: 1, width: 2 },
        },
        extents: Extents {
            steps: 1,
            tokens: 2,
            channels: 4,
        },
        latents: vec![0.5; 16],
        log_probs: vec![0.0],
        sigmas: vec![1.0, 0.0],
        velocities: vec![0.0; 8],
        conditioning: Arc::new(HostConditioning::from([(
            "prompt_embeds".to_owned(),
            HostTensor {
                shape: vec![2, 3],
                values: vec![0.1; 6],
            },
        )])),
    };
    let optimizer = OptimizerState::fresh(&adapter(), true);
    let conditioning = ConditioningFile {
        family: Family::Flux,
        encoders: Digest::of(b"encoders"),
        prompt: "a circle".into(),
        sources: vec![Digest::of(b"source")],
        tensors: Arc::clone(&trajectory.conditioning),
    };
    let mut of_a_run = trajectory.clone();
    of_a_run.metadata.conditioning = Some(Digest::of(&conditioning.to_safetensors()));
    let good = [
        trajectory.to_safetensors(),
        of_a_run.to_safetensors(),
        conditioning.to_safetensors(),
        optimizer.to_safetensors(),
    ];
    fuzz(&good, |bytes| {
        let _ = Trajectory::from_safetensors(bytes);
        let _ = ConditioningFile::from_safetensors(bytes);
        let _ = OptimizerState::from_safetensors(bytes);
        let _ = TensorFile::from_bytes(bytes);
    });
}

/// A copy of a folder whose weights are links.
fn linked(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if path.is_dir() {
            linked(&path, &target);
        } else {
            std::os::unix::fs::symlink(path.canonicalize().unwrap(), target).unwrap();
        }
    }
}

/// Changes each settings file of a folder, in turn, and looks into the folder.
fn settings(folder: &str, files: &[&str], look: impl Fn(&Path)) {
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("model");
    linked(&root().join(folder), &copied);
    for name in files {
        let good = file(&format!("{folder}/{name}"));
        let target = copied.join(name);
        fuzz_cases(32, std::slice::from_ref(&good), |bytes| {
            std::fs::remove_file(&target).unwrap();
            std::fs::write(&target, bytes).unwrap();
            look(&copied);
        });
        std::fs::write(&target, good).unwrap();
    }
}

#[test]
fn settings_of_a_pipeline() {
    let files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "vae/config.json",
    ];
    settings(MODEL, &files, |folder| {
        let _ = Family::Flux.inspect(folder);
    });
    let files = [
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "vae/config.json",
    ];
    settings(MODEL, &files, |folder| {
        let cpu = gavel_models::load::Placement::cpu();
        let _ = gavel_models::flux::pipeline::FluxTextEncoders::load(folder, &cpu);
        let _ = gavel_models::vae::AutoencoderKl::load(&folder.join("vae"), &cpu);
    });
}

#[test]
fn settings_of_an_edit_pipeline() {
    let files = ["transformer/config.json", "vae/config.json", "text_encoder/config.json"];
    settings("models/tiny-qwen-edit", &files, |folder| {
        let _ = Family::QwenImageEdit.inspect(folder);
    });
}

#[test]
fn settings_of_a_judge() {
    let files = [
        "config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "chat_template.json",
    ];
    settings("models/tiny-judge", &files, |folder| {
        let _ = VlmInspection::read(folder);
    });
}
