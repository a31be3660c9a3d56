//! The loaded transformer.

use std::path::Path;

use candle_core::{DType, Device};
use gavel_core::ids::Digest;
use gavel_models::{
    LoadError,
    flux::transformer::FluxTransformer,
    load::fingerprint,
    lora::{LoraAdapter, LoraConfig},
};

use crate::Error;

/// A frozen transformer whose adapters are trained. The text encoders and the VAE are not loaded: trajectories carry the
/// prompts' embeddings.
pub struct Trainer {
    pub(crate) transformer: FluxTransformer,
    pub(crate) device: Device,
    model: Digest,
}

impl Trainer {
    /// Loads `transformer/` of a diffusers FLUX folder.
    ///
    /// # Errors
    /// [`LoadError`] for anything wrong with the folder.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self, LoadError> {
        let folder = dir.join("transformer");
        Ok(Self {
            transformer: FluxTransformer::load(&folder, device, dtype)?,
            device: device.clone(),
            model: fingerprint(&folder)?,
        })
    }

    /// The transformer; adapters bind to it.
    pub fn transformer(&self) -> &FluxTransformer {
        &self.transformer
    }

    /// Fingerprint of the transformer's folder; trajectories of another are refused.
    pub fn model(&self) -> Digest {
        self.model
    }

    /// Reads an adapter's PEFT file.
    ///
    /// # Errors
    /// [`Error::Lora`] when it does not fit the settings or the transformer.
    pub fn adapter(&self, bytes: &[u8], config: &LoraConfig) -> Result<LoraAdapter, Error> {
        Ok(LoraAdapter::from_safetensors(bytes, config, &self.transformer)?)
    }
}
