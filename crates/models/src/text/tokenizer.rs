//! Tokenizers as diffusion pipelines call them: truncated and padded to a fixed length.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::{PostProcessor as _, Tokenizer, TruncationDirection};

use super::WordTokenizer;
use crate::{
    LoadError, ModelError,
    load::{read_config, read_json, read_text},
};

/// CLIP's words: the special tokens, English contractions, runs of letters, single digits, runs of other symbols.
const CLIP_WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Qwen2's words.
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer with its padding token.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: WordTokenizer,
    pad: u32,
    model_max_length: Option<usize>,
}

impl PromptTokenizer {
    /// Loads a CLIP tokenizer folder: `tokenizer.json`, or `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    /// [`LoadError::TokenizerMissing`], [`LoadError::Tokenizer`].
    pub fn load_clip(dir: &Path) -> Result<Self, LoadError> {
        check_folder(dir)?;
        let file = dir.join("tokenizer.json");
        let tokenizer = if file.is_file() {
            read_tokenizer(&file)?
        } else if dir.join("vocab.json").is_file() && dir.join("merges.txt").is_file() {
            clip_tokenizer(dir)?
        } else {
            let looked_for = "tokenizer.json, or vocab.json with merges.txt";
            return Err(LoadError::TokenizerMissing {
                dir: dir.to_owned(),
                looked_for,
            });
        };
        Self::new(dir, tokenizer, "<|endoftext|>")
    }

    /// Loads a T5 tokenizer folder: `tokenizer.json`.
    ///
    /// # Errors
    /// [`LoadError::SentencePieceOnly`], [`LoadError::TokenizerMissing`], [`LoadError::Tokenizer`].
    pub fn load_t5(dir: &Path) -> Result<Self, LoadError> {
        check_folder(dir)?;
        let file = dir.join("tokenizer.json");
        if file.is_file() {
            return Self::new(dir, read_tokenizer(&file)?, "<pad>");
        }
        let dir = dir.to_owned();
        if dir.join("spiece.model").is_file() {
            return Err(LoadError::SentencePieceOnly { dir });
        }
        Err(LoadError::TokenizerMissing {
            dir,
            looked_for: "tokenizer.json",
        })
    }

    /// Loads the tokenizer of a SigLIP's folder, `tokenizer.json`, with the name of its class in transformers, where a file says that.
    ///
    /// # Errors
    /// As [`load_t5`](Self::load_t5).
    pub(crate) fn load_siglip(dir: &Path) -> Result<(Self, Option<String>), LoadError> {
        let tokenizer = Self::load_t5(dir)?;
        let settings = dir.join("tokenizer_config.json");
        let class = match settings.is_file() {
            true => read_json(&settings)?["tokenizer_class"].as_str().map(str::to_owned),
            false => None,
        };
        Ok((tokenizer, class))
    }

