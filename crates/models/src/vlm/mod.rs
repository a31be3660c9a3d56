//! Vision-language models: Qwen2.5-VL and Qwen3-VL.
//!
//! A judge reads its verdict from the logits after the prompt; criteria and reasons are written token by token.

mod chat;
mod config;
mod decoder;
mod encoder;
mod generate;
mod head;
mod inspect;
mod positions;
mod preprocess;
mod settings;
#[cfg(test)]
mod tests;
mod vision;

use std::{collections::HashMap, path::Path, sync::OnceLock};

use image::RgbImage;
use rayon::prelude::*;

use crate::load::Placement;
use crate::{LoadError, ModelError, Weights, error::finite};
pub use chat::{Content, Message};
use config::Family;
use decoder::{Decoder, Prompt};
pub(crate) use encoder::VlmEncoder;
use generate::Vocabulary;
pub use generate::{Generated, Generation};
use head::Head;
pub use inspect::VlmInspection;
use preprocess::Grid;
use settings::Settings;
use vision::{Features, VisionTower};

/// One question to the model.
#[derive(Debug, Clone)]
pub struct Conversation<'a> {
    /// What was said so far.
    pub messages: &'a [Message],
    /// The images, in the order of their [`Content::Image`] slots.
    pub images: Vec<&'a RgbImage>,
}

/// A frozen vision-language model: Qwen2.5-VL or Qwen3-VL, as the `model_type` of its config.json says.
///
/// # Source
/// transformers `Qwen2_5_VLForConditionalGeneration` and `Qwen3VLForConditionalGeneration`. Deviation: the two temporal
/// copies of a still image meet the sum of the two halves of the patch embedding, which is the same number.
#[derive(Debug)]
pub struct Vlm {
    settings: Settings,
    vision: VisionTower,
    decoder: Decoder,
    head: Head,
    placement: Placement,
    /// Made when a schema first asks for it.
    vocabulary: OnceLock<Vocabulary>,
}

/// An image after the vision tower.
struct Seen {
    features: Features,
    grid: Grid,
}

impl Vlm {
    /// Loads a model folder: weights, config.json, preprocessor_config.json, tokenizer.json, chat template.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, &placement.kept_whole())?;
        let settings = Settings::read(dir)?;
        let config = &settings.config;

