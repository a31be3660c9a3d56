//! What a pipeline folder holds, by settings and headers alone: in milliseconds, however large the weights are.

use std::path::Path;

use candle_core::{DType, Device};

use super::pipeline::{SchedulerConfig, check_model_index, latent_tokens};
use super::transformer::{FluxTransformerConfig, layers};
use crate::denoiser::{Grid, Inspection};
use crate::load::read_config;
use crate::lora::AdaptableLayers;
use crate::text::PromptTokenizer;
use crate::vae::AutoencoderConfig;
use crate::{LoadError, ModelError, Weights};

/// A pipeline folder that was looked into.
#[derive(Debug)]
pub struct FluxInspection {
    layers: AdaptableLayers,
    vae: AutoencoderConfig,
    /// Numbers in the transformer's weights.
    pub transformer_parameters: u64,
    /// Numbers in the weights of text encoders and autoencoder.
    pub other_parameters: u64,
}

impl FluxInspection {
    /// Reads every settings file, both tokenizers, and the headers of all weight files. Finds a file that is missing, is of
    /// another family, or ends before its header says so, and layers of the transformer with other shapes than its settings
    /// imply; not so tensors of text encoders and autoencoder, which only loading compares.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        check_model_index(dir)?;
        read_config::<SchedulerConfig>(&dir.join("scheduler").join("scheduler_config.json"))?;
        PromptTokenizer::load_clip(&dir.join("tokenizer"))?;
        PromptTokenizer::load_t5(&dir.join("tokenizer_2"))?;
        let vae = AutoencoderConfig::read(&dir.join("vae"))?;
        let mut other_parameters = 0;
        for part in ["vae", "text_encoder", "text_encoder_2"] {
            other_parameters += header(&dir.join(part))?.parameters();
        }
        let folder = dir.join("transformer");
        let layers = layers(&FluxTransformerConfig::read(&folder)?);
        let transformer = header(&folder)?;
        for (path, layer) in &layers.layers {
            transformer.check(&format!("{path}.weight"), &[layer.outputs, layer.inputs])?;
        }
        Ok(Self {
            layers,
            vae,
            transformer_parameters: transformer.parameters(),
            other_parameters,
        })
    }

    /// (height_tokens, width_tokens) of an image of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`ModelError::Value`] when a side is no positive multiple of the pixels of a token.
    pub fn latent_tokens(&self, height: usize, width: usize) -> Result<(usize, usize), ModelError> {
        latent_tokens(&self.vae, height, width)
    }
}

impl Inspection for FluxInspection {
    fn layers(&self) -> &AdaptableLayers {
        &self.layers
    }

    fn grid(&self, height: usize, width: usize) -> Result<Grid, ModelError> {
        let (height, width) = latent_tokens(&self.vae, height, width)?;
        Ok(Grid { height, width })
    }

    fn denoiser_parameters(&self) -> u64 {
        self.transformer_parameters
    }

    fn other_parameters(&self) -> u64 {
        self.other_parameters
    }
}

/// Opens the weights for their headers; the device and type are for reading, which nobody does.
fn header(dir: &Path) -> Result<Weights, LoadError> {
    Weights::open(dir, &Device::Cpu, DType::F32)
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
        let loaded = FluxTransformer::load(&tiny().join("transformer"), &Device::Cpu, DType::F32).unwrap();
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
}