    fn new(dir: &Path, mut tokenizer: Tokenizer, default_pad: &str) -> Result<Self, LoadError> {
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| unusable(dir, error.to_string()))?;
        let config = check_settings(dir, &tokenizer, &["padding_side", "truncation_side"])?;
        let pad_token = token_text(&config["pad_token"]).unwrap_or(default_pad);
        let Some(pad) = tokenizer.token_to_id(pad_token) else {
            return Err(unusable(
                dir,
                format!("the padding token `{pad_token}` is not in the vocabulary"),
            ));
        };
        let model_max_length = config["model_max_length"]
            .as_u64()
            .and_then(|length| usize::try_from(length).ok());
        Ok(Self {
            tokenizer: WordTokenizer::new(tokenizer),
            pad,
            model_max_length,
        })
    }

    /// The length given in `tokenizer_config.json`.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// Tokens of `text` with the special tokens around it, neither truncated nor padded.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`].
    pub fn length(&self, text: &str) -> Result<usize, ModelError> {
        Ok(self.tokenizer.encode_words(text)?.len() + self.special_tokens())
    }

    /// Special tokens around a text.
    fn special_tokens(&self) -> usize {
        let processor = self.tokenizer.tokenizer().get_post_processor();
        processor.map_or(0, |processor| processor.added_tokens(false))
    }

    /// Token ids of `text` with the special tokens around it, truncated and padded to `length`. None of the words is taken for a special
    /// token.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`]; [`ModelError::Value`] when `length` leaves no room for the special tokens.
    pub fn encode(&self, text: &str, length: usize) -> Result<Vec<u32>, ModelError> {
        let added = self.special_tokens();
        let Some(room) = length.checked_sub(added).filter(|room| *room > 0) else {
            return Err(ModelError::Value {
                input: "max_sequence_length",
                problem: format!("{length} leaves no room beside {added} special tokens"),
            });
        };
        let mut encoding = self.tokenizer.encode_words(text)?;
        encoding.truncate(room, 0, TruncationDirection::Right);
        let encoding = self
            .tokenizer
            .tokenizer()
            .post_process(encoding, None, true)
            .map_err(|error| ModelError::Tokenize(error.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        ids.resize(length, self.pad);
        Ok(ids)
    }
}

/// Reads `tokenizer_config.json`, `null` where there is none, and refuses settings that would give other tokens: a side in `sides` that is not
/// the right one, or an added token that `tokenizer` does not have under its number.
///
/// # Errors
/// [`LoadError::Unsupported`], [`LoadError::Tokenizer`], and those of [`read_json`].
pub(crate) fn check_settings(dir: &Path, tokenizer: &Tokenizer, sides: &[&str]) -> Result<Value, LoadError> {
    let file = dir.join("tokenizer_config.json");
    if !file.is_file() {
        return Ok(Value::Null);
    }
    let config = read_json(&file)?;
    for side in sides {
        let found = &config[side];
        if !found.is_null() && found != "right" {
            return Err(LoadError::Unsupported {
                file,
                key: (*side).to_owned(),
                found: found.to_string(),
                expected: "\"right\": the encoders of these models were trained on words that begin at the first token"
                    .to_owned(),
            });
        }
    }
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let Some(text) = token_text(token) else { continue };
        let known = tokenizer.token_to_id(text);
        if known.map(|known| known.to_string()).as_ref() != Some(id) {
            let known = known.map_or("does not know it".to_owned(), |known| format!("gives it {known}"));
            return Err(unusable(
                &file,
                format!("`added_tokens_decoder` gives `{text}` the number {id}, the tokenizer {known}"),
            ));
        }
    }
    Ok(config)
}

/// A token in a tokenizer's JSON files: its text, or an object that holds it.
pub(crate) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// Reads a `tokenizer.json`.
pub(crate) fn read_tokenizer(file: &Path) -> Result<Tokenizer, LoadError> {
    let text = read_text(file)?;
    text.parse()
        .map_err(|error: tokenizers::Error| unusable(file, error.to_string()))
}

fn check_folder(dir: &Path) -> Result<(), LoadError> {
    if dir.is_dir() {
        Ok(())
    } else {
        Err(LoadError::FolderMissing { dir: dir.to_owned() })
    }
}

fn unusable(file: &Path, problem: String) -> LoadError {
    LoadError::Tokenizer {
        file: file.to_owned(),
        problem,
    }
}

/// Loads a Qwen2 tokenizer: `tokenizer.json` of the first of `dirs` that has it, or else `vocab.json` with `merges.txt` and the added
/// tokens of the first that has these.
///
/// # Errors
/// [`LoadError::TokenizerMissing`], [`LoadError::Tokenizer`].
pub(crate) fn load_qwen2(dirs: &[PathBuf]) -> Result<WordTokenizer, LoadError> {
    let with = |names: &[&str]| {
        dirs.iter()
            .find(|dir| names.iter().all(|name| dir.join(name).is_file()))
    };
    let (file, mut tokenizer) = if let Some(dir) = with(&["tokenizer.json"]) {
        let file = dir.join("tokenizer.json");
        (file.clone(), read_tokenizer(&file)?)
    } else if let Some(dir) = with(&["vocab.json", "merges.txt"]) {
        (dir.join("vocab.json"), qwen2_tokenizer(dir)?)
    } else {
        return Err(LoadError::TokenizerMissing {
            dir: dirs.first().cloned().unwrap_or_default(),
            looked_for: "tokenizer.json, or vocab.json with merges.txt",
        });
    };
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| unusable(&file, error.to_string()))?;
    let dir = file.parent().unwrap_or(Path::new(""));
    // Each text is encoded by itself, so that nothing is padded.
    check_settings(dir, &tokenizer, &["truncation_side"])?;
    Ok(WordTokenizer::new(tokenizer))
}

