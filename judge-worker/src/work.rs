//! Judge units of a fleet.

use std::{collections::BTreeMap, time::Instant};

use gavel_core::{
    Diagnostic, RunAssets,
    ids::{Digest, RunId},
    spec::{JudgeSpec, ReasonsSpec, RunSpec},
    work::{Assignment, Outcome, Pair, Spent, Unit, VerdictRecord},
};
use gavel_judge::{Error, Explainer, Models, Templates, VerdictCache, fingerprint, judge_with};
use gavel_rubric::data::{Picture, ReadOptions};
use gavel_rubric::{AskError, Judge, JudgedPair, ReasonTemplate, RubricSet};
use gavel_worker::{Work, WorkContext, WorkError};
use image::RgbImage;

use crate::difference::difference;

/// [`Work`] of a judge: training pairs, held-out pairs and labelled pairs alike.
#[derive(Default)]
pub struct JudgeWork {
    models: Models,
    ready: Option<Ready>,
}

/// What a run's pairs are judged with.
struct Ready {
    model: Digest,
    judge: Box<dyn Judge>,
    rubric: RubricSet,
    /// Whether verdicts are kept by the coordinator.
    caches: bool,
    /// Which pairs are explained, and by whom.
    reasons: Option<(ReasonsSpec, Explainer)>,
    /// What the coordinator has been told of [`Ready::spent`].
    told: Spent,
}

impl Ready {
    fn judge(
        &self,
        context: &WorkContext,
        rubric: &RubricSet,
        pairs: &[JudgedPair<'_>],
    ) -> Result<Vec<VerdictRecord>, AskError> {
        match self.caches {
            true => judge_with(&CoordinatorCache(context), self.judge.as_ref(), rubric, pairs),
            false => self.judge.judge(rubric, pairs),
        }
    }

    /// What verdicts and reasons have used since the judge was opened.
    fn spent(&self) -> Spent {
        let mut spent = self.judge.spent();
        if let Some((_, explainer)) = &self.reasons {
            spent.add(&explainer.spent());
        }
        spent
    }

    /// What they have used since this was asked last; `None` for nothing.
    fn spent_anew(&mut self) -> Option<Spent> {
        let spent = self.spent();
        let anew = spent.since(&self.told);
        self.told = spent;
        (!anew.is_nothing()).then_some(anew)
    }

    /// Adds reasons to the verdicts on the pairs that are shown to people. Without an answer they are left out: no verdict
    /// waits for its reason.
    fn explain(
        &self,
        context: &WorkContext,
        pairs: &[Pair],
        judged: &[JudgedPair<'_>],
        verdicts: &mut [VerdictRecord],
    ) {
        let Some((spec, explainer)) = &self.reasons else { return };
        let places: Vec<usize> = (0..pairs.len()).filter(|place| spec.covers(&pairs[*place])).collect();
        let chosen: Vec<JudgedPair<'_>> = places.iter().map(|place| judged[*place]).collect();
        match explainer.explain(&self.rubric, &chosen, |rubric, pairs| {
            self.judge(context, rubric, pairs)
        }) {
            Ok(reasons) => {
                for (place, reasons) in places.into_iter().zip(reasons) {
                    verdicts[place].reasons = reasons;
                }
            }
            Err(error) => {
                let reason = Diagnostic::foreign(&error);
                tracing::warn!(%reason, pairs = chosen.len(), "verdicts without their reasons");
            }
        }
    }
}

/// The coordinator's store of verdicts.
struct CoordinatorCache<'a>(&'a WorkContext);

impl VerdictCache for CoordinatorCache<'_> {
    fn recall(&self, keys: &[Digest]) -> Vec<Option<VerdictRecord>> {
        self.0.recall_verdicts(keys)
    }

    fn keep(&self, verdicts: &[(Digest, VerdictRecord)]) {
        self.0.keep_verdicts(verdicts);
    }
}

