//! Everything of a model folder but the weights.

use std::path::Path;

use serde_json::Value;

use super::{
    chat::{ChatTemplate, Content, Message},
    config::{Config, token_ids},
    preprocess::ImageProcessor,
};
use crate::{
    LoadError, ModelError,
    load::read_json,
    text::{WordTokenizer, check_settings, read_tokenizer},
};

/// Everything of a model folder but the weights.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) tokenizer: WordTokenizer,
    template: ChatTemplate,
    pub(super) processor: ImageProcessor,
    /// Tokens that end an answer.
    pub(super) eos_token_ids: Vec<u32>,
}

impl Settings {
    pub(super) fn read(dir: &Path) -> Result<Self, LoadError> {
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
        check_settings(dir, &tokenizer, &[])?;
        let template = ChatTemplate::load(dir)?;
        let processor = ImageProcessor::load(dir, &config.vision)?;
        let eos_token_ids = eos_token_ids(dir, &config)?;
        Ok(Self {
            config,
            tokenizer: WordTokenizer::new(tokenizer),
            template,
            processor,
            eos_token_ids,
        })
    }

    /// The prompt text of a conversation, in whose words no control token is found.
    pub(super) fn prompt(&self, messages: &[Message]) -> Result<String, ModelError> {
        let guard = |content: &Content| {
            Ok(match content {
                Content::Text { text } => Content::text(self.tokenizer.guarded(text)?),
                Content::Image => Content::Image,
            })
        };
        let messages = messages.iter().map(|message| {
            let content = message.content.iter().map(guard).collect::<Result<_, ModelError>>()?;
            Ok(Message {
                role: message.role.clone(),
                content,
            })
        });
        self.template.render(&messages.collect::<Result<Vec<_>, ModelError>>()?)
    }

    /// Token ids of a text, in which special tokens are recognised except in the words of [`Self::prompt`].
    pub(super) fn tokenize(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.tokenizer.encode_text(text)
    }

    pub(super) fn label_token(&self, label: &str) -> Result<u32, ModelError> {
        match self.tokenize(label)?.as_slice() {
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
}

/// generation_config.json says it; config.json where it does not.
fn eos_token_ids(dir: &Path, config: &Config) -> Result<Vec<u32>, LoadError> {
    let file = dir.join("generation_config.json");
    let settings = if file.is_file() { read_json(&file)? } else { Value::Null };
    Ok(token_ids(&settings["eos_token_id"]).unwrap_or_else(|| config.eos_token_ids.clone()))
}
