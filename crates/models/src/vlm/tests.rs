//! What does not show outside: features of the vision tower, cached against recomputed states.

use crate::load::Placement;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::*;

/// Largest error, relative to the largest value: float32, sums in another order.
const TOLERANCE: f32 = 2e-4;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn expected(folder: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap()
}

fn images(expected: &HashMap<String, Tensor>) -> Vec<RgbImage> {
    (0..)
        .map_while(|i| expected.get(&format!("image.{i}")))
        .map(|pixels| {
            let (height, width, _) = pixels.dims3().unwrap();
            let bytes = pixels.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
        })
        .collect()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let error = found
        .iter()
        .zip(expected)
        .fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(
        error <= tolerance * largest,
        "{what}: error {error:e}, largest {largest:e}"
    );
}

#[test]
fn vision_features_of_every_depth_match_transformers() {
    for name in ["qwen3-two-levels", "qwen3-every-layer"] {
        let folder = golden().join("vlm").join(name);
        let model = Vlm::load(&folder, &Placement::cpu()).unwrap();
        let expected = expected(&folder);
        for (i, image) in images(&expected).iter().enumerate() {
            let Features { tokens, deepstack } = model.see(image).unwrap().features;
            let what = format!("{name}, image {i}");
            assert_close(
                &flat(&tokens),
                &flat(&expected[&format!("features.{i}")]),
                TOLERANCE,
                &what,
            );
            assert_eq!(deepstack.len(), 2, "{what}");
            for (level, found) in deepstack.iter().enumerate() {
                let expected = flat(&expected[&format!("deepstack.{i}.{level}")]);
                assert_close(&flat(found), &expected, TOLERANCE, &format!("{what}, level {level}"));
            }
        }
    }
}

/// The rows of a prompt's answer are computed one by one with a cache, and anew with all tokens before them.
#[test]
fn a_cached_token_has_the_logits_of_a_whole_computation() {
    /// The kernels add in the same order whatever else is computed; the scores' zeros beyond the mask may round differently.
    const CACHED: f32 = 1e-5;
    for folder in [
        golden().join("judge/judge-untied-sharded"),
        golden().join("vlm/qwen3-two-levels"),
        golden().join("vlm/qwen3-every-layer"),
    ] {
        let model = Vlm::load(&folder, &Placement::cpu()).unwrap();
        let images = images(&expected(&folder));
        let seen: Vec<Seen> = images[..2].iter().map(|image| model.see(image).unwrap()).collect();
        let seen: Vec<&Seen> = seen.iter().collect();
        let grids: Vec<Grid> = seen.iter().map(|seen| seen.grid).collect();
        let messages = [Message::user(vec![
            Content::Image,
            Content::text(" or "),
            Content::Image,
        ])];
        let mut ids = model.expanded_ids(&messages, &grids).unwrap();
        let image_token = model.settings.config.image_token_id;
        let logits = |state: &Tensor| flat(&model.head.logits(state).unwrap());
        let prompt = |ids: &[u32]| {
            model
                .decoder
                .last_state(&Prompt {
                    ids,
                    image_token,
                    images: &seen,
                })
                .unwrap()
        };
        let (state, mut cache) = model
            .decoder
            .start(&Prompt {
                ids: &ids,
                image_token,
                images: &seen,
            })
            .unwrap();
        assert_eq!(logits(&state), logits(&prompt(&ids)));
        for token in [17, 300, 300, 4, 99] {
            ids.push(token);
            let found = logits(&model.decoder.step(token, &mut cache).unwrap());
            let what = format!("{} token {}", folder.display(), ids.len());
            assert_close(&found, &logits(&prompt(&ids)), CACHED, &what);
        }
    }
}