        let (visual, text) = towers(&weights);
        let vision = VisionTower::load(&weights, visual, &config.vision)?;
        let decoder = Decoder::load(&weights, text, &config.text)?;
        let head = Head::load(&weights, config, &decoder)?;
        let ignored: &[&str] = if config.tie_word_embeddings { &["lm_head."] } else { &[] };
        let placement = weights.placement().clone();
        weights.finish(ignored)?;
        Ok(Self {
            settings,
            vision,
            decoder,
            head,
            placement,
            vocabulary: OnceLock::new(),
        })
    }

    /// The architecture's name: `Qwen2.5-VL` or `Qwen3-VL`.
    pub fn architecture(&self) -> &'static str {
        match self.settings.config.family {
            Family::Qwen2_5Vl => "Qwen2.5-VL",
            Family::Qwen3Vl => "Qwen3-VL",
        }
    }

    /// The prompt text of a conversation, with one image token per image and the generation prompt at the end.
    ///
    /// # Errors
    /// [`ModelError::Template`].
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<String, ModelError> {
        self.settings.prompt(messages)
    }

    /// The token that an answer label is.
    ///
    /// # Errors
    /// [`ModelError::Value`] when the label is not exactly one token.
    pub fn label_token(&self, label: &str) -> Result<u32, ModelError> {
        self.settings.label_token(label)
    }

    /// The prompt's token ids, with each image token repeated once per merged patch of its image.
    ///
    /// # Errors
    /// [`ModelError::Value`] when the prompt has another number of image slots than there are images, or an image is too
    /// elongated.
    pub fn input_ids(&self, messages: &[Message], images: &[RgbImage]) -> Result<Vec<u32>, ModelError> {
        let grids = images
            .iter()
            .map(|image| self.settings.processor.grid(image))
            .collect::<Result<Vec<_>, _>>()?;
        self.expanded_ids(messages, &grids)
    }

    /// Logits of the token that follows the generation prompt.
    ///
    /// # Shapes
    /// Returns (vocabulary,).
    ///
    /// # Errors
    /// As [`Self::next_token_logits_batch`].
    pub fn next_token_logits(&self, conversation: &[Message], images: &[RgbImage]) -> Result<Vec<f32>, ModelError> {
        let conversation = Conversation {
            messages: conversation,
            images: images.iter().collect(),
        };
        let mut logits = self.next_token_logits_batch(&[conversation])?;
        logits.pop().ok_or_else(|| ModelError::Value {
            input: "conversations",
            problem: "is empty".to_owned(),
        })
    }

    /// Logits of the token that follows the generation prompt of each conversation.
    ///
    /// # Shapes
    /// Returns (vocabulary,) for each.
    ///
    /// Each conversation is computed on its own, so that its logits do not depend on the others; an image that occurs in
    /// several goes through the vision tower once. On the CPU the work is shared among threads.
    ///
    /// # Errors
    /// As [`Self::input_ids`]; [`ModelError::Template`]; [`ModelError::Tokenize`].
    pub fn next_token_logits_batch(&self, conversations: &[Conversation]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut index = HashMap::new();
        let mut distinct: Vec<&RgbImage> = Vec::new();
        for image in conversations.iter().flat_map(|conversation| &conversation.images) {
            index
                .entry((image.dimensions(), image.as_raw().as_slice()))
                .or_insert_with(|| {
                    distinct.push(image);
                    distinct.len() - 1
                });
        }
        let seen = self.each(&distinct, |image| self.see(image))?;
        self.each(conversations, |conversation| {
            let images: Vec<&Seen> = conversation
                .images
                .iter()
                .map(|image| &seen[index[&(image.dimensions(), image.as_raw().as_slice())]])
                .collect();
            self.logits(conversation.messages, &images)
        })
    }

    fn each<I: Sync, O: Send>(
        &self,
        items: &[I],
        compute: impl Fn(&I) -> Result<O, ModelError> + Send + Sync,
    ) -> Result<Vec<O>, ModelError> {
        if self.placement.is_host() {
            items.par_iter().map(compute).collect()
        } else {
            items.iter().map(compute).collect()
        }
    }

    fn see(&self, image: &RgbImage) -> Result<Seen, ModelError> {
        let (patches, grid) = self.settings.processor.patches(image)?;
        let features = self.vision.forward(&patches, grid, self.placement.device())?;
        finite(&features.tokens, "view of a picture (the judge's vision tower)")?;
        Ok(Seen { features, grid })
    }

    fn logits(&self, messages: &[Message], images: &[&Seen]) -> Result<Vec<f32>, ModelError> {
        let grids: Vec<Grid> = images.iter().map(|image| image.grid).collect();
        let ids = self.expanded_ids(messages, &grids)?;
        let state = self.decoder.last_state(&Prompt {
            ids: &ids,
            image_token: self.settings.config.image_token_id,
            images,
        })?;
        let logits = self.head.logits(&state)?;
        Ok(finite(&logits, "answer (the judge's language model)")?.to_vec1()?)
    }

    fn expanded_ids(&self, messages: &[Message], grids: &[Grid]) -> Result<Vec<u32>, ModelError> {
        let tokens = self.settings.tokenize(&self.chat_prompt(messages)?)?;
        expand(&tokens, self.settings.config.image_token_id, grids)
    }
}

/// The names below which the vision tower and the language model lie: transformers 4 saves `visual.` and `model.`; transformers 5
/// nests both below `model.`.
fn towers(weights: &Weights) -> (&'static str, &'static str) {
    if weights.contains("model.language_model.embed_tokens.weight") {
        ("model.visual", "model.language_model")
    } else {
        ("visual", "model")
    }
}

/// Repeats each image token once per merged patch of its image.
fn expand(tokens: &[u32], image_token: u32, grids: &[Grid]) -> Result<Vec<u32>, ModelError> {
    let slots = tokens.iter().filter(|token| **token == image_token).count();
    if slots != grids.len() {
        return Err(ModelError::Value {
            input: "images",
            problem: format!(
                "the prompt has {slots} image slots, but {} images were given",
                grids.len()
            ),
        });
    }
    let mut grids = grids.iter();
    let mut ids = Vec::with_capacity(tokens.len());
    for &token in tokens {
        let count = if token == image_token {
            grids.next().map_or(0, Grid::merged_tokens)
        } else {
            1
        };
        ids.extend(std::iter::repeat_n(token, count));
    }
    Ok(ids)
}
