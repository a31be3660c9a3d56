//! Prompts as vectors, for finding those that are near in meaning.

use std::path::Path;
use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_core::spec::{Device, Dtype, EmbeddingSpec, HostedModel, TextEncoderSpec};
use gavel_models::load::{Placement, Weights, fingerprint};
use gavel_models::text::{ClipTextEncoder, PromptTokenizer};
use gavel_models::{LoadError, ModelError};
use gavel_rubric::AskError;
use gavel_rubric::generate::Embed;

use crate::open::{BackEnd as _, Models};
use crate::{Endpoint, Error};

/// The pooled embeddings of a CLIP text encoder, scaled to length 1. Unlike counts of words it sees meaning.
struct ClipEmbedding {
    name: String,
    identity: Digest,
    model: Arc<TextEncoder>,
}

/// A CLIP text encoder with its tokenizer.
pub(crate) struct TextEncoder {
    tokenizer: PromptTokenizer,
    encoder: ClipTextEncoder,
}

impl Models {
    /// Opens an embedding. A text encoder that is in memory already is not loaded again.
    ///
    /// # Errors
    /// [`Error::Load`] of a folder without a CLIP text encoder, [`Error::Client`] of a server whose key is missing.
    pub fn open_embedding(&mut self, spec: &EmbeddingSpec) -> Result<Box<dyn Embed>, Error> {
        match spec {
            EmbeddingSpec::Server(spec) => Ok(Box::new(Endpoint::new(&spec.server())?)),
            EmbeddingSpec::TextEncoder(spec) => {
                let load = |placement: &Placement| Ok(TextEncoder::load(spec, placement)?);
                let (identity, model) = self.text_encoders.get(hosted(&spec.encoder()), load)?;
                Ok(Box::new(ClipEmbedding {
                    name: format!("CLIP text encoder of {}", spec.path.display()),
                    identity,
                    model,
                }))
            }
        }
    }

    /// Frees every text encoder but that of `wanted`.
    pub(crate) fn retain_text_encoder(&mut self, wanted: Option<&EmbeddingSpec>) {
        let encoder = match wanted {
            Some(EmbeddingSpec::TextEncoder(spec)) => Some(spec.encoder()),
            Some(EmbeddingSpec::Server(_)) | None => None,
        };
        self.text_encoders.retain(encoder.as_deref().map(hosted).into_iter());
    }
}

/// What tells one embedding from another: the encoder's weights, or a server's address and model name.
///
/// # Errors
/// [`Error::Load`] when a folder cannot be read.
pub(crate) fn embedding_fingerprint(spec: &EmbeddingSpec) -> Result<Digest, Error> {
    match spec {
        EmbeddingSpec::TextEncoder(spec) => Ok(fingerprint(&spec.encoder())?),
        EmbeddingSpec::Server(spec) => spec.server().fingerprint(),
    }
}

/// Numbers in the weights of an embedding's text encoder, from settings and headers alone.
///
/// # Errors
/// [`LoadError`]: the folder has no CLIP text encoder.
pub fn text_encoder_parameters(spec: &TextEncoderSpec) -> Result<u64, LoadError> {
    PromptTokenizer::load_clip(&spec.tokenizer())?;
    Ok(Weights::open(&spec.encoder(), &Placement::cpu())?.parameters())
}

/// The encoder of this folder is small, and its vectors are to be the same wherever they are made.
fn hosted(encoder: &Path) -> HostedModel<'_> {
    HostedModel {
        path: encoder,
        device: Device::Cpu,
        dtype: Dtype::F32,
    }
}

impl TextEncoder {
    fn load(spec: &TextEncoderSpec, placement: &Placement) -> Result<Self, LoadError> {
        Ok(Self {
            tokenizer: PromptTokenizer::load_clip(&spec.tokenizer())?,
            encoder: ClipTextEncoder::load(&spec.encoder(), placement)?,
        })
    }

    fn vector(&self, text: &str) -> Result<Vec<f64>, ModelError> {
        let length = self.tokenizer.length(text)?.min(self.encoder.max_positions());
        let tokens = self.tokenizer.encode(text, length)?;
        let pooled = self.encoder.pooled(&[tokens])?.squeeze(0)?;
        let mut vector = pooled.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
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
        let vectors = texts.iter().map(|text| self.model.vector(text));
        vectors
            .collect::<Result<_, _>>()
            .map_err(|error| AskError::unanswerable(&error))
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::spec::TextEncoderFamily;

    use super::*;

    fn tiny() -> TextEncoderSpec {
        TextEncoderSpec {
            family: TextEncoderFamily::ClipText,
            path: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-flux"),
        }
    }

    #[test]
    fn a_prompt_lies_closest_to_itself_whatever_its_length() {
        let embedding = Models::default()
            .open_embedding(&EmbeddingSpec::TextEncoder(tiny()))
            .unwrap();
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

    #[test]
    fn an_encoder_is_in_memory_once_and_freed_when_nobody_wants_it() {
        let spec = EmbeddingSpec::TextEncoder(tiny());
        let mut models = Models::default();
        let first = models.open_embedding(&spec).unwrap();
        let second = models.open_embedding(&spec).unwrap();
        assert_eq!(first.identity(), second.identity());
        assert_eq!(first.identity(), Some(embedding_fingerprint(&spec).unwrap()));
        assert_eq!(models.text_encoders.count(), 1);
        models.retain_text_encoder(Some(&spec));
        assert_eq!(models.text_encoders.count(), 1);
        models.retain_text_encoder(None);
        assert_eq!(models.text_encoders.count(), 0);
        assert!(text_encoder_parameters(&tiny()).unwrap() > 0);
        let elsewhere = TextEncoderSpec {
            path: "no-such-model".into(),
            ..tiny()
        };
        assert!(text_encoder_parameters(&elsewhere).is_err());
    }
}
