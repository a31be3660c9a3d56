//! What a pipeline folder holds, by settings and headers alone: in milliseconds, however large the weights are.

use std::ops::RangeInclusive;
use std::path::Path;

use super::pipeline::check_classes;
use super::transformer;
use crate::denoiser::{Grid, Inspection, packing, scheduler::SchedulerConfig};
use crate::load::{Placement, WeightCounts};
use crate::lora::AdaptableLayers;
use crate::text::{PromptTokenizer, T5Encoder};
use crate::vae::AutoencoderConfig;
use crate::{LoadError, ModelError, Weights};

/// A pipeline folder that was looked into.
#[derive(Debug)]
pub struct FluxInspection {
    layers: AdaptableLayers,
    t5_tokenizer: PromptTokenizer,
    vae: AutoencoderConfig,
    transformer: WeightCounts,
    text_encoders: WeightCounts,
    autoencoder: WeightCounts,
}

impl FluxInspection {
    /// Reads every settings file, both tokenizers, and the headers of all weight files. Finds a file that is missing, is of
    /// another family, or ends before its header says so, and each tensor of the transformer that loading would refuse; not so
    /// tensors of text encoders and autoencoder, which only loading compares.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        check_classes(dir)?;
        SchedulerConfig::read(&dir.join("scheduler"))?;
        PromptTokenizer::load_clip(&dir.join("tokenizer"))?;
        let t5_tokenizer = PromptTokenizer::load_t5(&dir.join("tokenizer_2"))?;
        let vae = AutoencoderConfig::read(&dir.join("vae"))?;
        let whole = |part: &str| -> Result<WeightCounts, LoadError> {
            let weights = Weights::open(&dir.join(part), &Placement::cpu())?;
            Ok(WeightCounts::whole(weights.parameters()))
        };
        let (layers, transformer) = transformer::inspect(&dir.join("transformer"))?;
        Ok(Self {
            layers,
            t5_tokenizer,
            vae,
            transformer,
            text_encoders: T5Encoder::inspect(&dir.join("text_encoder_2"))? + whole("text_encoder")?,
            autoencoder: whole("vae")?,
        })
    }
}

impl Inspection for FluxInspection {
    fn layers(&self) -> &AdaptableLayers {
        &self.layers
    }

    fn source_pictures(&self) -> RangeInclusive<usize> {
        0..=0
    }

    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError> {
        packing::grid(self.vae.scale(), height, width)
    }

    fn tokens(&self, words: &str) -> Result<usize, ModelError> {
        self.t5_tokenizer.length(words)
    }

    fn denoiser_weights(&self) -> WeightCounts {
        self.transformer
    }

    fn text_encoder_weights(&self) -> WeightCounts {
        self.text_encoders
    }

    fn autoencoder_weights(&self) -> WeightCounts {
        self.autoencoder
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::denoiser::Denoiser;
    use crate::flux::transformer::FluxTransformer;
    use crate::lora::{LoraAdapter, LoraConfig};

    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-flux")
    }

    fn config(target: &str) -> LoraConfig {
        LoraConfig {
            rank: 4,
            alpha: 8.0,
            dropout: 0.0,
            target_modules: vec![target.to_owned()],
        }
    }

    #[test]
    fn an_adapter_binds_to_a_folder_as_to_the_loaded_transformer() {
        let folder = FluxInspection::read(&tiny()).unwrap();
        let loaded = FluxTransformer::load(&tiny().join("transformer"), &Placement::cpu()).unwrap();
        for target in ["attn.to_q", "proj_mlp", "nowhere", "norm_out.linear"] {
            let bound = folder.bind(&config(target)).map_err(|error| error.to_string());
            let made = LoraAdapter::init(loaded.layers(), &config(target), [0; 32]);
            let made = made
                .map(|adapter| adapter.manifest())
                .map_err(|error| error.to_string());
            assert_eq!(bound, made, "{target}");
        }
        assert_eq!(folder.grid(64, 64).unwrap(), Grid { height: 4, width: 4 });
        assert!(folder.grid(64, 60).is_err());
    }

    #[test]
    fn the_published_targets_each_name_a_layer() {
        let folder = FluxInspection::read(&tiny()).unwrap();
        for target in gavel_core::spec::LoraSpec::PUBLISHED_TARGETS {
            folder.bind(&config(target)).unwrap();
        }
    }
}
