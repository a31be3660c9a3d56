//! Keeping a text to a JSON Schema, with llguidance.

use std::{collections::HashMap, fmt, sync::Arc};

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};

use super::schema::narrow;
use crate::{ModelError, vlm::settings::Settings};

/// The bytes of every token, arranged for grammars.
pub(in crate::vlm) struct Vocabulary {
    factory: ParserFactory,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").finish_non_exhaustive()
    }
}

impl Vocabulary {
    pub(super) fn new(settings: &Settings) -> Result<Self, ModelError> {
        let count = settings.config.text.vocab_size;
        let end: Vec<u32> = settings
            .eos_token_ids
            .iter()
            .copied()
            .filter(|id| (*id as usize) < count)
            .collect();
        let Some(&first_end) = end.first() else {
            return Err(refused("the model folder names no token that ends a text".to_owned()));
        };
        let words = token_bytes(settings, count)?;
        let count = u32::try_from(count).map_err(|error| refused(error.to_string()))?;
        let trie = TokTrie::from(&TokRxInfo::new(count, first_end), &words).with_eos_tokens(&end);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| refused(error.to_string()))?;
        factory.quiet();
        Ok(Self { factory })
    }
}

/// Where a text stands in the documents of its schema.
pub(super) struct Constraint {
    matcher: Matcher,
}

impl Constraint {
    pub(super) fn new(vocabulary: &Vocabulary, schema: &Value) -> Result<Self, ModelError> {
        let mut schema = schema.clone();
        narrow(&mut schema);
        let Some(keywords) = schema.as_object_mut() else {
            return Err(refused(format!("must be a JSON object, not {schema}")));
        };
        keywords.insert(
            "x-guidance".to_owned(),
            json!({ "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?" }),
        );
        let parser = vocabulary
            .factory
            .create_parser(TopLevelGrammar::from_json_schema(schema))
            .map_err(|error| refused(format!("{error:#}")))?;
        Ok(Self {
            matcher: Matcher::new(Ok(parser)),
        })
    }

    /// Gives the logits of tokens that may not follow minus infinity.
    pub(super) fn mask(&mut self, logits: &mut [f32]) -> Result<(), ModelError> {
        let allowed = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| refused(error.to_string()))?;
        for (token, logit) in (0..).zip(logits) {
            if !allowed.is_allowed(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Appends a token; says whether nothing can follow it.
    pub(super) fn take(&mut self, token: u32) -> Result<bool, ModelError> {
        self.matcher
            .consume_token(token)
            .map_err(|error| refused(error.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}

fn refused(problem: String) -> ModelError {
    ModelError::Value {
        input: "schema",
        problem,
    }
}

/// The bytes that each token stands for; special tokens stand for none, and rows of the embedding without a token neither.
fn token_bytes(settings: &Settings, count: usize) -> Result<Vec<Vec<u8>>, ModelError> {
    let bytes_of = byte_level_alphabet();
    let added = settings.tokenizer.tokenizer().get_added_tokens_decoder();
    let mut words = vec![Vec::new(); count];
    for (id, word) in (0..).zip(&mut words) {
        if let Some(token) = added.get(&id) {
            *word = marked(&token.content, token.special);
        } else if let Some(token) = settings.tokenizer.tokenizer().id_to_token(id) {
            let bytes: Option<Vec<u8>> = token.chars().map(|c| bytes_of.get(&c).copied()).collect();
            *word = bytes.ok_or_else(|| {
                refused(format!(
                    "needs a byte-level tokenizer, but this one has the token `{token}`"
                ))
            })?;
        }
    }
    Ok(words)
}

/// Special tokens carry a mark that no text can hold.
fn marked(content: &str, special: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 1);
    if special {
        bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
    }
    bytes.extend(content.bytes());
    bytes
}

/// How byte-level tokenizers write bytes: printable ones of Latin-1 as themselves, the others as the characters from 256 on.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut others = (256..).filter_map(char::from_u32);
    (0..=u8::MAX)
        .filter_map(|byte| {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let written = if printable {
                Some(char::from(byte))
            } else {
                others.next()
            };
            written.map(|written| (written, byte))
        })
        .collect()
}
