//! Qwen2.5-VL and Qwen3-VL against transformers.
//!
//! `tests/golden/judge.py` and `tests/golden/vlm.py` write the expected tensors; run them again when the shipped judge changes.

use candle_core::DType;
use gavel_models::vlm::{Content, Message};
use image::RgbImage;

use crate::conversations::Case;
use crate::kernels::Kernels;

const CASES: [&str; 6] = [
    "judge/tiny-judge",
    "judge/judge-untied-sharded",
    "judge/judge-flat-tied",
    "judge/judge-one-head",
    "vlm/qwen3-two-levels",
    "vlm/qwen3-every-layer",
];

fn chosen(case: &Case, indices: &[usize]) -> Vec<RgbImage> {
    indices.iter().map(|i| case.images[*i].clone()).collect()
}

#[test]
fn token_ids_are_those_of_the_chat_template_with_expanded_images() {
    for name in CASES {
        let case = Case::load(name, Kernels::Fused);
        for (i, (messages, indices)) in case.conversations.iter().enumerate() {
            let expected: Vec<u32> = case.expected[&format!("ids.{i}")]
                .to_dtype(DType::U32)
                .unwrap()
                .to_vec1()
                .unwrap();
            assert_eq!(
                case.model.input_ids(messages, &chosen(&case, indices)).unwrap(),
                expected,
                "{name} {i}"
            );
        }
    }
}

#[test]
fn logits_match_transformers() {
    for kernels in Kernels::ALL {
        for name in CASES {
            let case = Case::load(name, kernels);
            for (i, (messages, indices)) in case.conversations.iter().enumerate() {
                let found = case.model.next_token_logits(messages, &chosen(&case, indices)).unwrap();
                let expected = case.expected[&format!("logits.{i}")].to_vec1::<f32>().unwrap();
                assert_eq!(found.len(), expected.len());
                let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                let error = found
                    .iter()
                    .zip(&expected)
                    .fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(
                    f64::from(error) <= kernels.tolerance() * f64::from(largest),
                    "{name} {i} by {kernels:?}: error {error:e}, largest logit {largest:e}"
                );
            }
        }
    }
}

#[test]
fn a_conversation_is_answered_alike_alone_and_in_a_batch_on_any_number_of_threads() {
    for kernels in Kernels::ALL {
        for name in CASES {
            let case = Case::load(name, kernels);
            let batch = case.batch();
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| case.model.next_token_logits_batch(&batch).unwrap())
            };
            let together = with(3);
            assert_eq!(together, with(1), "{name}");
            for ((messages, indices), logits) in case.conversations.iter().zip(&together) {
                assert_eq!(
                    &case.model.next_token_logits(messages, &chosen(&case, indices)).unwrap(),
                    logits,
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn answer_labels_are_single_tokens_of_the_shipped_judge() {
    let model = Case::load("judge/tiny-judge", Kernels::Fused).model;
    assert_ne!(model.label_token("1").unwrap(), model.label_token("2").unwrap());
    let error = model.label_token("neither of them").unwrap_err().to_string();
    assert!(
        error.contains("`neither of them` is") && error.contains("must be one"),
        "{error}"
    );
}

#[test]
fn images_that_the_prompt_has_no_place_for_are_refused() {
    let case = Case::load("judge/tiny-judge", Kernels::Fused);
    let message = [Message::user(vec![Content::text("Which?"), Content::Image])];
    let error = case
        .model
        .next_token_logits(&message, &case.images)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "`images`: the prompt has 1 image slots, but 2 images were given");
    let thin = [RgbImage::new(2, 900)];
    let error = case.model.next_token_logits(&message, &thin).unwrap_err().to_string();
    assert!(error.contains("too elongated"), "{error}");
}
