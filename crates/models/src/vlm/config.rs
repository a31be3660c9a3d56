//! `config.json` of a Qwen2.5-VL folder, in the layouts of transformers 4 and 5.

use std::path::Path;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{LoadError, layers::Activation, load::read_json};

/// Both towers and what joins them.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) text: TextConfig,
    pub(super) vision: VisionConfig,
    pub(super) image_token_id: u32,
    pub(super) tie_word_embeddings: bool,
}

/// The language model.
#[derive(Debug, Deserialize)]
pub(super) struct TextConfig {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    pub(super) rms_norm_eps: f64,
    pub(super) hidden_act: Activation,
    #[serde(default)]
    use_sliding_window: Option<bool>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<RopeParameters>,
    rope_theta: Option<f64>,
}

/// Rotary settings: `rope_parameters` of transformers 5, `rope_scaling` before.
#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    mrope_section: Option<Vec<usize>>,
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

/// The vision tower.
#[derive(Debug, Deserialize)]
pub(super) struct VisionConfig {
    pub(super) depth: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_heads: usize,
    #[serde(alias = "in_chans", default = "rgb")]
    in_channels: usize,
    pub(super) patch_size: usize,
    pub(super) spatial_merge_size: usize,
    pub(super) temporal_patch_size: usize,
    pub(super) window_size: usize,
    pub(super) out_hidden_size: usize,
    pub(super) fullatt_block_indexes: Vec<usize>,
    pub(super) hidden_act: Activation,
    rope_parameters: Option<RopeParameters>,
}

fn rgb() -> usize {
    3
}

impl TextConfig {
    pub(super) fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub(super) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    pub(super) fn rope_theta(&self) -> f32 {
        const DEFAULT: f64 = 1e6;
        let nested = self.rope().and_then(|rope| rope.rope_theta);
        nested.or(self.rope_theta).unwrap_or(DEFAULT) as f32
    }

    /// Frequencies that turn with the temporal, vertical and horizontal position.
    pub(super) fn mrope_section(&self) -> &[usize] {
        self.rope()
            .and_then(|rope| rope.mrope_section.as_deref())
            .unwrap_or(&[16, 24, 24])
    }

    fn rope(&self) -> Option<&RopeParameters> {
        self.rope_scaling.as_ref().or(self.rope_parameters.as_ref())
    }
}

impl VisionConfig {
    pub(super) fn rope_theta(&self) -> f32 {
        const DEFAULT: f64 = 1e4;
        self.rope_parameters
            .as_ref()
            .and_then(|rope| rope.rope_theta)
            .unwrap_or(DEFAULT) as f32
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
        if root["model_type"] != "qwen2_5_vl" {
            return Err(LoadError::Unsupported {
                file: file.to_owned(),
                key: "model_type".to_owned(),
                found: root["model_type"].to_string(),
                expected: "`qwen2_5_vl`".to_owned(),
            });
        }
        // transformers 4 keeps the language model's keys at the top.
        let (text_key, text) = match &root["text_config"] {
            Value::Null => ("", &root),
            nested => ("text_config", nested),
        };
        let tied = [&root["tie_word_embeddings"], &text["tie_word_embeddings"]];
        let config = Self {
            text: part(text_key, text).map_err(|(key, source)| parse_error(&key, source))?,
            vision: part("vision_config", &root["vision_config"]).map_err(|(key, source)| parse_error(&key, source))?,
            image_token_id: u32::deserialize(&root["image_token_id"])
                .map_err(|source| parse_error("image_token_id", source))?,
            tie_word_embeddings: tied.iter().find_map(|value| value.as_bool()).unwrap_or(false),
        };
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: &Path) -> Result<(), LoadError> {
        let refuse = |key: &str, found: String, expected: &str| {
            Err(LoadError::Unsupported {
                file: file.to_owned(),
                key: key.to_owned(),
                found,
                expected: expected.to_owned(),
            })
        };
        let (text, vision) = (&self.text, &self.vision);
        if text.use_sliding_window == Some(true) {
            return refuse("use_sliding_window", "true".to_owned(), "false");
        }
        let rope_type = text
            .rope()
            .and_then(|rope| rope.rope_type.as_deref())
            .unwrap_or("default");
        if !matches!(rope_type, "default" | "mrope") {
            return refuse(
                "rope_parameters.rope_type",
                format!("`{rope_type}`"),
                "default or mrope",
            );
        }
        let heads = text.num_attention_heads;
        if heads == 0 || text.hidden_size % heads != 0 || text.kv_heads() == 0 || heads % text.kv_heads() != 0 {
            let found = format!(
                "{heads} with width {} and {} key heads",
                text.hidden_size,
                text.kv_heads()
            );
            return refuse(
                "num_attention_heads",
                found,
                "a divisor of the width and a multiple of the key heads",
            );
        }
        let section = text.mrope_section();
        if section.len() != 3 || 2 * section.iter().sum::<usize>() != text.head_dim() {
            let expected = format!(
                "three numbers that add to half of the head dimension, {}",
                text.head_dim() / 2
            );
            return refuse("mrope_section", format!("{section:?}"), &expected);
        }
        if vision.in_channels != 3 {
            return refuse("vision_config.in_channels", vision.in_channels.to_string(), "3");
        }
        if vision.num_heads == 0 || vision.hidden_size % vision.num_heads != 0 {
            return refuse(
                "vision_config.num_heads",
                vision.num_heads.to_string(),
                "a divisor of the width",
            );
        }
        if vision.hidden_size / vision.num_heads % 4 != 0 {
            let found = format!("{} for width {}", vision.num_heads, vision.hidden_size);
            return refuse(
                "vision_config.num_heads",
                found,
                "a head dimension that is a multiple of 4",
            );
        }
        let merged = vision.patch_size * vision.spatial_merge_size;
        if merged == 0 || vision.window_size < merged || vision.temporal_patch_size == 0 {
            let found = vision.window_size.to_string();
            return refuse("vision_config.window_size", found, "at least one merged patch");
        }
        if vision.out_hidden_size != text.hidden_size {
            let expected = format!("the language model's width, {}", text.hidden_size);
            return refuse(
                "vision_config.out_hidden_size",
                vision.out_hidden_size.to_string(),
                &expected,
            );
        }
        Ok(())
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
