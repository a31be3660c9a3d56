//! The text encoders CLIP and T5, and their tokenizers.
//!
//! CLIP gives one vector per prompt, T5 one per token. Each prompt is encoded on its own, so that its embedding does not
//! depend on the other prompts of a batch.

mod clip;
mod t5;
mod tokenizer;
mod words;

pub use clip::ClipTextEncoder;
pub(crate) use clip::Config as ClipTextConfig;
pub use t5::T5Encoder;
pub use tokenizer::PromptTokenizer;
pub(crate) use tokenizer::{check_settings, load_qwen2, read_tokenizer, token_text};
pub(crate) use words::WordTokenizer;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::ModelError;

/// Applies `encode` to each token sequence and stacks the results; in parallel where threads may share the work.
fn stacked(
    sequences: &[Vec<u32>],
    is_host: bool,
    encode: impl Fn(&[u32]) -> Result<Tensor, ModelError> + Sync,
) -> Result<Tensor, ModelError> {
    if sequences.is_empty() {
        return Err(ModelError::Value {
            input: "prompts",
            problem: "is empty".to_owned(),
        });
    }
    let encoded: Result<Vec<Tensor>, ModelError> = if is_host {
        sequences.par_iter().map(|ids| encode(ids)).collect()
    } else {
        sequences.iter().map(|ids| encode(ids)).collect()
    };
    Ok(Tensor::stack(&encoded?, 0)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// A GPU's stream and its cuBLAS handle belong to the thread that opened it.
    #[test]
    fn prompts_that_are_no_host_memory_are_encoded_on_the_thread_that_asks() {
        let own = std::thread::current().id();
        let encode = |_: &[u32]| {
            assert_eq!(std::thread::current().id(), own);
            Ok(Tensor::zeros(1, DType::F32, &Device::Cpu)?)
        };
        let states = stacked(&vec![vec![1]; 64], false, encode).unwrap();
        assert_eq!(states.dims(), [64, 1]);
    }
}
