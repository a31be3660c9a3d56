//! `config.json` of a DINOv2 model's folder.

use std::path::Path;

use serde::Deserialize;

use crate::LoadError;
use crate::layers::Activation;
use crate::load::{read_config, require_positive, size};

/// What `model_type` has to say.
const MODEL_TYPE: &str = "dinov2";

/// The settings. What a file leaves out is what transformers takes for it.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    model_type: String,
    #[serde(deserialize_with = "size")]
    pub(super) hidden_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) num_hidden_layers: usize,
    #[serde(deserialize_with = "size")]
    pub(super) num_attention_heads: usize,
    #[serde(deserialize_with = "size")]
    pub(super) mlp_ratio: usize,
    #[serde(deserialize_with = "size")]
    pub(super) image_size: usize,
    #[serde(deserialize_with = "size")]
    pub(super) patch_size: usize,
    pub(super) hidden_act: Activation,
    pub(super) layer_norm_eps: f64,
    qkv_bias: bool,
    use_swiglu_ffn: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: String::new(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4,
            image_size: 224,
            patch_size: 14,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-6,
            qkv_bias: true,
            use_swiglu_ffn: false,
        }
    }
}

impl Config {
    /// Reads the file of a folder.
    pub(super) fn load(dir: &Path) -> Result<Self, LoadError> {
        let file = dir.join("config.json");
        let config: Self = read_config(&file)?;
        let sizes = [
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
            ("mlp_ratio", config.mlp_ratio),
            ("image_size", config.image_size),
            ("patch_size", config.patch_size),
        ];
        require_positive(&file, &sizes)?;
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        for (is_so, key, found, expected) in [
            (
                config.model_type == MODEL_TYPE,
                "model_type",
                config.model_type.clone(),
                MODEL_TYPE.to_owned(),
            ),
            (config.qkv_bias, "qkv_bias", "false".to_owned(), "true".to_owned()),
            (
                !config.use_swiglu_ffn,
                "use_swiglu_ffn",
                "true".to_owned(),
                "false: the giant model's feed-forward network is not computed".to_owned(),
            ),
            (
                width.is_multiple_of(heads),
                "num_attention_heads",
                heads.to_string(),
                format!("a divisor of the width, {width}"),
            ),
            (
                config.patch_size <= config.image_size,
                "patch_size",
                config.patch_size.to_string(),
                format!("at most `image_size`, {}", config.image_size),
            ),
        ] {
            if !is_so {
                return Err(LoadError::Unsupported {
                    file,
                    key: key.to_owned(),
                    found,
                    expected,
                });
            }
        }
        Ok(config)
    }

    /// Refuses pictures of which no patch can be cut.
    pub(super) fn check_side(&self, dir: &Path, side: usize) -> Result<(), LoadError> {
        match side >= self.patch_size {
            true => Ok(()),
            false => Err(LoadError::Unsupported {
                file: dir.join("preprocessor_config.json"),
                key: "crop_size".to_owned(),
                found: side.to_string(),
                expected: format!("at least a patch, {}", self.patch_size),
            }),
        }
    }
}
