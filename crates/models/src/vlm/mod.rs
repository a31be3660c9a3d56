//! Qwen2.5-VL, the vision-language model that judges.
//!
//! Only the logits after the prompt are computed: a judge reads its verdict from the first answer token.

mod chat;
mod config;
mod decoder;
mod inspect;
mod preprocess;
mod resize;
mod vision;

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::{
    LoadError, ModelError, Weights,
    layers::{Bias, Linear, compute_dtype},
    text::read_tokenizer,
};
use chat::ChatTemplate;
pub use chat::{Content, Message};
use config::Config;
use decoder::Decoder;
pub use inspect::VlmInspection;
use preprocess::{Grid, ImageProcessor};
use vision::VisionTower;

/// One question to the model.
#[derive(Debug, Clone)]
pub struct Conversation<'a> {
    /// What was said so far.
    pub messages: &'a [Message],
    /// The images, in the order of their [`Content::Image`] places.
    pub images: Vec<&'a RgbImage>,
}

/// A frozen vision-language model: Qwen2.5-VL.
///
/// # Source
/// transformers `Qwen2_5_VLForConditionalGeneration`. Deviation: the two temporal copies of a still image meet the sum of
/// the two halves of the patch embedding, which is the same number.
#[derive(Debug)]
pub struct Vlm {
    config: Config,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    processor: ImageProcessor,
    vision: VisionTower,
    decoder: Decoder,
    head: Linear,
    device: Device,
}

/// An image after the vision tower.
struct Seen {
    /// (merged tokens, hidden size).
    features: Tensor,
    grid: Grid,
}

impl Vlm {
    /// Loads a model folder: weights, config.json, preprocessor_config.json, tokenizer.json, chat template.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self, LoadError> {
        let weights = Weights::open(dir, device, compute_dtype(device, dtype))?;
        let Settings {
            config,
            tokenizer,
            template,
            processor,
        } = Settings::read(dir)?;

        // transformers 4 saves `visual.` and `model.`; transformers 5 nests both below `model.`.
        let nested = weights.contains("model.visual.patch_embed.proj.weight");
        let (visual, text) = if nested {
            ("model.visual", "model.language_model")
        } else {
            ("visual", "model")
        };
        let vision = VisionTower::load(&weights, visual, &config.vision)?;
        let decoder = Decoder::load(&weights, text, &config.text, device)?;
        let head = if config.tie_word_embeddings {
            Linear::new(decoder.embedding(), None).map_err(|source| weights.candle(source))?
        } else {
            Linear::load(
                &weights,
                "lm_head",
                config.text.hidden_size,
                config.text.vocab_size,
                Bias::None,
            )?
        };
        let ignored: &[&str] = if config.tie_word_embeddings { &["lm_head."] } else { &[] };
        weights.finish(ignored)?;
        Ok(Self {
            config,
            tokenizer,
            template,
            processor,
            vision,
            decoder,
            head,
            device: device.clone(),
        })
    }

    /// The prompt text of a conversation, with one image token per image and the generation prompt at the end.
    ///
    /// # Errors
    /// [`ModelError::Template`].
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<String, ModelError> {
        self.template.render(messages)
    }

    /// The token that an answer label is.
    ///
    /// # Errors
    /// [`ModelError::Value`] when the label is not exactly one token.
    pub fn label_token(&self, label: &str) -> Result<u32, ModelError> {
        label_token(&self.tokenizer, label)
    }

    /// The prompt's token ids, with each image token repeated once per merged patch of its image.
    ///
    /// # Errors
    /// [`ModelError::Value`] when the prompt has another number of image places than there are images, or an image is too
    /// elongated.
    pub fn input_ids(&self, messages: &[Message], images: &[RgbImage]) -> Result<Vec<u32>, ModelError> {
        let grids = images
            .iter()
            .map(|image| self.processor.grid(image))
            .collect::<Result<Vec<_>, _>>()?;
        self.expanded_ids(messages, &grids)
    }

    /// Logits (vocabulary,) of the token that follows the generation prompt.
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

    /// Logits (vocabulary,) of several conversations.
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
        if self.device.is_cpu() {
            items.par_iter().map(compute).collect()
        } else {
            items.iter().map(compute).collect()
        }
    }

    fn see(&self, image: &RgbImage) -> Result<Seen, ModelError> {
        let (patches, grid) = self.processor.patches(image)?;
        let features = self.vision.forward(&patches, grid, &self.device)?;
        Ok(Seen { features, grid })
    }

    fn logits(&self, messages: &[Message], images: &[&Seen]) -> Result<Vec<f32>, ModelError> {
        let grids: Vec<Grid> = images.iter().map(|image| image.grid).collect();
        let ids = self.expanded_ids(messages, &grids)?;
        let features: Vec<&Tensor> = images.iter().map(|image| &image.features).collect();
        let state = self
            .decoder
            .last_state(&ids, self.config.image_token_id, &features, &grids)?;
        Ok(self.head.forward(&state)?.squeeze(0)?.to_dtype(DType::F32)?.to_vec1()?)
    }

    fn expanded_ids(&self, messages: &[Message], grids: &[Grid]) -> Result<Vec<u32>, ModelError> {
        let tokens = self.tokenize(&self.chat_prompt(messages)?)?;
        let image_token = self.config.image_token_id;
        let places = tokens.iter().filter(|token| **token == image_token).count();
        if places != grids.len() {
            return Err(ModelError::Value {
                input: "images",
                problem: format!(
                    "the prompt has {places} image places, but {} images were given",
                    grids.len()
                ),
            });
        }
        let mut grids = grids.iter();
        let mut ids = Vec::with_capacity(tokens.len());
        for token in tokens {
            let count = if token == image_token {
                grids.next().map_or(0, Grid::merged_tokens)
            } else {
                1
            };
            ids.extend(std::iter::repeat_n(token, count));
        }
        Ok(ids)
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        tokenize(&self.tokenizer, text)
    }
}

fn tokenize(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ModelError> {
    let encoding = tokenizer
        .encode(text, false)
        .map_err(|error| ModelError::Tokenize(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

fn label_token(tokenizer: &Tokenizer, label: &str) -> Result<u32, ModelError> {
    match tokenize(tokenizer, label)?.as_slice() {
        &[token] => Ok(token),
        tokens => Err(ModelError::Value {
            input: "label",
            problem: format!(
                "`{label}` is {} tokens of this tokenizer, a label must be one",
                tokens.len()
            ),
        }),
    }
}

/// Everything of a model folder but the weights.
struct Settings {
    config: Config,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    processor: ImageProcessor,
}

impl Settings {
    fn read(dir: &Path) -> Result<Self, LoadError> {
        let config = Config::read(&dir.join("config.json"))?;
        let tokenizer_file = dir.join("tokenizer.json");
        if !tokenizer_file.is_file() {
            return Err(LoadError::TokenizerMissing {
                dir: dir.to_owned(),
                looked_for: "tokenizer.json",
            });
        }
        let mut tokenizer = read_tokenizer(&tokenizer_file)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| LoadError::Tokenizer {
            file: tokenizer_file,
            problem: error.to_string(),
        })?;
        let template = ChatTemplate::load(dir)?;
        let processor = ImageProcessor::load(dir, &config.vision)?;
        Ok(Self {
            config,
            tokenizer,
            template,
            processor,
        })
    }
}
