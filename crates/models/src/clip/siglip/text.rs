//! SigLIP's encoder of words.

use candle_core::Tensor;

use super::config::TextConfig;
use crate::clip::{Layer, LayerNames, LayerSizes};
use crate::layers::{Bias, LayerNorm, Linear, Mask};
use crate::{LoadError, ModelError, Weights};

/// A transformer in which every token sees every other, padding too; the last state, behind a linear layer, stands for the prompt.
///
/// # Source
/// transformers `SiglipTextModel`.
#[derive(Debug)]
pub(super) struct TextEncoder {
    /// (vocabulary, width).
    token_embedding: Tensor,
    /// (positions, width).
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    head: Linear,
}

impl TextEncoder {
    /// `outputs`: the width of the embedding.
    pub(super) fn load(weights: &Weights, config: &TextConfig, outputs: usize) -> Result<Self, LoadError> {
        let (width, root) = (config.hidden_size, "text_model");
        let sizes = LayerSizes {
            width,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let layer = |index| {
            Layer::load(
                weights,
                &format!("{root}.encoder.layers.{index}"),
                sizes,
                &LayerNames::CLIP,
            )
        };
        let embedding =
            |name: &str, count| weights.get(&format!("{root}.embeddings.{name}_embedding.weight"), &[count, width]);
        Ok(Self {
            token_embedding: embedding("token", config.vocab_size)?,
            position_embedding: embedding("position", config.max_position_embeddings)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            final_norm: LayerNorm::load(
                weights,
                &format!("{root}.final_layer_norm"),
                width,
                config.layer_norm_eps,
            )?,
            head: Linear::load(weights, &format!("{root}.head"), width, outputs, Bias::Added)?,
        })
    }

    /// The state that stands for a prompt.
    ///
    /// # Shapes
    /// From as many tokens as there are positions to (1, outputs).
    pub(super) fn forward(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let vocabulary = self.token_embedding.dims()[0];
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(ModelError::Tokenize(format!(
                "token {token} lies outside the model's vocabulary of {vocabulary}: the tokenizer is another model's"
            )));
        }
        let tokens_taken = Tensor::new(tokens, self.token_embedding.device())?;
        let embedded = self.token_embedding.index_select(&tokens_taken, 0)?;
        let mut states = (embedded + &self.position_embedding)?;
        let all = 0..tokens.len();
        for layer in &self.layers {
            states = layer.forward(&states, Mask::Segments(std::slice::from_ref(&all)))?;
        }
        let last = states.narrow(0, tokens.len() - 1, 1)?.contiguous()?;
        self.head.forward(&self.final_norm.forward(&last)?)
    }
}
