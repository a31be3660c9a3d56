//! `config.json` of a folder: Qwen2.5-VL in the layouts of transformers 4 and 5, and Qwen3-VL.

mod text;
mod vision;

use std::path::Path;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub(super) use text::TextConfig;
pub(super) use vision::{DeepstackConfig, VisionConfig, VisionKind, WindowConfig};

use crate::LoadError;
use crate::load::{optional_sizes, read_json};

/// Both towers and what joins them.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) family: Family,
    pub(super) text: TextConfig,
    pub(super) vision: VisionConfig,
    pub(super) image_token_id: u32,
    pub(super) tie_word_embeddings: bool,
    /// Tokens that end an answer, by this file.
    pub(super) eos_token_ids: Vec<u32>,
}

/// The architecture, `model_type` of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Family {
    /// `Qwen2_5_VLForConditionalGeneration`.
    #[default]
    Qwen2_5Vl,
    /// `Qwen3VLForConditionalGeneration`.
    Qwen3Vl,
}

/// Rotary settings: `rope_parameters` of transformers 5, `rope_scaling` before.
#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    #[serde(default, deserialize_with = "optional_sizes")]
    mrope_section: Option<Vec<usize>>,
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older name of the same. The text encoders of Qwen-Image's folders have both.
    #[serde(rename = "type")]
    older_type: Option<String>,
}

impl RopeParameters {
    /// The kind of rotary embedding, under either name or under both where they say the same. `mrope` is what `default` was called before.
    fn kind(&self) -> Result<&str, Refused> {
        const DEFAULT: &str = "default";
        let plain = |kind: &Option<String>| match kind.as_deref() {
            Some("mrope") => Some(DEFAULT.to_owned()),
            _ => kind.clone(),
        };
        match (plain(&self.rope_type), plain(&self.older_type)) {
            (Some(new), Some(old)) if new != old => {
                let found = format!("`{new}` under `rope_type` and `{old}` under `type`");
                Err(Refused::new("rope_parameters", found, "one kind"))
            }
            (None, None) => Ok(DEFAULT),
            _ => Ok(self
                .rope_type
                .as_deref()
                .or(self.older_type.as_deref())
                .unwrap_or(DEFAULT)),
        }
    }
}

/// A value that this implementation does not compute: key, what was found, what is supported.
struct Refused(String, String, String);

impl Refused {
    fn new(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> Self {
        Self(key.into(), found.to_string(), expected.into())
    }
}

impl Config {
    pub(super) fn read(file: &Path) -> Result<Self, LoadError> {
        let root = read_json(file)?;
        let parse_error = |key: &str, source| LoadError::Config {
            file: file.to_owned(),
            key: key.to_owned(),
            source,
        };
        let unsupported = |Refused(key, found, expected)| LoadError::Unsupported {
            file: file.to_owned(),
            key,
            found,
            expected,
        };
        let family = match root["model_type"].as_str() {
            Some("qwen2_5_vl") => Family::Qwen2_5Vl,
            Some("qwen3_vl") => Family::Qwen3Vl,
            _ => {
                let refused = Refused::new("model_type", &root["model_type"], "`qwen2_5_vl` or `qwen3_vl`");
                return Err(unsupported(refused));
            }
        };
        // transformers 4 keeps the language model's keys at the top.
        let (text_key, text_value) = match &root["text_config"] {
            Value::Null => ("", &root),
            nested => ("text_config", nested),
        };
        let mut text: TextConfig = part(text_key, text_value).map_err(|(key, source)| parse_error(&key, source))?;
        text.family = family;
        let vision =
            VisionConfig::read(&root["vision_config"], family).map_err(|(key, source)| parse_error(&key, source))?;
        let image_token_id =
            u32::deserialize(&root["image_token_id"]).map_err(|source| parse_error("image_token_id", source))?;
        text.check().and_then(|()| vision.check(&text)).map_err(unsupported)?;
        let first = |key: &str| [&root[key], &text_value[key]];
        Ok(Self {
            family,
            image_token_id,
            tie_word_embeddings: first("tie_word_embeddings")
                .iter()
                .find_map(|value| value.as_bool())
                .unwrap_or(false),
            eos_token_ids: first("eos_token_id")
                .into_iter()
                .find_map(token_ids)
                .unwrap_or_default(),
            text,
            vision,
        })
    }
}

/// The tokens of an `eos_token_id`, which is one id or a list of them.
pub(super) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(ids) => ids.iter().map(id).collect(),
        value => id(value).map(|id| vec![id]),
    }
}

/// Parses one part of the file; an error comes with the path of its key in the file.
fn part<T: DeserializeOwned>(root: &str, value: &Value) -> Result<T, (String, serde_json::Error)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let key = match (root, path.as_str()) {
            ("", path) => path.to_owned(),
            (root, ".") => root.to_owned(),
            (root, path) => format!("{root}.{path}"),
        };
        (key, error.into_inner())
    })
}
