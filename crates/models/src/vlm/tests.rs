//! What does not show outside: features of the vision tower, cached against recomputed states.

use crate::load::Placement;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::decoder::Prompt;
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
                .last_state(
                    &Prompt {
                        ids,
                        image_token,
                        images: &seen,
                    },
                    None,
                )
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

/// Pictures of whole windows, of cut ones, and of both.
fn drawn() -> [RgbImage; 3] {
    [(64, 64), (80, 48), (64, 40)].map(|(width, height)| {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(3 * x) as u8, (5 * y) as u8, (x * y) as u8])
        })
    })
}

/// All ordered pairs of three images under two prompts, after a rubric that is longer than the least segment.
fn questions(images: &[RgbImage]) -> Vec<(Vec<Message>, Vec<&RgbImage>)> {
    let rubric = "Each object has its stated colour and shape. ".repeat(8);
    let mut questions = Vec::new();
    for prompt in ["a red circle", "a blue square left of a green circle"] {
        let messages = vec![
            Message::system(rubric.clone()),
            Message::user(vec![
                Content::text(prompt),
                Content::Image,
                Content::text(" or this other picture,".repeat(8)),
                Content::Image,
                Content::text("?"),
            ]),
        ];
        for first in &images[..3] {
            for second in &images[..3] {
                if !std::ptr::eq(first, second) {
                    questions.push((messages.clone(), vec![first, second]));
                }
            }
        }
    }
    questions
}

fn asked(model: &Vlm, questions: &[(Vec<Message>, Vec<&RgbImage>)], numbers: &[usize]) -> Vec<Vec<f32>> {
    let conversations: Vec<Conversation> = numbers
        .iter()
        .map(|number| Conversation {
            messages: &questions[*number].0,
            images: questions[*number].1.clone(),
        })
        .collect();
    model.next_token_logits_batch(&conversations).unwrap()
}

/// The logits of a question that is computed as one.
fn whole(model: &Vlm, (messages, images): &(Vec<Message>, Vec<&RgbImage>)) -> Vec<f32> {
    let seen: Vec<Seen> = images.iter().map(|image| model.see(image).unwrap()).collect();
    let seen: Vec<&Seen> = seen.iter().collect();
    let grids: Vec<Grid> = seen.iter().map(|seen| seen.grid).collect();
    let prompt = Prompt {
        ids: &model.expanded_ids(messages, &grids).unwrap(),
        image_token: model.settings.config.image_token_id,
        images: &seen,
    };
    flat(
        &model
            .head
            .logits(&model.decoder.last_state(&prompt, None).unwrap())
            .unwrap(),
    )
}

/// Where questions begin alike, the numbers of their beginning are shared; whatever it is that they are shared with, the answer is the same.
#[test]
fn an_answer_has_the_same_bits_whatever_else_is_asked() {
    let candle = |dtype| Placement::candle(Device::Cpu, dtype);
    for (placement, tolerance) in [
        (Placement::cpu(), 0.0),
        (candle(DType::F32), TOLERANCE),
        (candle(DType::BF16), 3e-2),
    ] {
        for case in ["../models/tiny-judge", "golden/vlm/qwen3-two-levels"] {
            let model = Vlm::load(&golden().join("..").join(case), &placement).unwrap();
            let images = drawn();
            let questions = questions(&images);
            let all: Vec<usize> = (0..questions.len()).collect();
            let together = asked(&model, &questions, &all);
            let what = format!("{case} by {placement:?}");
            for number in &all {
                assert_eq!(
                    asked(&model, &questions, &[*number])[0],
                    together[*number],
                    "{what} {number} alone"
                );
                let alone = whole(&model, &questions[*number]);
                assert_close(
                    &together[*number],
                    &alone,
                    tolerance,
                    &format!("{what} {number} as one"),
                );
            }
            let backwards: Vec<usize> = all.iter().rev().copied().collect();
            for numbers in [backwards, vec![5, 0], vec![3, 3, 10], vec![1, 7, 4]] {
                let found = asked(&model, &questions, &numbers);
                let expected: Vec<&Vec<f32>> = numbers.iter().map(|number| &together[*number]).collect();
                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{what} {numbers:?}");
            }
            assert!(asked(&model, &questions, &[]).is_empty());
        }
    }
}

/// Otherwise the test above would hold for nothing.
#[test]
fn questions_of_a_run_share_rubric_prompt_and_first_picture() {
    let images = drawn();
    let questions = questions(&images);
    let placement = Placement::candle(Device::Cpu, DType::F32);
    let model = Vlm::load(&golden().join("../../models/tiny-judge"), &placement).unwrap();
    let seen: Vec<Seen> = images.iter().map(|image| model.see(image).unwrap()).collect();
    let prompts = questions.iter().map(|(messages, shown)| {
        let number = |image: &&RgbImage| images.iter().position(|other| std::ptr::eq(other, *image)).unwrap();
        let pictures: Vec<usize> = shown.iter().map(number).collect();
        model.segments(messages, &pictures, &seen).unwrap()
    });
    let branches = model.tree(prompts.collect());
    assert_eq!(branches.len(), 1);
    assert!(branches[0].segment.pictures.is_empty());
    // Of each prompt's questions two begin with the same picture.
    let counts: Vec<usize> = branches[0].next.iter().map(|branch| branch.next.len()).collect();
    assert_eq!(counts, [2; 6]);
}