impl Work for JudgeWork {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.ready = None;
        let templates = Templates::of_run(&spec.judge, assets).map_err(|error| WorkError::fatal(&error))?;
        let rubric = RubricSet::from_text(&assets.rubric.text)
            .ok_or_else(|| WorkError::Fatal("the run's rubric holds no criterion".into()))?;
        if rubric.digest() != assets.rubric.digest {
            let (found, expected) = (rubric.digest().short(), assets.rubric.digest.short());
            return Err(WorkError::Fatal(format!(
                "the run's rubric has fingerprint {found}, the run says {expected}"
            )));
        }
        let judge = self.models.open(&spec.judge, &templates).map_err(|error| match error {
            Error::Template(_) | Error::Model(_) | Error::Unfit { .. } => WorkError::fatal(&error),
            // Another machine may have the folder, the device or the key.
            _ => WorkError::retry(&error),
        })?;
        let reasons = self.explainer(&spec.judge, assets)?;
        tracing::info!(%run, judge = judge.name(), identity = %judge.identity().short(), "judge ready");
        let ready = self.ready.insert(Ready {
            model: fingerprint(&spec.judge).map_err(|error| WorkError::retry(&error))?,
            judge,
            rubric,
            caches: spec.judge.caches(),
            reasons,
            told: Spent::default(),
        });
        // A back end may have been in use before.
        ready.told = ready.spent();
        Ok(())
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let started = Instant::now();
        let Some(ready) = &mut self.ready else {
            return Err(WorkError::Retry(
                "this judge was given work before it was prepared".into(),
            ));
        };
        let Assignment::Judge { pairs } = assignment else {
            return Err(WorkError::Fatal("a judge was given a unit of another role".into()));
        };
        let images = decode(pairs, context)?;
        let sources: Vec<Vec<RgbImage>> = pairs
            .iter()
            .map(|pair| pair.task.sources.iter().map(|source| images[source].clone()).collect())
            .collect();
        let judged: Vec<JudgedPair<'_>> = pairs
            .iter()
            .zip(&sources)
            .map(|(pair, sources)| JudgedPair {
                prompt_index: pair.prompt_index,
                prompt: &pair.task.words,
                sources,
                first: &images[&pair.first],
                second: &images[&pair.second],
            })
            .collect();
        if context.cancelled() {
            return Err(WorkError::Cancelled);
        }
        let verdicts = ready.judge(context, &ready.rubric, &judged);
        let mut verdicts = verdicts.map_err(|error| unanswered(&error))?;
        // A verdict that is kept for every run speaks of the pictures; how far apart they are is looked at anew.
        for (record, pair) in verdicts.iter_mut().zip(&judged) {
            record.difference = difference(pair.first, pair.second);
        }
        // Labelled pairs measure the judge and are shown to nobody.
        if !matches!(unit, Unit::CalibrateJudge { .. }) {
            ready.explain(context, pairs, &judged, &mut verdicts);
        }
        Ok(Outcome::Judged {
            verdicts,
            model: ready.model,
            spent: ready.spent_anew(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

impl JudgeWork {
    fn explainer(
        &mut self,
        spec: &JudgeSpec,
        assets: &RunAssets,
    ) -> Result<Option<(ReasonsSpec, Explainer)>, WorkError> {
        let (Some(reasons), Some(text)) = (&spec.reasons, &assets.reason_template) else {
            return Ok(None);
        };
        let template = ReasonTemplate::parse(text, &reasons.template).map_err(|error| WorkError::fatal(&error))?;
        let explainer = self.models.open_explainer(spec, template, reasons.max_tokens);
        let explainer = explainer.map_err(|error| WorkError::retry(&error))?;
        Ok(Some((reasons.clone(), explainer)))
    }
}

/// What the coordinator is told of a question without an answer. A server's words stay in this worker's log: the server may be
/// one that those who look at a run must not read.
fn unanswered(error: &AskError) -> WorkError {
    tracing::warn!(reason = %Diagnostic::foreign(error), "pairs that cannot be judged now");
    let told = error.for_everybody().in_full();
    match error {
        AskError::Unavailable { .. } => WorkError::Unavailable(told),
        AskError::Unanswerable { .. } => WorkError::Retry(told),
    }
}

/// Every picture that the judge is shown of the pairs, once.
fn decode(pairs: &[Pair], context: &WorkContext) -> Result<BTreeMap<Digest, RgbImage>, WorkError> {
    let candidates = pairs.iter().flat_map(|pair| [pair.first, pair.second]);
    let sources = pairs.iter().flat_map(|pair| pair.task.sources.iter().copied());
    let mut digests: Vec<Digest> = candidates.chain(sources).collect();
    digests.sort();
    digests.dedup();
    let mut images = BTreeMap::new();
    for (digest, blob) in digests.iter().zip(context.get_many(&digests)?) {
        let image = Picture::decode(&blob, &ReadOptions::local()).map_err(|fault| {
            WorkError::misleading(*digest, format!("image blob {digest} cannot be decoded: it {fault}"))
        })?;
        images.insert(*digest, image);
    }
    Ok(images)
}
