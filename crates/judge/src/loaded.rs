//! Models in the judge worker's memory, each once.

use std::path::PathBuf;
use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_core::spec::{Device, Dtype, HostedModel};
use gavel_models::load::{Placement, fingerprint};

use crate::Error;

/// The models of one architecture that are in memory.
pub(crate) struct LoadedModels<Model>(Vec<Loaded<Model>>);

/// A model with what it was loaded from.
struct Loaded<Model> {
    source: Source,
    fingerprint: Digest,
    model: Arc<Model>,
}

/// What a model is loaded from; equal sources give the same model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    path: PathBuf,
    device: Device,
    dtype: Dtype,
}

impl Source {
    fn of(model: HostedModel<'_>) -> Self {
        Self {
            path: model.path.to_owned(),
            device: model.device,
            dtype: model.dtype,
        }
    }
}

impl<Model> Default for LoadedModels<Model> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<Model> LoadedModels<Model> {
    /// Frees every model but those of `wanted`.
    pub(crate) fn retain<'a>(&mut self, wanted: impl Iterator<Item = HostedModel<'a>>) {
        let wanted: Vec<Source> = wanted.map(Source::of).collect();
        self.0.retain(|loaded| wanted.contains(&loaded.source));
    }

    /// How many are in memory.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The model that is there, or the one that `load` makes, with the fingerprint of its folder.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Load`], and what `load` says.
    pub(crate) fn get(
        &mut self,
        wanted: HostedModel<'_>,
        load: impl FnOnce(&Placement) -> Result<Model, Error>,
    ) -> Result<(Digest, Arc<Model>), Error> {
        let source = Source::of(wanted);
        if let Some(loaded) = self.0.iter().find(|loaded| loaded.source == source) {
            return Ok((loaded.fingerprint, Arc::clone(&loaded.model)));
        }
        let placement = Placement::open(wanted.device, wanted.dtype).map_err(|source| Error::Device {
            device: wanted.device.to_string(),
            source,
        })?;
        let model = Arc::new(load(&placement)?);
        let fingerprint = fingerprint(wanted.path)?;
        tracing::debug!(model = %wanted.path.display(), fingerprint = %fingerprint.short(), "model loaded");
        self.0.push(Loaded {
            source,
            fingerprint,
            model: Arc::clone(&model),
        });
        Ok((fingerprint, model))
    }
}
