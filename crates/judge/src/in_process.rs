//! Judges whose model is in this process.

use std::path::PathBuf;
use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_core::spec::{Device, Dtype, InProcessFamily, InProcessSpec};
use gavel_models::load;
use gavel_models::load::Placement;
use gavel_models::vlm::Vlm;
use gavel_rubric::{Chat, Judge};
use serde::Deserialize;

use crate::open::{BackEnd, Models, OpenOptions};
use crate::{Error, VlmJudge, VlmWriter, WeighingJudge};

/// The models in memory.
#[derive(Default)]
pub(crate) struct LoadedModels(Vec<Loaded>);

/// A model with what it was loaded from.
struct Loaded {
    source: Source,
    fingerprint: Digest,
    model: Arc<Vlm>,
}

/// What a model is loaded from; equal sources give the same model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    path: PathBuf,
    device: Device,
    dtype: Dtype,
}

impl Source {
    fn of(spec: &InProcessSpec) -> Self {
        Self {
            path: spec.path.clone(),
            device: spec.device,
            dtype: spec.dtype,
        }
    }
}

impl LoadedModels {
    /// Frees every model but those of `wanted`.
    pub(crate) fn retain<'a>(&mut self, wanted: impl Iterator<Item = &'a InProcessSpec>) {
        let wanted: Vec<Source> = wanted.map(Source::of).collect();
        self.0.retain(|loaded| wanted.contains(&loaded.source));
    }

    fn get(&mut self, spec: &InProcessSpec) -> Result<(Digest, Arc<Vlm>), Error> {
        let source = Source::of(spec);
        if let Some(loaded) = self.0.iter().find(|loaded| loaded.source == source) {
            return Ok((loaded.fingerprint, Arc::clone(&loaded.model)));
        }
        check_architecture(spec)?;
        let placement = Placement::open(spec.device, spec.dtype).map_err(|source| Error::Device {
            device: spec.device.to_string(),
            source,
        })?;
        let model = Arc::new(Vlm::load(&spec.path, &placement)?);
        let fingerprint = load::fingerprint(&spec.path)?;
        tracing::debug!(model = %spec.path.display(), fingerprint = %fingerprint.short(), "judge loaded");
        self.0.push(Loaded {
            source,
            fingerprint,
            model: Arc::clone(&model),
        });
        Ok((fingerprint, model))
    }
}

impl BackEnd for InProcessSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        Ok(load::fingerprint(&self.path)?)
    }

    fn judge(&self, options: &OpenOptions<'_>, models: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let (fingerprint, model) = models.loaded.get(self)?;
        let name = self.path.display().to_string();
        let template = options.template.clone();
        let judge = VlmJudge::new(name, fingerprint, model, template, options.margin)?;
        Ok(Box::new(WeighingJudge::new(Box::new(judge), options.margin)))
    }

    fn chat(&self, models: &mut Models) -> Result<Box<dyn Chat>, Error> {
        let (fingerprint, model) = models.loaded.get(self)?;
        Ok(Box::new(VlmWriter::new(
            self.path.display().to_string(),
            fingerprint,
            model,
        )))
    }
}

/// Compares `model_type` with the family. A folder whose settings cannot be read is reported by whoever loads it.
fn check_architecture(spec: &InProcessSpec) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Named {
        model_type: String,
    }
    let Ok(Named { model_type }) = load::read_config(&spec.path.join("config.json")) else {
        return Ok(());
    };
    let expected = match spec.family {
        InProcessFamily::Auto => return Ok(()),
        InProcessFamily::Qwen2_5Vl => "qwen2_5_vl",
        InProcessFamily::Qwen3Vl => "qwen3_vl",
    };
    if model_type == expected {
        return Ok(());
    }
    Err(Error::Architecture {
        dir: spec.path.clone(),
        found: model_type,
        expected,
    })
}
