//! Qwen-Image's autoencoder, schedule and guidance against diffusers.
//!
//! `tests/golden/qwen_vae.py` writes the folders and the expected tensors.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use gavel_models::{
    LoadError,
    denoiser::scheduler::SchedulerConfig,
    qwen::guidance::guided,
    vae::{AutoencoderKlQwenImage, AutoencoderKlQwenImageConfig},
};
use tempfile::TempDir;

use crate::kernels::{Kernels, root};

/// The random folders, each with its sizes of pictures.
const CASES: [(&str, usize); 2] = [("published-layout", 2), ("other-layout", 1)];

fn golden() -> PathBuf {
    root().join("tests/golden/qwen_vae")
}

fn tensors(file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden().join(file), &Device::Cpu).unwrap()
}

fn load(dir: &Path, kernels: Kernels) -> Result<AutoencoderKlQwenImage, LoadError> {
    AutoencoderKlQwenImage::load(dir, &kernels.placement())
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// bfloat16's steps grow with the values within a decoder, which are far larger than a picture's.
fn tolerance(kernels: Kernels) -> f64 {
    match kernels {
        Kernels::Fused | Kernels::CandleF32 => kernels.tolerance(),
        Kernels::CandleBf16 => 1.2e-1,
    }
}

fn assert_close(kernels: Kernels, found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (flat(found), flat(expected));
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        let error = (found - expected).abs();
        assert!(
            f64::from(error) <= tolerance(kernels) * f64::from(largest),
            "{what} by {kernels:?}: {found} is not {expected}; the largest element is {largest}"
        );
    }
}

