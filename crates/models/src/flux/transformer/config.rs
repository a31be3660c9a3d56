//! `config.json` of a FLUX transformer.

use std::path::Path;

use serde::Deserialize;

use crate::load::{LoadError, optional_size, read_config, size, sizes};

/// Architecture of a FLUX transformer: the fields of diffusers' `FluxTransformer2DModel` configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FluxTransformerConfig {
    /// Side of the patches that the model itself would pack; FLUX packs outside, so only 1 is supported.
    #[serde(default = "one", deserialize_with = "size")]
    pub patch_size: usize,
    /// Channels of a packed latent token.
    #[serde(deserialize_with = "size")]
    pub in_channels: usize,
    /// Channels of a velocity token; as `in_channels` when absent.
    #[serde(default, deserialize_with = "optional_size")]
    pub out_channels: Option<usize>,
    /// Double-stream blocks.
    #[serde(deserialize_with = "size")]
    pub num_layers: usize,
    /// Single-stream blocks.
    #[serde(deserialize_with = "size")]
    pub num_single_layers: usize,
    /// Channels per attention head.
    #[serde(deserialize_with = "size")]
    pub attention_head_dim: usize,
    /// Attention heads.
    #[serde(deserialize_with = "size")]
    pub num_attention_heads: usize,
    /// Channels of the prompt embeddings (T5).
    #[serde(deserialize_with = "size")]
    pub joint_attention_dim: usize,
    /// Channels of the pooled prompt embedding (CLIP).
    #[serde(deserialize_with = "size")]
    pub pooled_projection_dim: usize,
    /// Whether the guidance scale is an input.
    #[serde(default)]
    pub guidance_embeds: bool,
    /// Channels of a head that rotate with (index, row, column); their sum is `attention_head_dim`.
    #[serde(default = "flux_axes", deserialize_with = "sizes")]
    pub axes_dims_rope: Vec<usize>,
}

fn one() -> usize {
    1
}

fn flux_axes() -> Vec<usize> {
    vec![16, 56, 56]
}

impl FluxTransformerConfig {
    /// Reads `config.json` of a diffusers `transformer` folder.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for numbers that FLUX does not have, and those of [`read_config`].
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

    /// Channels of a velocity token.
    pub fn velocity_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// What is wrong with the numbers, as (key, value, what is needed).
    fn problem(&self) -> Option<(&'static str, String, String)> {
        let sizes = [
            ("in_channels", self.in_channels),
            ("attention_head_dim", self.attention_head_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("joint_attention_dim", self.joint_attention_dim),
            ("pooled_projection_dim", self.pooled_projection_dim),
            ("out_channels", self.velocity_channels()),
        ];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Some((key, size.to_string(), "at least 1".to_owned()));
        }
        if self.patch_size != 1 {
            return Some(("patch_size", self.patch_size.to_string(), "1".to_owned()));
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
