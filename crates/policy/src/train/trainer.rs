//! The loaded denoiser.

use std::path::Path;
use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_models::{
    Family, LoadError,
    denoiser::Denoiser,
    load::{Placement, fingerprint},
    lora::{LoraAdapter, LoraConfig},
};

use super::Error;
use crate::Sampler;

/// A frozen denoiser whose adapters are trained. Nothing else of its pipeline is loaded: what it is
/// conditioned on is recorded with the trajectories.
pub struct Trainer {
    pub(super) denoiser: Arc<dyn Denoiser>,
    model: Digest,
}

impl Trainer {
    /// Loads the denoiser of a family's pipeline folder.
    ///
    /// # Errors
    /// [`LoadError`] for anything wrong with the folder.
    pub fn load(family: Family, dir: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let denoiser = family.load_denoiser(dir, placement)?;
        Ok(Self::new(denoiser.into(), fingerprint(&family.denoiser_dir(dir))?))
    }

    /// A trainer of a sampler's denoiser: both compute with one set of weights.
    pub fn beside(sampler: &Sampler) -> Self {
        Self::new(sampler.pipeline().shared_denoiser(), sampler.model())
    }

    /// A trainer of a loaded denoiser whose folder has this fingerprint.
    pub fn new(denoiser: Arc<dyn Denoiser>, model: Digest) -> Self {
        Self { denoiser, model }
    }

    /// The denoiser; adapters bind to its layers.
    pub fn denoiser(&self) -> &dyn Denoiser {
        self.denoiser.as_ref()
    }

    /// Fingerprint of the denoiser's folder; trajectories of another are refused.
    pub fn model(&self) -> Digest {
        self.model
    }

    /// Reads an adapter's PEFT file.
    ///
    /// # Errors
    /// [`Error::Lora`] when it does not fit the settings or the denoiser.
    pub fn adapter(&self, bytes: &[u8], config: &LoraConfig) -> Result<LoraAdapter, Error> {
        Ok(LoraAdapter::from_safetensors(bytes, config, self.denoiser.layers())?)
    }
}
