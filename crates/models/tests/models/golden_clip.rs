//! CLIP as a whole, and SigLIP, against transformers.
//!
//! `tests/golden/clip.py` and `tests/golden/siglip.py` write folders of random weights and the expected tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gavel_models::clip::{AestheticHead, Clip};
use gavel_models::load::Placement;
use gavel_models::{LoadError, ModelError};
use image::RgbImage;

use crate::kernels::{Kernels, root};

const CASES: [&str; 2] = ["clip/quick-gelu", "clip/gelu-legacy-eos"];
const SIGLIP_CASES: [&str; 2] = ["siglip/siglip", "siglip/siglip2"];

fn prompts(case: &str) -> [String; 3] {
    let [first, last] = match case.starts_with("siglip") {
        true => [
            "A red circle, on a blue   background!",
            "Two blue squares & a yellow (triangle); ",
        ],
        false => [
            "a red circle on a blue background",
            "two blue squares and a yellow triangle, ",
        ],
    };
    [first.to_owned(), String::new(), last.repeat(9)]
}

fn golden(case: &str) -> (PathBuf, HashMap<String, Tensor>) {
    let dir = root().join("tests/golden").join(case);
    let expected = candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
    (dir, expected)
}

fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
    tensor.to_dtype(DType::F64).unwrap().to_vec2().unwrap()
}

fn pictures(expected: &HashMap<String, Tensor>) -> Vec<RgbImage> {
    let picture = |index: usize| {
        let tensor = &expected[&format!("picture.{index}")];
        let (height, width, _) = tensor.dims3().unwrap();
        let bytes = tensor.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
    };
    (0..5).map(picture).collect()
}

#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let error = found
        .iter()
        .zip(expected)
        .fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(error <= tolerance, "{what}: off by {error:e}, at most {tolerance:e}");
}

/// The tolerance is that of a cosine, which lies in -1 to 1; logits are cosines times the scale.
#[test]
fn embeddings_and_logits_are_those_of_transformers() {
    for case in CASES.into_iter().chain(SIGLIP_CASES) {
        let (dir, expected) = golden(case);
        let pictures = pictures(&expected);
        let seen: Vec<&RgbImage> = pictures.iter().collect();
        let (images, texts, logits) = (
            rows(&expected["image_embeds"]),
            rows(&expected["text_embeds"]),
            rows(&expected["logits"]),
        );
        let cosine = |picture: usize| images[picture].iter().zip(&texts[0]).map(|(a, b)| a * b).sum::<f64>();
        let scale = (logits[0][0] - logits[0][1]) / (cosine(0) - cosine(1));
        for kernels in Kernels::ALL {
            let clip = Clip::load(&dir, &kernels.placement()).unwrap();
            let tolerance = kernels.tolerance();
            for (index, picture) in pictures.iter().enumerate() {
                let found = clip.picture_embedding(picture).unwrap();
                assert_near(
                    &found,
                    &images[index],
                    tolerance,
                    &format!("{case}, picture {index} by {kernels:?}"),
                );
            }
            for (index, prompt) in prompts(case).iter().enumerate() {
                let what = format!("{case}, prompt {index} by {kernels:?}");
                let found = clip.prompt_embedding(prompt).unwrap();
                assert_near(&found, &texts[index], tolerance, &what);
                let found = clip.logits(prompt, &seen).unwrap();
                assert_near(&found, &logits[index], tolerance * scale, &what);
            }
        }
    }
}

/// PickScore's probability is the softmax of two logits, which is the logistic of their difference.
#[test]
fn the_logistic_of_two_logits_is_the_share_that_pickscore_gives() {
    for case in CASES {
        let (dir, expected) = golden(case);
        let pictures = pictures(&expected);
        let shares: Vec<f64> = expected["probability_first"]
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1()
            .unwrap();
        let clip = Clip::load(&dir, &Placement::cpu()).unwrap();
        for (prompt, share) in prompts(case).iter().zip(shares) {
            let logits = clip.logits(prompt, &[&pictures[0], &pictures[1]]).unwrap();
            let found = 1.0 / (1.0 + (logits[1] - logits[0]).exp());
            assert!((found - share).abs() < 1e-4, "{case}: {found} {share}");
        }
    }
}

