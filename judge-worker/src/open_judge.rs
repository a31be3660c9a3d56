//! A judge with what its run asks it by.

use std::collections::{BTreeMap, BTreeSet};

use gavel_core::bounds;
use gavel_core::ids::Digest;
use gavel_core::spec::JudgeSpec;
use gavel_core::work::{Pair, Spent, VerdictRecord};
use gavel_core::{HeldOutJudgeAssets, RubricText, RunAssets};
use gavel_judge::{Error, Models, Templates, VerdictCache, fingerprint, judge_with};
use gavel_rubric::{AskError, Judge, JudgedPair, RubricSet};
use gavel_worker::{WorkContext, WorkError};

/// An open judge and its general rubric.
pub(crate) struct OpenJudge {
    /// The fingerprint of its model.
    pub(crate) model: Digest,
    /// What decides about prompts without a rubric of their own.
    pub(crate) rubric: RubricSet,
    judge: Box<dyn Judge>,
    /// Whether verdicts are kept by the coordinator.
    caches: bool,
}

impl OpenJudge {
    /// Opens the judge whose verdicts a run rewards. Models of other runs are freed.
    ///
    /// # Errors
    /// Texts that no judge can be asked with are fatal; another machine may have what this one lacks.
    pub(crate) fn open(spec: &JudgeSpec, assets: &RunAssets, models: &mut Models) -> Result<Self, WorkError> {
        let templates = Templates::of_run(spec, assets).map_err(|error| WorkError::fatal(&error))?;
        let rubric = rubric("rubric", &assets.rubric)?;
        Self::new(spec, rubric, models.open(spec, &templates))
    }

    /// Opens a run's held-out judge beside the other one; `spec` is its own.
    ///
    /// # Errors
    /// As [`OpenJudge::open`].
    pub(crate) fn open_held_out(
        spec: &JudgeSpec,
        assets: &HeldOutJudgeAssets,
        models: &mut Models,
    ) -> Result<Self, WorkError> {
        let templates = Templates::of_held_out_judge(spec, assets).map_err(|error| WorkError::fatal(&error))?;
        let rubric = rubric("held-out judge's rubric", &assets.rubric)?;
        Self::new(spec, rubric, models.open_beside(spec, &templates))
    }

    fn new(spec: &JudgeSpec, rubric: RubricSet, judge: Result<Box<dyn Judge>, Error>) -> Result<Self, WorkError> {
        let judge = judge.map_err(|error| match error {
            Error::Template(_) | Error::Model(_) | Error::Unfit { .. } => WorkError::fatal(&error),
            // Another machine may have the folder, the device or the key.
            _ => WorkError::retry(&error),
        })?;
        tracing::info!(judge = judge.name(), identity = %judge.identity().short(), "judge ready");
        Ok(Self {
            model: fingerprint(spec).map_err(|error| WorkError::retry(&error))?,
            rubric,
            judge,
            caches: spec.caches(),
        })
    }

    /// Whether it is shown all pictures of a prompt at once.
    pub(crate) fn sees_lists(&self) -> bool {
        self.judge.sees_lists()
    }

    /// Judges pairs, each by its rubric, which need not be the whole of the prompt's.
    ///
    /// # Errors
    /// The judge gives no answer.
    pub(crate) fn judge(
        &self,
        context: &WorkContext,
        pairs: &[JudgedPair<'_>],
    ) -> Result<Vec<VerdictRecord>, AskError> {
        match self.caches {
            true => judge_with(&CoordinatorCache(context), self.judge.as_ref(), pairs),
            false => self.judge.judge(pairs),
        }
    }

    /// The judge itself, whose verdicts nobody keeps.
    pub(crate) fn unkept(&self) -> &dyn Judge {
        self.judge.as_ref()
    }

    /// What it has used since it was opened.
    pub(crate) fn spent(&self) -> Spent {
        self.judge.spent()
    }
}

/// Reads a rubric that a run carries; `what` it is called.
fn rubric(what: &str, text: &RubricText) -> Result<RubricSet, WorkError> {
    let rubric = RubricSet::from_text(&text.text)
        .ok_or_else(|| WorkError::Fatal(format!("the run's {what} holds no criterion")))?;
    if rubric.digest() != text.digest {
        let (found, expected) = (rubric.digest().short(), text.digest.short());
        return Err(WorkError::Fatal(format!(
            "the run's {what} has fingerprint {found}, the run says {expected}"
        )));
    }
    Ok(rubric)
}

/// The rubrics of single prompts that these pairs are judged by.
///
/// # Errors
/// A text cannot be had, or is no rubric.
pub(crate) fn prompt_rubrics(context: &WorkContext, pairs: &[Pair]) -> Result<BTreeMap<Digest, RubricSet>, WorkError> {
    let named: BTreeSet<Digest> = pairs.iter().filter_map(|pair| pair.rubric).collect();
    let named: Vec<Digest> = named.into_iter().collect();
    let mut rubrics = BTreeMap::new();
    for (digest, blob) in named.iter().zip(context.get_many(&named)?) {
        let text = Some(blob).filter(|blob| bounds::DOCUMENT.admits(blob.len() as u64));
        let rubric = text.and_then(|text| RubricSet::from_text(std::str::from_utf8(&text).ok()?));
        let rubric = rubric.filter(|rubric| rubric.digest() == *digest);
        let rubric = rubric.ok_or_else(|| WorkError::misleading(*digest, format!("blob {digest} is no rubric")))?;
        rubrics.insert(*digest, rubric);
    }
    Ok(rubrics)
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
