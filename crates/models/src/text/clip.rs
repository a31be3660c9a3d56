//! CLIP's text encoder.

use std::path::Path;

use candle_core::Tensor;
use serde::Deserialize;

use super::stacked;
use crate::load::Placement;
use crate::{
    LoadError, ModelError, Weights,
    clip::{Layer, LayerNames, LayerSizes},
    layers::{Activation, LayerNorm, Mask},
    load::{read_config, require_positive, size},
};

/// The end-of-text id that configurations held by mistake before transformers learned to look for the real one.
const LEGACY_EOS: u32 = 2;

/// Its settings.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(deserialize_with = "size")]
    pub(crate) vocab_size: usize,
    #[serde(deserialize_with = "size")]
    pub(crate) hidden_size: usize,
    #[serde(deserialize_with = "size")]
    pub(crate) intermediate_size: usize,
    #[serde(deserialize_with = "size")]
    pub(crate) num_hidden_layers: usize,
    #[serde(deserialize_with = "size")]
    pub(crate) num_attention_heads: usize,
    #[serde(deserialize_with = "size")]
    pub(crate) max_position_embeddings: usize,
    #[serde(default = "quick_gelu")]
    pub(crate) hidden_act: Activation,
    #[serde(default = "layer_norm_eps")]
    pub(crate) layer_norm_eps: f64,
    #[serde(default = "eos_token_id")]
    pub(crate) eos_token_id: u32,
}

impl Config {
    fn check(&self, file: &Path) -> Result<(), LoadError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        require_positive(file, &sizes)?;
        if self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Ok(());
        }
        Err(LoadError::Unsupported {
            file: file.to_owned(),
            key: "num_attention_heads".to_owned(),
            found: self.num_attention_heads.to_string(),
            expected: format!("a divisor of the width, {}", self.hidden_size),
        })
    }
}

fn quick_gelu() -> Activation {
    Activation::QuickGelu
}

fn layer_norm_eps() -> f64 {
    1e-5
}

fn eos_token_id() -> u32 {
    49_407
}

/// CLIP's text encoder, frozen.
///
/// # Source
/// transformers `CLIPTextModel`.
#[derive(Debug)]
pub struct ClipTextEncoder {
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    eos_token_id: u32,
    max_positions: usize,
    placement: Placement,
}

impl ClipTextEncoder {
    /// Loads a `text_encoder` folder.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        // Small, and its one vector counts in every block.
        let weights = Weights::open(dir, &placement.clone().quantized(None))?;
        let config_file = dir.join("config.json");
        let config: Config = read_config(&config_file)?;
        config.check(&config_file)?;
        // transformers 5 dropped the prefix that earlier releases write.
        let root = if weights.contains("text_model.final_layer_norm.weight") {
            "text_model."
        } else {
            ""
        };
        let encoder = Self::of(&weights, root, &config)?;
        weights.finish(&[&format!("{root}embeddings.position_ids")])?;
        Ok(encoder)
    }

    /// Takes the encoder of a whole CLIP, whose settings have been checked.
    pub(crate) fn of_clip(weights: &Weights, config: &Config) -> Result<Self, LoadError> {
        Self::of(weights, "text_model.", config)
    }

    fn of(weights: &Weights, root: &str, config: &Config) -> Result<Self, LoadError> {
        let width = config.hidden_size;
        let sizes = LayerSizes {
            width,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let layers = (0..config.num_hidden_layers).map(|index| {
            Layer::load(
                weights,
                &format!("{root}encoder.layers.{index}"),
                sizes,
                &LayerNames::CLIP,
            )
        });
        Ok(Self {
            layers: layers.collect::<Result<_, LoadError>>()?,
            token_embedding: weights.get(
                &format!("{root}embeddings.token_embedding.weight"),
                &[config.vocab_size, width],
            )?,
            position_embedding: weights.get(
                &format!("{root}embeddings.position_embedding.weight"),
                &[config.max_position_embeddings, width],
            )?,
            final_norm: LayerNorm::load(
                weights,
                &format!("{root}final_layer_norm"),
                width,
                config.layer_norm_eps,
            )?,
            eos_token_id: config.eos_token_id,
            max_positions: config.max_position_embeddings,
            placement: weights.placement().clone(),
        })
    }

    /// The longest sequence that the position table covers.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// The pooled embeddings: the final state at the end-of-text token.
    ///
    /// # Shapes
    /// Returns (sequences, hidden_size).
    ///
    /// # Errors
    /// [`ModelError::Value`] for an empty list or a sequence longer than the position table.
    pub fn pooled(&self, sequences: &[Vec<u32>]) -> Result<Tensor, ModelError> {
        stacked(sequences, self.placement.is_host(), |ids| self.pooled_one(ids))
    }

    fn pooled_one(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        if ids.is_empty() || ids.len() > self.max_positions {
            return Err(ModelError::Value {
                input: "prompts",
                problem: format!("{} tokens, this encoder takes 1 to {}", ids.len(), self.max_positions),
            });
        }
        let tokens = Tensor::new(ids, self.placement.device())?;
        let positions = self.position_embedding.narrow(0, 0, ids.len())?;
        let mut x = (self.token_embedding.index_select(&tokens, 0)? + positions)?;
        for layer in &self.layers {
            x = layer.forward(&x, Mask::Causal)?;
        }
        let last = x.narrow(0, self.end_of_text(ids), 1)?.contiguous()?;
        Ok(self.final_norm.forward(&last)?.squeeze(0)?)
    }

    /// The position whose state is the pooled embedding: the first end-of-text token, or with a legacy configuration the
    /// first of the highest ids.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        let wanted = match self.eos_token_id {
            LEGACY_EOS => ids.iter().copied().max().unwrap_or(LEGACY_EOS),
            id => id,
        };
        ids.iter().position(|id| *id == wanted).unwrap_or(0)
    }
}