/// Qwen2's tokenizer from the files that older releases of transformers write.
///
/// # Source
/// transformers 5 `Qwen2Tokenizer`.
fn qwen2_tokenizer(dir: &Path) -> Result<Tokenizer, LoadError> {
    let file = dir.join("vocab.json");
    let added = qwen2_added_tokens(dir)?;
    let definition = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.iter().map(added_token).collect::<Vec<Value>>(),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": read_config::<Value>(&file)?, "merges": merges(dir)?,
        },
    });
    let tokenizer: Tokenizer =
        serde_json::from_value(definition).map_err(|error| unusable(&file, error.to_string()))?;
    // The library numbers added tokens behind the vocabulary, whatever number they are given.
    match added
        .iter()
        .find(|(id, text, _)| tokenizer.token_to_id(text) != Some(*id))
    {
        None => Ok(tokenizer),
        Some((id, text, _)) => Err(unusable(
            &file,
            format!("the added token `{text}` has the id {id}, which does not follow on the vocabulary"),
        )),
    }
}

/// The added tokens as (id, text, whether special), in the order of their ids: `added_tokens_decoder` of `tokenizer_config.json`, or `added_tokens.json`.
fn qwen2_added_tokens(dir: &Path) -> Result<Vec<(u32, String, bool)>, LoadError> {
    let read = |name: &str| -> Result<Value, LoadError> {
        let file = dir.join(name);
        if file.is_file() {
            read_json(&file)
        } else {
            Ok(Value::Null)
        }
    };
    let config = read("tokenizer_config.json")?;
    let mut tokens = Vec::new();
    if let Some(decoder) = config["added_tokens_decoder"].as_object() {
        for (id, token) in decoder {
            if let (Ok(id), Some(text)) = (id.parse(), token_text(token)) {
                tokens.push((id, text.to_owned(), token["special"].as_bool().unwrap_or(false)));
            }
        }
    } else if let Some(added) = read("added_tokens.json")?.as_object() {
        for (text, id) in added {
            if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                tokens.push((id, text.clone(), true));
            }
        }
    }
    tokens.sort();
    Ok(tokens)
}

/// An added token (id, text, whether it is special) in the words of `tokenizer.json`.
fn added_token((id, text, special): &(u32, String, bool)) -> Value {
    json!({
        "id": id, "content": text, "special": special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

/// The lines of `merges.txt` but for its heading.
fn merges(dir: &Path) -> Result<Vec<String>, LoadError> {
    let text = read_text(&dir.join("merges.txt"))?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(index, line)| !line.trim().is_empty() && (*index > 0 || !line.starts_with("#version")));
    Ok(lines.map(|(_, line)| line.to_owned()).collect())
}

/// CLIP's tokenizer from the files that older releases of transformers write.
fn clip_tokenizer(dir: &Path) -> Result<Tokenizer, LoadError> {
    let vocab: Value = read_config(&dir.join("vocab.json"))?;
    let merges_file = dir.join("merges.txt");
    let merges = merges(dir)?;
    let special = |token: &str| -> Result<Value, LoadError> {
        vocab[token]
            .as_u64()
            .map(|id| json!([token, id]))
            .ok_or_else(|| unusable(&dir.join("vocab.json"), format!("`{token}` is missing")))
    };
    let (start, end) = (special("<|startoftext|>")?, special("<|endoftext|>")?);
    let added = |token: &Value| {
        json!({
            "id": token[1], "content": token[0], "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let definition = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(&start), added(&end)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": CLIP_WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": end, "cls": start, "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    serde_json::from_value(definition).map_err(|error| unusable(&merges_file, error.to_string()))
}
