//! Cases of conversations with images, as the golden scripts write them.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use gavel_models::vlm::{Content, Conversation, Message, Vlm};
use image::RgbImage;
use serde::Deserialize;
use serde_json::Value;

use crate::kernels::{Kernels, root};

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

/// A model with conversations and what transformers computes of them.
pub(crate) struct Case {
    pub(crate) model: Vlm,
    pub(crate) images: Vec<RgbImage>,
    pub(crate) conversations: Vec<(Vec<Message>, Vec<usize>)>,
    pub(crate) expected: HashMap<String, Tensor>,
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

impl Case {
    /// Loads a folder of tests/golden.
    pub(crate) fn load(name: &str, kernels: Kernels) -> Self {
        let dir = root().join("tests/golden").join(name);
        let folder = if name == "judge/tiny-judge" {
            root().join("models/tiny-judge")
        } else {
            dir.clone()
        };
        Self::of(&dir, &folder, kernels)
    }

    /// Loads the conversations in `dir` with the model in `folder`.
    pub(crate) fn of(dir: &Path, folder: &Path, kernels: Kernels) -> Self {
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
        Self {
            model: Vlm::load(folder, &kernels.placement()).unwrap(),
            images,
            conversations,
            expected,
        }
    }

    pub(crate) fn batch(&self) -> Vec<Conversation<'_>> {
        self.conversations
            .iter()
            .map(|(messages, indices)| {
                let images = indices.iter().map(|i| &self.images[*i]).collect();
                Conversation { messages, images }
            })
            .collect()
    }
}
