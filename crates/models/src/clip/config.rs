//! `config.json` of a CLIP model's folder.

use std::path::Path;

use serde::Deserialize;

use crate::LoadError;
use crate::layers::Activation;
use crate::load::{read_config, require_positive, size};
use crate::text::ClipTextConfig;

/// The settings of both encoders. What a file leaves out is what transformers takes for it.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default = "projection", deserialize_with = "size")]
    pub(super) projection_dim: usize,
    #[serde(default)]
    pub(super) text_config: TextConfig,
    #[serde(default)]
    pub(super) vision_config: VisionConfig,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct TextConfig {
    #[serde(deserialize_with = "size")]
    pub(super) vocab_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) hidden_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) intermediate_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) num_hidden_layers: usize,
    #[serde(deserialize_with = "size")]
    pub(super) num_attention_heads: usize,
    #[serde(deserialize_with = "size")]
    pub(super) max_position_embeddings: usize,
    pub(super) hidden_act: Activation,
    pub(super) layer_norm_eps: f64,
    pub(super) eos_token_id: u32,
}

impl TextConfig {
    /// As the encoder of words takes them.
    pub(super) fn settings(&self) -> ClipTextConfig {
        ClipTextConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            max_position_embeddings: self.max_position_embeddings,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            eos_token_id: self.eos_token_id,
        }
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2_048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct VisionConfig {
    #[serde(deserialize_with = "size")]
    pub(super) hidden_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) intermediate_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) num_hidden_layers: usize,
    #[serde(deserialize_with = "size")]
    pub(super) num_attention_heads: usize,
    #[serde(deserialize_with = "size")]
    pub(super) image_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) patch_size: usize,
    pub(super) hidden_act: Activation,
    pub(super) layer_norm_eps: f64,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3_072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// Refuses a value.
pub(super) fn unsupported<T>(file: &Path, key: &str, found: String, expected: String) -> Result<T, LoadError> {
    Err(LoadError::Unsupported {
        file: file.to_owned(),
        key: key.to_owned(),
        found,
        expected,
    })
}

/// Checks what both encoders must have: sizes, heads that divide the width of their encoder, and a patch that fits into the picture.
pub(super) fn check_encoders(
    file: &Path,
    sizes: &[(&str, usize)],
    [text, vision]: [(usize, usize); 2],
    (patch_size, image_size): (usize, usize),
) -> Result<(), LoadError> {
    require_positive(file, sizes)?;
    for (key, (width, heads)) in [
        ("text_config.num_attention_heads", text),
        ("vision_config.num_attention_heads", vision),
    ] {
        if !width.is_multiple_of(heads) {
            return unsupported(file, key, heads.to_string(), format!("a divisor of the width, {width}"));
        }
    }
    if patch_size > image_size {
        let expected = format!("at most `vision_config.image_size`, {image_size}");
        return unsupported(file, "vision_config.patch_size", patch_size.to_string(), expected);
    }
    Ok(())
}

fn projection() -> usize {
    512
}

impl Config {
    /// Reads the file of a folder.
    pub(super) fn load(dir: &Path) -> Result<Self, LoadError> {
        let file = dir.join("config.json");
        let config: Self = read_config(&file)?;
        config.check(&file)?;
        Ok(config)
    }

    fn check(&self, file: &Path) -> Result<(), LoadError> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let sizes = [
            ("projection_dim", self.projection_dim),
            ("vision_config.hidden_size", vision.hidden_size),
            ("vision_config.intermediate_size", vision.intermediate_size),
            ("vision_config.num_attention_heads", vision.num_attention_heads),
            ("vision_config.image_size", vision.image_size),
            ("vision_config.patch_size", vision.patch_size),
            ("text_config.vocab_size", text.vocab_size),
            ("text_config.hidden_size", text.hidden_size),
            ("text_config.intermediate_size", text.intermediate_size),
            ("text_config.num_attention_heads", text.num_attention_heads),
            ("text_config.max_position_embeddings", text.max_position_embeddings),
        ];
        let heads = [
            (text.hidden_size, text.num_attention_heads),
            (vision.hidden_size, vision.num_attention_heads),
        ];
        check_encoders(file, &sizes, heads, (vision.patch_size, vision.image_size))
    }
}
