//! What a pipeline folder holds, by settings and headers alone: in milliseconds, however large the weights are.

use std::ops::RangeInclusive;
use std::path::Path;

use super::folder::Kind;
use super::{prompt, transformer};
use crate::denoiser::packing::grid;
use crate::denoiser::scheduler::SchedulerConfig;
use crate::denoiser::{Grid, Inspection};
use crate::load::{Placement, WeightCounts};
use crate::lora::AdaptableLayers;
use crate::text::{WordTokenizer, load_qwen2};
use crate::vae::AutoencoderKlQwenImageConfig;
use crate::vlm::VlmEncoder;
use crate::{Family, LoadError, ModelError, Weights};

/// A pipeline folder that was looked into.
#[derive(Debug)]
pub struct QwenImageInspection {
    kind: Kind,
    tokenizer: WordTokenizer,
    layers: AdaptableLayers,
    vae: AutoencoderKlQwenImageConfig,
    transformer: WeightCounts,
    text_encoder: WeightCounts,
    autoencoder: WeightCounts,
}

impl QwenImageInspection {
    /// Reads every settings file, the tokenizer, and the headers of all weight files. Finds a file that is missing, is of
    /// another family, or ends before its header says so, and each tensor of the transformer that loading would refuse; not so
    /// tensors of text encoder and autoencoder, which only loading compares.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn read(family: Family, dir: &Path) -> Result<Self, LoadError> {
        let kind = Kind::of(family, dir)?;
        SchedulerConfig::read(&dir.join("scheduler"))?;
        let processor = dir.join("processor");
        let tokenizer = load_qwen2(&kind.tokenizer_dirs(dir))?;
        let sees = kind != Kind::TextToImage;
        let text = VlmEncoder::inspect(&dir.join("text_encoder"), sees.then_some(processor.as_path()))?;
        let vae = Weights::open(&dir.join("vae"), &Placement::cpu())?.parameters();
        let (layers, transformer) = transformer::inspect(&dir.join("transformer"))?;
        Ok(Self {
            kind,
            tokenizer,
            layers,
            vae: AutoencoderKlQwenImageConfig::read(&dir.join("vae"))?,
            transformer,
            text_encoder: WeightCounts::whole(text),
            autoencoder: WeightCounts::whole(vae),
        })
    }
}

impl Inspection for QwenImageInspection {
    fn layers(&self) -> &AdaptableLayers {
        &self.layers
    }

    fn source_pictures(&self) -> RangeInclusive<usize> {
        self.kind.source_pictures()
    }

    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError> {
        grid(self.vae.scale(), height, width)
    }

    fn tokens(&self, words: &str) -> Result<usize, ModelError> {
        if self.kind != Kind::TextToImage {
            return Ok(self.tokenizer.encode_words(words)?.len());
        }
        let text = prompt::text(self.kind, &self.tokenizer.guarded(words)?, 0);
        let tokens = self.tokenizer.encode_text(&text)?.len();
        Ok(tokens.saturating_sub(prompt::prefix_tokens(self.kind)))
    }

    fn denoiser_weights(&self) -> WeightCounts {
        self.transformer
    }

    fn text_encoder_weights(&self) -> WeightCounts {
        self.text_encoder
    }

    fn autoencoder_weights(&self) -> WeightCounts {
        self.autoencoder
    }
}