/// Scores are of size one here, and sums over 1,024 numbers and fewer.
#[test]
fn aesthetic_heads_score_as_their_layers_do_in_pytorch() {
    let (dir, expected) = golden(CASES[0]);
    for kernels in Kernels::ALL {
        let clip = Clip::load(&dir, &kernels.placement()).unwrap();
        for kind in ["aesthetic", "aesthetic-linear"] {
            let head = AestheticHead::load(&dir.join(kind), clip.width(), &kernels.placement()).unwrap();
            let score = |picture| head.score(&clip.picture_embedding(picture).unwrap()).unwrap();
            let found: Vec<f64> = pictures(&expected).iter().map(score).collect();
            let wanted: Vec<f64> = expected[kind].to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            assert_near(&found, &wanted, kernels.tolerance(), &format!("{kind} by {kernels:?}"));
        }
    }
    let other = AestheticHead::load(&dir.join("aesthetic"), 768, &Placement::cpu()).unwrap_err();
    assert!(
        matches!(&other, LoadError::Shape { name, .. } if name == "layers.0.weight"),
        "{other}"
    );
    let head = AestheticHead::load(&dir.join("aesthetic"), 20, &Placement::cpu()).unwrap();
    assert!(matches!(head.score(&[0.5; 19]), Err(ModelError::Shape { .. })));
}

fn copied(case: &str, to: &Path) {
    for entry in std::fs::read_dir(root().join("tests/golden").join(case)).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            continue;
        }
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_folder_of_something_else_is_refused_with_what_is_wrong() {
    let refused_of = |case: &str, file: &str, change: &dyn Fn(&str) -> String| {
        let folder = tempfile::tempdir().unwrap();
        copied(case, folder.path());
        let file = folder.path().join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(&text)).unwrap();
        (
            Clip::check(folder.path()).is_err(),
            Clip::load(folder.path(), &Placement::cpu()).unwrap_err(),
        )
    };
    let refused = |file: &str, change: &dyn Fn(&str) -> String| refused_of(CASES[0], file, change);
    let replaced = |from: &'static str, to: &'static str| {
        move |text: &str| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        }
    };
    for (from, to, key) in [
        ("\"model_type\": \"clip\"", "\"model_type\": \"blip\"", "model_type"),
        (
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 5",
            "text_config.num_attention_heads",
        ),
        ("\"projection_dim\": 20", "\"projection_dim\": 0", "projection_dim"),
        ("\"patch_size\": 8", "\"patch_size\": 25", "vision_config.patch_size"),
    ] {
        let (is_seen_before, error) = refused("config.json", &replaced(from, to));
        assert!(is_seen_before, "{from}");
        assert!(
            matches!(&error, LoadError::Unsupported { key: found, .. } if found == key),
            "{error}"
        );
    }
    let (_, error) = refused("config.json", &replaced("\"image_size\": 24", "\"image_size\": 16"));
    assert!(
        matches!(error, LoadError::Unsupported { .. }),
        "the pictures are cut to 24: {error}"
    );
    let (_, error) = refused(
        "config.json",
        &replaced("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
    );
    assert!(matches!(error, LoadError::Unused { .. }), "{error}");

    for (file, from, to, key) in [
        (
            "config.json",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 5",
            "text_config.num_attention_heads",
        ),
        (
            "config.json",
            "\"vision_use_head\": true",
            "\"vision_use_head\": false",
            "vision_config.vision_use_head",
        ),
        ("preprocessor_config.json", "\"height\": 24", "\"height\": 25", "size"),
        (
            "preprocessor_config.json",
            "\"resample\": 3",
            "\"resample\": 1",
            "resample",
        ),
    ] {
        let (is_seen_before, error) = refused_of(SIGLIP_CASES[0], file, &replaced(from, to));
        assert!(is_seen_before, "{from}");
        assert!(
            matches!(&error, LoadError::Unsupported { key: found, .. } if found == key),
            "{error}"
        );
    }
    let (is_seen_before, error) = refused_of(SIGLIP_CASES[0], "tokenizer.json", &|_| "{}".to_owned());
    assert!(
        is_seen_before && matches!(error, LoadError::Tokenizer { .. }),
        "{error}"
    );
}
