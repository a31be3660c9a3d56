//! Judge units of a fleet.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use gavel_core::{
    RunAssets,
    ids::{Digest, RunId},
    spec::{Device, Dtype, JudgeSpec, RunSpec},
    unit::{Assignment, Outcome, Pair, Unit},
};
use gavel_judge::VlmJudge;
use gavel_models::{
    load::{device, dtype, fingerprint},
    vlm::Vlm,
};
use gavel_rubric::{Judge, JudgeTemplate, JudgedPair, RubricSet};
use gavel_worker::{Work, WorkContext, WorkError};
use image::RgbImage;

/// [`Work`] of a judge: training pairs, held-out pairs and labelled pairs alike.
#[derive(Default)]
pub struct JudgeWork {
    model: Option<Loaded>,
    ready: Option<Ready>,
}

/// What a run's pairs are judged with.
struct Ready {
    model: Digest,
    judge: VlmJudge,
    rubric: RubricSet,
}

/// A model with what it was loaded from.
struct Loaded {
    path: std::path::PathBuf,
    device: Device,
    dtype: Dtype,
    fingerprint: Digest,
    model: Arc<Vlm>,
}

impl Work for JudgeWork {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.ready = None;
        let (fingerprint, model) = self.model(run, &spec.judge)?;
        let template =
            JudgeTemplate::parse(&assets.template, &spec.judge.template).map_err(|error| WorkError::fatal(&error))?;
        let rubric = RubricSet::from_text(&assets.rubric.text)
            .ok_or_else(|| WorkError::Fatal("the run's rubric holds no criterion".into()))?;
        if rubric.digest() != assets.rubric.digest {
            let (found, expected) = (rubric.digest().short(), assets.rubric.digest.short());
            return Err(WorkError::Fatal(format!(
                "the run's rubric has fingerprint {found}, the run says {expected}"
            )));
        }
        let name = spec.judge.path.display().to_string();
        let judge = VlmJudge::new(name, fingerprint, model, template, spec.judge.margin)
            .map_err(|error| WorkError::fatal(&error))?;
        self.ready = Some(Ready {
            model: fingerprint,
            judge,
            rubric,
        });
        Ok(())
    }

    fn perform(&mut self, _: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let started = Instant::now();
        let Some(ready) = &self.ready else {
            return Err(WorkError::Retry(
                "this judge was given work before it was prepared".into(),
            ));
        };
        let Assignment::Judge { pairs } = assignment else {
            return Err(WorkError::Fatal("a judge was given a unit of another role".into()));
        };
        let images = decode(pairs, context)?;
        let judged: Vec<JudgedPair<'_>> = pairs
            .iter()
            .map(|pair| JudgedPair {
                prompt: pair.prompt,
                caption: &pair.text,
                base: None,
                first: &images[&pair.first],
                second: &images[&pair.second],
            })
            .collect();
        if context.cancelled() {
            return Err(WorkError::Cancelled);
        }
        let verdicts = ready
            .judge
            .judge(&ready.rubric, &judged)
            .map_err(|error| WorkError::retry(&error))?;
        Ok(Outcome::Judged {
            verdicts,
            model: ready.model,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

impl JudgeWork {
    fn model(&mut self, run: &RunId, spec: &JudgeSpec) -> Result<(Digest, Arc<Vlm>), WorkError> {
        if let Some(loaded) = &self.model
            && (&loaded.path, loaded.device, loaded.dtype) == (&spec.path, spec.device, spec.dtype)
        {
            return Ok((loaded.fingerprint, loaded.model.clone()));
        }
        // Frees the old model first: two may not fit.
        self.model = None;
        let device =
            device(spec.device).map_err(|error| WorkError::Retry(format!("device {}: {error}", spec.device)))?;
        let model = Vlm::load(&spec.path, &device, dtype(spec.dtype)).map_err(|error| WorkError::retry(&error))?;
        let model = Arc::new(model);
        let fingerprint = fingerprint(&spec.path).map_err(|error| WorkError::retry(&error))?;
        tracing::info!(%run, model = %spec.path.display(), fingerprint = %fingerprint.short(), "judge loaded");
        self.model = Some(Loaded {
            path: spec.path.clone(),
            device: spec.device,
            dtype: spec.dtype,
            fingerprint,
            model: model.clone(),
        });
        Ok((fingerprint, model))
    }
}

/// Every image of the pairs, once.
fn decode(pairs: &[Pair], context: &WorkContext) -> Result<BTreeMap<Digest, RgbImage>, WorkError> {
    let mut digests: Vec<Digest> = pairs.iter().flat_map(|pair| [pair.first, pair.second]).collect();
    digests.sort();
    digests.dedup();
    let mut images = BTreeMap::new();
    for (digest, blob) in digests.iter().zip(context.get_many(&digests)?) {
        let image = image::load_from_memory(&blob).map_err(|error| {
            WorkError::misleading(*digest, format!("image blob {digest} cannot be decoded: {error}"))
        })?;
        images.insert(*digest, image.to_rgb8());
    }
    Ok(images)
}
