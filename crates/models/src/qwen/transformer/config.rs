//! `config.json` of a Qwen-Image transformer.

use std::path::Path;

use serde::Deserialize;

use crate::load::{LoadError, read_config, size, sizes};

/// Architecture of a Qwen-Image transformer: the fields of diffusers' `QwenImageTransformer2DModel` configuration, with its
/// defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QwenImageTransformerConfig {
    /// Side of the square of latents that is packed into a token.
    #[serde(default = "two", deserialize_with = "size")]
    pub patch_size: usize,
    /// Channels of a packed latent token.
    #[serde(deserialize_with = "size")]
    pub in_channels: usize,
    /// Channels of the latents that a velocity token unpacks to.
    #[serde(default = "sixteen", deserialize_with = "size")]
    pub out_channels: usize,
    /// Blocks.
    #[serde(deserialize_with = "size")]
    pub num_layers: usize,
    /// Channels per attention head.
    #[serde(deserialize_with = "size")]
    pub attention_head_dim: usize,
    /// Attention heads.
    #[serde(deserialize_with = "size")]
    pub num_attention_heads: usize,
    /// Channels of the prompt embeddings (Qwen2.5-VL).
    #[serde(deserialize_with = "size")]
    pub joint_attention_dim: usize,
    /// Channels of a head that rotate with (picture, row, column); their sum is `attention_head_dim`.
    #[serde(default = "qwen_axes", deserialize_with = "sizes")]
    pub axes_dims_rope: Vec<usize>,
    /// Whether the tokens of source pictures are modulated as at time 0, as in release 2511.
    #[serde(default)]
    pub zero_cond_t: bool,
    /// Not supported: no published model was distilled with guidance, and diffusers fails on it.
    #[serde(default)]
    pub guidance_embeds: bool,
    /// Not supported: layered pictures.
    #[serde(default)]
    pub use_additional_t_cond: bool,
    /// Not supported: layered pictures.
    #[serde(default)]
    pub use_layer3d_rope: bool,
}

fn two() -> usize {
    2
}

fn sixteen() -> usize {
    16
}

fn qwen_axes() -> Vec<usize> {
    vec![16, 56, 56]
}

impl QwenImageTransformerConfig {
    /// Reads `config.json` of a diffusers `transformer` folder; unknown keys are ignored, because releases differ in them.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for numbers that Qwen-Image does not have and switches of other models, and those of
    /// [`read_config`].
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        let file = dir.join("config.json");
        let config: Self = read_config(&file)?;
        match config.problem() {
            Some((key, found, expected)) => Err(LoadError::Unsupported {
                file,
                key: key.to_owned(),
                found,
                expected,
            }),
            None => Ok(config),
        }
    }

    /// Width of the residual stream.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// What is wrong with the settings, as (key, value, what is needed).
    fn problem(&self) -> Option<(&'static str, String, String)> {
        let switches = [
            ("guidance_embeds", self.guidance_embeds),
            ("use_additional_t_cond", self.use_additional_t_cond),
            ("use_layer3d_rope", self.use_layer3d_rope),
        ];
        if let Some((key, _)) = switches.into_iter().find(|(_, on)| *on) {
            return Some((key, "true".to_owned(), "`false` or no such key".to_owned()));
        }
        let sizes = [
            ("patch_size", self.patch_size),
            ("in_channels", self.in_channels),
            ("num_layers", self.num_layers),
            ("attention_head_dim", self.attention_head_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("joint_attention_dim", self.joint_attention_dim),
        ];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Some((key, size.to_string(), "at least 1".to_owned()));
        }
        let patch = self.patch_size * self.patch_size;
        if self.out_channels * patch != self.in_channels {
            let expected = format!(
                "a velocity of as many channels as the latents: `in_channels`, {}, over the {patch} latents of a patch",
                self.in_channels
            );
            return Some(("out_channels", self.out_channels.to_string(), expected));
        }
        let axes = &self.axes_dims_rope;
        let rotated: usize = axes.iter().take(3).sum();
        if axes.len() != 3 || axes.iter().any(|dim| dim % 2 != 0) || rotated != self.attention_head_dim {
            let expected = format!(
                "three even numbers that add up to `attention_head_dim`, {}",
                self.attention_head_dim
            );
            return Some(("axes_dims_rope", format!("{axes:?}"), expected));
        }
        None
    }
}
