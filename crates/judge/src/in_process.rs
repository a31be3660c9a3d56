//! Judges whose model is in this process.

use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_core::spec::{HostedModel, InProcessFamily, InProcessSpec};
use gavel_models::load::{fingerprint, read_config};
use gavel_models::vlm::Vlm;
use gavel_rubric::{Chat, Judge};
use serde::Deserialize;

use crate::open::{BackEnd, Models, OpenOptions};
use crate::{Error, VlmJudge, VlmWriter, WeighingJudge};

impl BackEnd for InProcessSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        Ok(fingerprint(&self.path)?)
    }

    fn judge(&self, options: &OpenOptions<'_>, models: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let (fingerprint, model) = load(self, models)?;
        let name = self.path.display().to_string();
        let template = options.template.clone();
        let judge = VlmJudge::new(name, fingerprint, model, template, options.margin)?;
        Ok(Box::new(WeighingJudge::new(Box::new(judge), options.margin)))
    }

    fn chat(&self, models: &mut Models) -> Result<Box<dyn Chat>, Error> {
        let (fingerprint, model) = load(self, models)?;
        Ok(Box::new(VlmWriter::new(
            self.path.display().to_string(),
            fingerprint,
            model,
        )))
    }
}

fn load(spec: &InProcessSpec, models: &mut Models) -> Result<(Digest, Arc<Vlm>), Error> {
    let wanted = HostedModel {
        path: &spec.path,
        device: spec.device,
        dtype: spec.dtype,
    };
    models.loaded.get(wanted, |placement| {
        check_architecture(spec)?;
        Ok(Vlm::load(&spec.path, placement)?)
    })
}

/// Compares `model_type` with the family. A folder whose settings cannot be read is reported by whoever loads it.
fn check_architecture(spec: &InProcessSpec) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Named {
        model_type: String,
    }
    let Ok(Named { model_type }) = read_config(&spec.path.join("config.json")) else {
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
