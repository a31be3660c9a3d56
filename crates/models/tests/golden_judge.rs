//! Qwen2.5-VL against transformers.
//!
//! `tests/golden/judge.py` writes the expected tensors; run it again when the shipped judge changes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use gavel_models::vlm::{Content, Conversation, Message, Vlm};
use image::RgbImage;
use serde::Deserialize;
use serde_json::Value;

/// Largest error, relative to the largest logit: float32, sums in another order, through both towers.
const TOLERANCE: f32 = 2e-4;

const CASES: [&str; 4] = [
    "tiny-judge",
    "judge-untied-sharded",
    "judge-flat-tied",
    "judge-one-head",
];

#[derive(Deserialize)]
struct Spec {
    messages: Vec<SpecMessage>,
    images: Vec<usize>,
}

#[derive(Deserialize)]
struct SpecMessage {
    role: String,
    content: Value,
}

struct Case {
    model: Vlm,
    images: Vec<RgbImage>,
    conversations: Vec<(Vec<Message>, Vec<usize>)>,
    expected: HashMap<String, Tensor>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn content(json: &Value) -> Vec<Content> {
    match json {
        Value::String(text) => vec![Content::text(text)],
        parts => parts.as_array().unwrap().iter().map(part).collect(),
    }
}

fn part(json: &Value) -> Content {
    match json["text"].as_str() {
        Some(text) => Content::text(text),
        None => Content::Image,
    }
}

fn case(name: &str) -> Case {
    let dir = root().join("tests/golden/judge").join(name);
    let folder = if name == "tiny-judge" {
        root().join("models/tiny-judge")
    } else {
        dir.clone()
    };
    let expected = candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
    let specs: Vec<Spec> = serde_json::from_slice(&fs::read(dir.join("conversations.json")).unwrap()).unwrap();
    let images = (0..)
        .map_while(|i| expected.get(&format!("image.{i}")))
        .map(|pixels| {
            let (height, width, _) = pixels.dims3().unwrap();
            let bytes = pixels.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
        })
        .collect();
    let conversations = specs
        .into_iter()
        .map(|spec| {
            let message = |m: SpecMessage| Message {
                content: content(&m.content),
                role: m.role,
            };
            (spec.messages.into_iter().map(message).collect(), spec.images)
        })
        .collect();
    Case {
        model: Vlm::load(&folder, &Device::Cpu, DType::F32).unwrap(),
        images,
        conversations,
        expected,
    }
}

impl Case {
    fn chosen(&self, indices: &[usize]) -> Vec<RgbImage> {
        indices.iter().map(|i| self.images[*i].clone()).collect()
    }

    fn batch(&self) -> Vec<Conversation<'_>> {
        self.conversations
            .iter()
            .map(|(messages, indices)| {
                let images = indices.iter().map(|i| &self.images[*i]).collect();
                Conversation { messages, images }
            })
            .collect()
    }
}

#[test]
fn token_ids_are_those_of_the_chat_template_with_expanded_images() {
    for name in CASES {
        let case = case(name);
        for (i, (messages, indices)) in case.conversations.iter().enumerate() {
            let expected: Vec<u32> = case.expected[&format!("ids.{i}")]
                .to_dtype(DType::U32)
                .unwrap()
                .to_vec1()
                .unwrap();
            assert_eq!(
                case.model.input_ids(messages, &case.chosen(indices)).unwrap(),
                expected,
                "{name} {i}"
            );
        }
    }
}

#[test]
fn logits_match_transformers() {
    for name in CASES {
        let case = case(name);
        for (i, (messages, indices)) in case.conversations.iter().enumerate() {
            let found = case.model.next_token_logits(messages, &case.chosen(indices)).unwrap();
            let expected = case.expected[&format!("logits.{i}")].to_vec1::<f32>().unwrap();
            assert_eq!(found.len(), expected.len());
            let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let error = found
                .iter()
                .zip(&expected)
                .fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
            assert!(
                error <= TOLERANCE * largest,
                "{name} {i}: error {error:e}, largest logit {largest:e}"
            );
        }
    }
}

#[test]
fn a_conversation_is_answered_alike_alone_and_in_a_batch_on_any_number_of_threads() {
    for name in CASES {
        let case = case(name);
        let batch = case.batch();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| case.model.next_token_logits_batch(&batch).unwrap())
        };
        let together = with(3);
        assert_eq!(together, with(1), "{name}");
        for ((messages, indices), logits) in case.conversations.iter().zip(&together) {
            assert_eq!(
                &case.model.next_token_logits(messages, &case.chosen(indices)).unwrap(),
                logits,
                "{name}"
            );
        }
    }
}

#[test]
fn answer_labels_are_single_tokens_of_the_shipped_judge() {
    let model = case("tiny-judge").model;
    assert_ne!(model.label_token("1").unwrap(), model.label_token("2").unwrap());
    let error = model.label_token("neither of them").unwrap_err().to_string();
    assert!(
        error.contains("`neither of them` is") && error.contains("must be one"),
        "{error}"
    );
}

#[test]
fn images_that_the_prompt_has_no_place_for_are_refused() {
    let case = case("tiny-judge");
    let message = [Message::user(vec![Content::text("Which?"), Content::Image])];
    let error = case
        .model
        .next_token_logits(&message, &case.images)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "`images`: the prompt has 1 image places, but 2 images were given"
    );
    let thin = [RgbImage::new(2, 900)];
    let error = case.model.next_token_logits(&message, &thin).unwrap_err().to_string();
    assert!(error.contains("too elongated"), "{error}");
}
