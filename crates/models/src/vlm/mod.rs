//! Vision-language models: Qwen2.5-VL and Qwen3-VL.
//!
//! A judge reads its verdict from the logits after the prompt; criteria and reasons are written token by token.

#[cfg(test)]
mod budget;
mod chat;
mod config;
mod decoder;
mod encoder;
mod generate;
mod head;
mod inspect;
mod positions;
mod prefix;
mod preprocess;
mod reader;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod vision;

use std::{collections::HashMap, path::Path, sync::OnceLock};

use candle_core::Tensor;
use image::RgbImage;

use crate::load::Placement;
use crate::{LoadError, ModelError, Weights, error::finite};
pub use chat::{Content, Message};
use config::Family;
use decoder::Decoder;
pub(crate) use encoder::VlmEncoder;
use generate::Vocabulary;
pub use generate::{Generated, Generation};
use head::Head;
pub use inspect::VlmInspection;
use prefix::{Branch, SEGMENT_LEAST, Segment, segments, tree};
use preprocess::Grid;
use reader::{Reader, Work};
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
struct Seen<T = Tensor> {
    features: Features<T>,
    grid: Grid,
}

impl Vlm {
    /// Loads a model folder: weights, config.json, preprocessor_config.json, tokenizer.json, chat template.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, &placement.clone().quantized(None))?;
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
    /// An image that occurs in several conversations goes through the vision tower once, and so does what they have in common at the front
    /// through the language model: a conversation is cut before its last message and before each image, and where several begin with the same
    /// pieces, these are computed once. The cuts follow from a conversation alone, so that its logits do not depend on the others. On the CPU,
    /// whose kernels give a row the same bits whatever is computed with it, the work is shared among threads, and what only one conversation has is
    /// not cut.
    ///
    /// The keys and values of a piece are dropped when the last conversation that goes on from it is answered. So beside the weights no more of them
    /// are in memory at a time than those of one conversation, or on the CPU of one for each thread.
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
        let seen = self.work().each(&distinct, |image| self.see(image))?;
        let prompts = self.work().each(conversations, |conversation| {
            let number = |image: &&RgbImage| index[&(image.dimensions(), image.as_raw().as_slice())];
            let pictures: Vec<usize> = conversation.images.iter().map(number).collect();
            self.segments(conversation.messages, &pictures, &seen)
        })?;
        let reader = Reader {
            decoder: &self.decoder,
            head: &self.head,
            image_token: self.settings.config.image_token_id,
            seen: &seen,
            work: self.work(),
        };
        let (prompts, answers): (Vec<usize>, Vec<Tensor>) =
            reader.answers(&self.tree(prompts), None)?.into_iter().unzip();
        if answers.is_empty() {
            return Ok(Vec::new());
        }
        // One look at all of them: each one waits until a GPU is done.
        let answers = Tensor::stack(&answers, 0)?;
        let answers = finite(&answers, "answer (the judge's language model)")?.to_vec2()?;
        let mut logits = vec![Vec::new(); conversations.len()];
        for (prompt, answer) in prompts.into_iter().zip(answers) {
            logits[prompt] = answer;
        }
        Ok(logits)
    }

    /// The pieces of a conversation whose pictures are these of the seen ones.
    fn segments(&self, messages: &[Message], pictures: &[usize], seen: &[Seen]) -> Result<Vec<Segment>, ModelError> {
        let tokens = self.settings.tokenize(&self.chat_prompt(messages)?)?;
        let image_token = self.settings.config.image_token_id;
        check_slots(&tokens, image_token, pictures.len())?;
        let least = if self.placement.is_host() { 1 } else { SEGMENT_LEAST };
        let size = |picture: usize| seen[picture].grid.merged_tokens();
        Ok(segments(&tokens, pictures, image_token, size, least))
    }

    fn tree(&self, prompts: Vec<Vec<Segment>>) -> Vec<Branch> {
        let branches = tree(prompts);
        match self.placement.is_host() {
            true => branches.into_iter().map(Branch::joined).collect(),
            false => branches,
        }
    }

    fn work(&self) -> Work {
        match self.placement.is_host() {
            true => Work::Shared,
            false => Work::Alone,
        }
    }

    fn see(&self, image: &RgbImage) -> Result<Seen, ModelError> {
        let (patches, grid) = self.settings.processor.patches(image)?;
        let features = self.vision.forward(&patches, grid, self.placement.device())?;
        finite(&features.tokens, "view of a picture (the judge's vision tower)")?;
        Ok(Seen { features, grid })
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

/// Checks that a prompt has as many image tokens as there are images.
fn check_slots(tokens: &[u32], image_token: u32, images: usize) -> Result<(), ModelError> {
    let slots = tokens.iter().filter(|token| **token == image_token).count();
    if slots == images {
        return Ok(());
    }
    Err(ModelError::Value {
        input: "images",
        problem: format!("the prompt has {slots} image slots, but {images} images were given"),
    })
}

/// Repeats each image token once per merged patch of its image.
fn expand(tokens: &[u32], image_token: u32, grids: &[Grid]) -> Result<Vec<u32>, ModelError> {
    check_slots(tokens, image_token, grids.len())?;
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
