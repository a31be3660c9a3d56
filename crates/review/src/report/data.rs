//! `report.json`.

use std::collections::BTreeMap;

use gavel_core::ids::{Digest, Millis, Step};
use gavel_core::measure::{JudgeMeasure, WinRate};
use gavel_core::run::{Run, StepRecord};
use gavel_core::work::AskedMatches;
use gavel_eval::{Adherence, Evaluator, Facts};
use serde::Serialize;

use super::axes::Axes;
use super::pictures::{Comparison, Picture, Pictures};
use super::probes::{ProbedStep, Probes};
use crate::Machine;

/// The whole report (docs/formats.md).
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) run: String,
    pub(super) seed: u64,
    /// `None` without an evaluator.
    pub(super) evaluation: Option<Evaluation>,
    /// Tuned over base as the judge sees it; `None` without held-out prompts.
    pub(super) win_rate: Option<WinRate>,
    /// The judge on labelled pairs; `None` without such pairs.
    pub(super) judge: Option<JudgeMeasure>,
    /// How the matches of all steps were asked; left out where each was asked in both image orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asked: Option<AskedMatches>,
    pub(super) steps: Vec<StepRecord>,
    /// What was measured on the way, in the order of the steps; left out without `evaluation.every`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) probes: Vec<ProbedStep>,
    /// The evaluator's score of the base on the prompts of a probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) probes_base: Option<f64>,
    /// The best of the probed steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) best: Option<Step>,
    pub(super) pairs_skipped: u32,
    pub(super) seconds_total: f64,
    pub(super) adapter_sha256: Digest,
    pub(super) spec_sha256: Digest,
    /// Of the judge's rubric for prompts without one of their own.
    pub(super) rubric_sha256: Digest,
    /// How many prompts are judged by a rubric of their own; left out where none is.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) rubrics_of_prompts: usize,
    pub(super) versions: Versions,
    pub(super) machine: Machine,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The independent metric on held-out prompts, each painted from the same noise by base and tuned policy. Of edits, all but `axes` is
/// about fulfilment.
#[derive(Debug, Serialize)]
pub(super) struct Evaluation {
    pub(super) metric: &'static str,
    pub(super) prompts: usize,
    /// Mean share of a prompt's facts that hold, base.
    pub(super) before: f64,
    /// The same, tuned.
    pub(super) after: f64,
    /// Share of the prompts with every fact holding, base.
    pub(super) all_before: f64,
    /// The same, tuned.
    pub(super) all_after: f64,
    /// Share of the pictures in which each fact holds, of those that it belongs to.
    pub(super) facts: BTreeMap<String, BeforeAfter>,
    /// Both halves of edits; left out where nothing is edited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) axes: Option<Axes>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct BeforeAfter {
    pub(super) before: f64,
    pub(super) after: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Versions {
    pub(super) gavel: &'static str,
}

impl Report {
    /// Puts the report together.
    pub(super) fn new(
        run: &Run,
        adapter_sha256: Digest,
        evaluator: Option<&dyn Evaluator>,
        pictures: &Pictures,
        probes: &Probes,
    ) -> Self {
        // The moment matters only for what a run waits for, which a report does not tell.
        let status = run.status(Millis(0));
        Self {
            run: run.id().0.clone(),
            seed: run.spec().run.seed,
            evaluation: evaluator.and_then(|evaluator| Evaluation::new(evaluator.name(), pictures)),
            win_rate: status.evaluation.and_then(|evaluation| evaluation.win_rate),
            judge: status.judge,
            asked: status.asked,
            seconds_total: status.steps.iter().fold(0.0, |total, step| total + step.seconds.wall),
            steps: status.steps,
            probes: probes.steps.clone(),
            probes_base: probes.base_score,
            best: status.best,
            pairs_skipped: status.pairs_skipped,
            adapter_sha256,
            spec_sha256: run.spec_sha256(),
            rubric_sha256: run.assets().rubric.digest,
            rubrics_of_prompts: run.own_rubrics(),
            versions: Versions {
                gavel: env!("CARGO_PKG_VERSION"),
            },
            machine: Machine::this(),
        }
    }
}

impl Evaluation {
    pub(super) fn new(metric: &'static str, pictures: &Pictures) -> Option<Self> {
        let before = answered(pictures, |comparison| &comparison.base);
        let after = answered(pictures, |comparison| &comparison.tuned);
        let (first, second) = (Adherence::of(before)?, Adherence::of(after)?);
        let shares_before = fact_shares(pictures, |comparison| &comparison.base);
        let mut facts: BTreeMap<String, BeforeAfter> = shares_before
            .into_iter()
            .map(|(name, before)| (name, BeforeAfter { before, after: 0.0 }))
            .collect();
        for (name, after) in fact_shares(pictures, |comparison| &comparison.tuned) {
            facts.entry(name).or_default().after = after;
        }
        Some(Self {
            metric,
            prompts: first.prompts,
            before: first.mean,
            after: second.mean,
            all_before: first.all,
            all_after: second.all,
            facts,
            axes: Axes::new(pictures),
        })
    }
}

/// The facts of those of the pictures that an evaluator answered for.
fn answered<'a>(
    pictures: &'a Pictures,
    which: impl Fn(&'a Comparison) -> &'a Picture,
) -> impl Iterator<Item = &'a Facts> {
    let facts = move |comparison| which(comparison).answer.as_ref().map(|answer| &answer.facts);
    pictures.0.iter().filter_map(facts)
}

fn fact_shares<'a>(pictures: &'a Pictures, which: impl Fn(&'a Comparison) -> &'a Picture) -> BTreeMap<String, f64> {
    let mut counts: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for facts in answered(pictures, which) {
        for fact in facts.iter() {
            let (holding, all) = counts.entry(fact.name.clone()).or_default();
            *holding += u32::from(fact.holds);
            *all += 1;
        }
    }
    counts
        .into_iter()
        .map(|(name, (holding, all))| (name, f64::from(holding) / f64::from(all)))
        .collect()
}
