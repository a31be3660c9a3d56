//! Prompts as vectors, by the CLIP text encoder that a diffusion model has.

use std::path::Path;

use candle_core::DType;
use gavel_core::ids::Digest;
use gavel_models::load::{Placement, fingerprint};
use gavel_models::text::{ClipTextEncoder, PromptTokenizer};
use gavel_models::{LoadError, ModelError};
use gavel_rubric::AskError;
use gavel_rubric::generate::Embed;

/// The pooled embeddings of a CLIP text encoder, scaled to length 1. Unlike counts of words it sees meaning.
pub struct ClipEmbedding {
    name: String,
    identity: Digest,
    tokenizer: PromptTokenizer,
    encoder: ClipTextEncoder,
}

impl ClipEmbedding {
    /// Loads `tokenizer` and `text_encoder` of a diffusion model's folder, such as FLUX.1-dev's, on the CPU.
    ///
    /// # Errors
    /// [`LoadError`]: the folder has no CLIP text encoder.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let encoder = folder.join("text_encoder");
        Ok(Self {
            name: format!("CLIP text encoder of {}", folder.display()),
            identity: fingerprint(&encoder)?,
            tokenizer: PromptTokenizer::load_clip(&folder.join("tokenizer"))?,
            encoder: ClipTextEncoder::load(&encoder, &Placement::cpu())?,
        })
    }

    fn vector(&self, text: &str) -> Result<Vec<f64>, ModelError> {
        let length = self.tokenizer.length(text)?.min(self.encoder.max_positions());
        let tokens = self.tokenizer.encode(text, length)?;
        let pooled = self.encoder.pooled(&[tokens])?.squeeze(0)?;
        let mut vector = pooled.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|value| *value /= length);
        }
        Ok(vector)
    }
}

impl Embed for ClipEmbedding {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Option<Digest> {
        Some(self.identity)
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>, AskError> {
        let vectors = texts.iter().map(|text| self.vector(text));
        vectors
            .collect::<Result<_, _>>()
            .map_err(|error| AskError::unanswerable(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_lies_closest_to_itself_whatever_its_length() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-flux");
        let embedding = ClipEmbedding::load(&folder).unwrap();
        let long = "a red circle ".repeat(100);
        let texts = [
            "a red circle",
            "a red circle",
            "two blue squares on a black background",
            &long,
        ];
        let vectors = embedding.embed(&texts).unwrap();
        let cosine = |a: usize, b: usize| vectors[a].iter().zip(&vectors[b]).map(|(a, b)| a * b).sum::<f64>();
        assert!((cosine(0, 1) - 1.0).abs() < 1e-9);
        assert!(cosine(0, 2) < 0.999 && vectors.iter().all(|vector| vector.len() == vectors[0].len()));
    }
}
