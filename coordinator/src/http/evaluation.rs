//! The held-out prompts of a run: what base, probes and tuned policy painted from the same noise, and what the judge says of it.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::run::Run;
use gavel_core::work::VerdictRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::ask::{Asked, Named};
use super::rubrics::rubrics;
use super::{Parts, Problem};
use crate::gallery::RubricShown;

/// Prompts on a page, unless the caller says otherwise, and at most.
const TASKS: usize = 24;
const TASKS_MAX: usize = 200;

/// Which held-out prompts are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EvaluationQuery {
    /// Only prompts after the one with this index.
    after: Option<usize>,
    /// At most so many (24, and no more than 200).
    limit: Option<usize>,
}

/// A page of the held-out prompts.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct EvaluationPage {
    run: RunId,
    /// How many held-out prompts there are.
    prompts: usize,
    tasks: Vec<HeldOut>,
    /// The rubrics that the verdicts name, by SHA-256. One that is not kept is left out.
    rubrics: BTreeMap<Digest, RubricShown>,
    /// What to ask for with `after` to go on; null at the end.
    next: Option<usize>,
}

/// One held-out prompt.
#[derive(Debug, Serialize, JsonSchema)]
struct HeldOut {
    /// Its index, counted from 0.
    index: usize,
    prompt: String,
    /// PNG blobs of the pictures that are edited; empty for text-to-image.
    sources: Vec<Digest>,
    /// The base's picture, once it is painted.
    base: Option<Digest>,
    /// The final adapter's picture, once it is painted.
    tuned: Option<Digest>,
    /// The judge's word on both: first is the base, second the final adapter.
    verdict: Option<VerdictRecord>,
    /// What was measured of policies on the way, in the order of their steps.
    probes: Vec<Probed>,
}

/// A probe's picture of a held-out prompt.
#[derive(Debug, Serialize, JsonSchema)]
struct Probed {
    step: Step,
    image: Option<Digest>,
    /// The judge's word: first is the base, second the policy of the step.
    verdict: Option<VerdictRecord>,
}

/// `GET /api/v1/runs/{run}/evaluation`.
pub(super) async fn evaluation(
    State(parts): State<Parts>,
    Named(run): Named,
    Asked(query): Asked<EvaluationQuery>,
) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let from = query.after.map_or(0, |after| after.saturating_add(1));
    let limit = query.limit.unwrap_or(TASKS).min(TASKS_MAX);
    let look = move |run: &Run| EvaluationPage::of(run, from, limit);
    answer(&rooms, async move {
        let run = RunId(run);
        let mut page = parts.driver.inspect(&run, look).await?;
        let verdicts = page.tasks.iter().flat_map(HeldOut::verdicts);
        page.rubrics = rubrics(&parts, &run, verdicts.map(|record| record.rubric)).await?;
        Ok::<_, Problem>(page)
    })
    .await
}

impl EvaluationPage {
    fn of(run: &Run, from: usize, limit: usize) -> Self {
        let prompts = run.results().base_images.len();
        let to = from.saturating_add(limit).min(prompts);
        Self {
            run: run.id().clone(),
            prompts,
            tasks: (from..to).filter_map(|index| HeldOut::of(run, index)).collect(),
            rubrics: BTreeMap::new(),
            next: (from < to && to < prompts).then(|| to - 1),
        }
    }
}

impl HeldOut {
    fn verdicts(&self) -> impl Iterator<Item = &VerdictRecord> {
        let probes = self.probes.iter().flat_map(|probe| &probe.verdict);
        self.verdict.iter().chain(probes)
    }

    fn of(run: &Run, index: usize) -> Option<Self> {
        let task = run.assets().held_out.get(index)?;
        let results = run.results();
        let at = |images: &[Option<Digest>]| images.get(index).copied().flatten();
        let said = |verdicts: &[Option<VerdictRecord>]| verdicts.get(index).cloned().flatten();
        let probes = results.probes.iter().filter(|probe| index < probe.images.len());
        Some(Self {
            index,
            prompt: task.words.clone(),
            sources: task.sources.clone(),
            base: at(&results.base_images),
            tuned: at(&results.tuned_images),
            verdict: said(&results.comparisons),
            probes: probes
                .map(|probe| Probed {
                    step: probe.step,
                    image: at(&probe.images),
                    verdict: said(&probe.comparisons),
                })
                .collect(),
        })
    }
}
