//! From the last state to the logits of the vocabulary.

use candle_core::{DType, Tensor};

use super::config::Config;
use super::decoder::Decoder;
use crate::layers::{Bias, Linear};
use crate::ops::candle::Calls;
use crate::ops::cpu::weights::pack;
use crate::{LoadError, ModelError, Weights};

/// Words whose logits are computed at a time, so that only their weights are in float32 at once.
const WORDS_PER_CALL: usize = 16_384;

/// The layer that gives each word of the vocabulary its logit, in float32 whatever the weights are: at 20 a bfloat16 has steps of
/// 0.125, by which many a close pair of answers would be a tie.
#[derive(Debug)]
pub(super) enum Head<T = Tensor> {
    /// The CPU's fused layer.
    Fused(Linear<T>),
    /// Weights (vocabulary, width).
    Weights(T),
}

impl Head {
    /// Takes `lm_head`, or the embedding where the two are tied.
    pub(super) fn load(weights: &Weights, config: &Config, decoder: &Decoder) -> Result<Self, LoadError> {
        let (width, words) = (config.text.hidden_size, config.text.vocab_size);
        let tied = config.tie_word_embeddings;
        if !weights.placement().is_host() {
            return Ok(Self::Weights(match tied {
                true => decoder.embedding().clone(),
                false => weights.get("lm_head.weight", &[words, width])?,
            }));
        }
        Ok(Self::Fused(match tied {
            true => {
                let weight = pack(decoder.embedding()).map_err(|source| weights.candle(source))?;
                Linear::of(weight, weights.kernels())
            }
            false => Linear::load(weights, "lm_head", width, words, Bias::None)?,
        }))
    }
}

impl<T: Calls> Head<T> {
    /// The logits (vocabulary,) float32 of a state (1, width).
    pub(super) fn logits(&self, state: &T) -> Result<T, ModelError> {
        let weights = match self {
            Self::Fused(layer) => {
                let logits = layer.forward(state)?;
                return Ok(logits.reshape(logits.width())?.to_dtype(DType::F32)?);
            }
            Self::Weights(weights) => weights,
        };
        let (state, words) = (state.to_dtype(DType::F32)?, weights.dims()[0]);
        let parts: Vec<T> = (0..words)
            .step_by(WORDS_PER_CALL)
            .map(|first| {
                let some = weights.narrow(0, first, WORDS_PER_CALL.min(words - first))?;
                state.matmul(&some.to_dtype(DType::F32)?.t()?)
            })
            .collect::<Result<_, candle_core::Error>>()?;
        Ok(T::cat(&parts, 1)?.reshape(words)?)
    }
}
