//! `config.json` of a SigLIP model's folder.

use std::path::Path;

use serde::Deserialize;

use crate::LoadError;
use crate::clip::config::{check_encoders, unsupported};
use crate::layers::Activation;
use crate::load::{read_config, size};

/// The settings of both encoders. What a file leaves out is what transformers takes for it.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
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
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 768,
            intermediate_size: 3_072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 64,
            hidden_act: Activation::GeluTanh,
            layer_norm_eps: 1e-6,
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
    /// Whether the states are pooled by attention; a model without has no embedding of a picture.
    vision_use_head: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3_072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 16,
            hidden_act: Activation::GeluTanh,
            layer_norm_eps: 1e-6,
            vision_use_head: true,
        }
    }
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
        check_encoders(file, &sizes, heads, (vision.patch_size, vision.image_size))?;
        if !vision.vision_use_head {
            return unsupported(
                file,
                "vision_config.vision_use_head",
                "false".to_owned(),
                "true".to_owned(),
            );
        }
        Ok(())
    }
}
