//! DINOv2's embeddings against transformers.
//!
//! `tests/golden/dinov2.py` writes folders of random weights and the expected tensors.

use candle_core::{DType, Device};
use gavel_models::LoadError;
use gavel_models::dinov2::Dinov2;
use gavel_models::load::Placement;
use image::RgbImage;

use crate::kernels::{Kernels, root};

/// The tolerance is that of one number of an embedding of length 1.
#[test]
fn embeddings_are_those_of_transformers() {
    for case in ["own-size", "smaller", "larger"] {
        let dir = root().join("tests/golden/dinov2").join(case);
        let expected = candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
        let embeddings = expected["embeddings"]
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec2::<f64>()
            .unwrap();
        for kernels in Kernels::ALL {
            let model = Dinov2::load(&dir, &kernels.placement()).unwrap();
            for (index, wanted) in embeddings.iter().enumerate() {
                let picture = &expected[&format!("picture.{index}")];
                let (height, width, _) = picture.dims3().unwrap();
                let bytes = picture.flatten_all().unwrap().to_vec1::<u8>().unwrap();
                let picture = RgbImage::from_raw(width as u32, height as u32, bytes).unwrap();
                let found = model.embedding(&picture).unwrap();
                assert_eq!(found.len(), wanted.len());
                let error = found
                    .iter()
                    .zip(wanted)
                    .fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()));
                let tolerance = kernels.tolerance();
                assert!(
                    error <= tolerance,
                    "{case}, picture {index} by {kernels:?}: {error:e}, at most {tolerance:e}"
                );
            }
        }
    }
}

#[test]
fn a_folder_of_something_else_is_refused_with_what_is_wrong() {
    let case = root().join("tests/golden/dinov2/own-size");
    let refused = |file: &str, from: &str, to: &str| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&case).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let file = folder.path().join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        Dinov2::load(folder.path(), &Placement::cpu()).unwrap_err()
    };
    for (file, from, to, key) in [
        (
            "config.json",
            "\"model_type\": \"dinov2\"",
            "\"model_type\": \"clip\"",
            "model_type",
        ),
        (
            "config.json",
            "\"use_swiglu_ffn\": false",
            "\"use_swiglu_ffn\": true",
            "use_swiglu_ffn",
        ),
        (
            "config.json",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 5",
            "num_attention_heads",
        ),
        ("config.json", "\"patch_size\": 7", "\"patch_size\": 0", "patch_size"),
    ] {
        let error = refused(file, from, to);
        assert!(
            matches!(&error, LoadError::Unsupported { key: found, .. } if found == key),
            "{error}"
        );
    }
    let error = refused("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    assert!(matches!(error, LoadError::Unused { .. }), "{error}");
}