/// A copy of a random folder, to be damaged.
fn copy(case: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(golden().join(case).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Rewrites the weights of a folder.
fn edit_weights(dir: &Path, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let file = dir.join("diffusion_pytorch_model.safetensors");
    let mut weights = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    edit(&mut weights);
    candle_core::safetensors::save(&weights, &file).unwrap();
}

/// Sets a key of a folder's `config.json`.
fn set(dir: &Path, key: &str, value: serde_json::Value) {
    let file = dir.join("config.json");
    let mut settings: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    settings[key] = value;
    fs::write(&file, settings.to_string()).unwrap();
}

#[test]
fn pictures_are_encoded_and_decoded_as_diffusers_does() {
    for kernels in Kernels::ALL {
        for (case, sizes) in CASES {
            let vae = load(&golden().join(case), kernels).unwrap();
            let expected = tensors(&format!("{case}/expected.safetensors"));
            for i in 0..sizes {
                let latents = vae.encode(&expected[&format!("image.{i}")]).unwrap();
                assert_close(
                    kernels,
                    &latents,
                    &expected[&format!("latents.{i}")],
                    &format!("{case} latents {i}"),
                );
                let decoded = vae.decode(&expected[&format!("given.{i}")]).unwrap();
                assert_close(
                    kernels,
                    &decoded,
                    &expected[&format!("decoded.{i}")],
                    &format!("{case} decoded {i}"),
                );
            }
        }
    }
}

#[test]
fn a_picture_depends_neither_on_its_batch_nor_on_the_number_of_threads() {
    for kernels in Kernels::ALL {
        let vae = load(&golden().join("other-layout"), kernels).unwrap();
        let expected = tensors("other-layout/expected.safetensors");
        let (image, latents) = (&expected["image.0"], &expected["given.0"]);
        let both = |threads: usize, count: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let repeated = |tensor: &Tensor| Tensor::cat(&vec![tensor; count], 0).unwrap();
            pool.install(|| {
                let encoded = vae.encode(&repeated(image)).unwrap();
                let decoded = vae.decode(&repeated(latents)).unwrap();
                (
                    flat(&encoded.narrow(0, count - 1, 1).unwrap()),
                    flat(&decoded.narrow(0, count - 1, 1).unwrap()),
                )
            })
        };
        assert_eq!(both(1, 1), both(3, 4));
    }
}

#[test]
fn frames_that_a_picture_does_not_have_leave_no_trace() {
    let folder = copy("other-layout");
    let expected = tensors("other-layout/expected.safetensors");
    let results = || {
        let vae = load(folder.path(), Kernels::Fused).unwrap();
        let encoded = vae.encode(&expected["image.0"]).unwrap();
        (flat(&encoded), flat(&vae.decode(&expected["given.0"]).unwrap()))
    };
    let before = results();
    let mut changed = 0;
    edit_weights(folder.path(), |weights| {
        for (name, weight) in weights {
            let frames = weight.dims().get(2).copied().unwrap_or(1);
            if name.contains("time_conv") {
                *weight = (&*weight + 1.0).unwrap();
                changed += 1;
            } else if weight.rank() == 5 && frames == 3 {
                let earlier = (weight.narrow(2, 0, 2).unwrap() + 1.0).unwrap();
                *weight = Tensor::cat(&[&earlier, &weight.narrow(2, 2, 1).unwrap()], 2).unwrap();
                changed += 1;
            }
        }
    });
    assert!(changed > 20, "only {changed} tensors were changed");
    assert_eq!(results(), before);
}

#[test]
fn the_settings_say_how_many_pixels_a_latent_pixel_has() {
    let config = |case: &str| AutoencoderKlQwenImageConfig::read(&golden().join(case)).unwrap();
    assert_eq!(
        (config("published-layout").scale(), config("published-layout").z_dim),
        (8, 4)
    );
    assert_eq!((config("other-layout").scale(), config("other-layout").z_dim), (4, 3));
}

#[test]
fn inputs_of_another_shape_are_refused() {
    let vae = load(&golden().join("other-layout"), Kernels::Fused).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for shape in [
        &[1, 3, 12, 18][..],
        &[1, 3, 0, 12],
        &[1, 4, 12, 12],
        &[0, 3, 12, 12],
        &[3, 12, 12],
    ] {
        let error = vae.encode(&zeros(shape)).unwrap_err().to_string();
        assert!(error.starts_with("`images` has shape"), "{error}");
    }
    for shape in [&[1, 4, 3, 3][..], &[1, 3, 0, 3], &[0, 3, 3, 3], &[3, 3]] {
        let error = vae.decode(&zeros(shape)).unwrap_err().to_string();
        assert!(error.starts_with("`latents` has shape"), "{error}");
    }
}

#[test]
fn settings_that_are_not_computed_are_refused_by_name() {
    for (key, value) in [
        ("attn_scales", serde_json::json!([0.5])),
        ("input_channels", serde_json::json!(4)),
        ("dim_mult", serde_json::json!([])),
        ("dim_mult", serde_json::json!([2, 0, 3])),
        ("temperal_downsample", serde_json::json!([true, true, true])),
        ("num_res_blocks", serde_json::json!(0)),
        ("z_dim", serde_json::json!(0)),
        ("latents_mean", serde_json::json!([0.0])),
        ("latents_std", serde_json::json!([1.0, 0.0, 1.0])),
    ] {
        let folder = copy("other-layout");
        set(folder.path(), key, value);
        let error = load(folder.path(), Kernels::Fused).unwrap_err();
        assert!(
            matches!(&error, LoadError::Unsupported { key: found, .. } if found == key),
            "{key}: {error}"
        );
    }
    let folder = copy("other-layout");
    set(folder.path(), "latents_std", serde_json::Value::Null);
    let error = load(folder.path(), Kernels::Fused).unwrap_err();
    assert!(
        matches!(&error, LoadError::Config { key, .. } if key == "latents_std"),
        "{error}"
    );
}

#[test]
fn weights_of_another_network_are_refused_by_name() {
    let time_conv = "encoder.down_blocks.1.time_conv.weight";
    let folder = copy("other-layout");
    edit_weights(folder.path(), |weights| {
        weights.remove(time_conv).unwrap();
    });
    let error = load(folder.path(), Kernels::Fused).unwrap_err();
    assert!(
        matches!(&error, LoadError::TensorMissing { name, .. } if name == time_conv),
        "{error}"
    );

    let folder = copy("other-layout");
    set(folder.path(), "temperal_downsample", serde_json::json!([false, false]));
    let error = load(folder.path(), Kernels::Fused).unwrap_err();
    assert!(
        matches!(&error, LoadError::Unused { names, .. } if names.iter().any(|name| name == time_conv)),
        "{error}"
    );

    let folder = copy("other-layout");
    set(folder.path(), "base_dim", serde_json::json!(6));
    let error = load(folder.path(), Kernels::Fused).unwrap_err();
    assert!(matches!(error, LoadError::Shape { .. }), "{error}");

    let folder = copy("other-layout");
    let file = folder.path().join("diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let error = load(folder.path(), Kernels::Fused).unwrap_err();
    assert!(matches!(error, LoadError::Truncated { .. }), "{error}");

    fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = AutoencoderKlQwenImageConfig::read(folder.path()).unwrap_err();
    assert!(matches!(error, LoadError::FileMissing { .. }), "{error}");
}

#[test]
fn schedules_are_those_of_the_pipelines() {
    let mut compared = 0;
    for (name, expected) in tensors("sampling.safetensors") {
        let parts: Vec<&str> = name.split('.').collect();
        let ["sigmas", folder, steps, tokens] = parts[..] else {
            continue;
        };
        let config = SchedulerConfig::read(&golden().join("schedules").join(folder)).unwrap();
        let found = config.sigmas(steps.parse().unwrap(), tokens.parse().unwrap()).unwrap();
        let expected = flat(&expected);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(expected) {
            // diffusers computes in float32.
            assert!(
                (found - f64::from(expected)).abs() < 1e-6,
                "{name}: {found} is not {expected}"
            );
        }
        compared += 1;
    }
    assert_eq!(compared, 25);
}

#[test]
fn guided_velocities_are_those_of_the_edit_pipeline() {
    let expected = tensors("sampling.safetensors");
    for scale in ["1.5", "4.0"] {
        let found = guided(&expected["prompt"], &expected["negative"], scale.parse().unwrap()).unwrap();
        assert_close(Kernels::Fused, &found, &expected[&format!("guided.{scale}")], scale);
    }
}
