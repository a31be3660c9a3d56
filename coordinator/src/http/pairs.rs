//! The latest judged pairs, or larger groups, for the gallery.

use gavel_core::Annotation;
use gavel_core::ids::{Digest, PromptIndex, Step};
use gavel_core::run::{GroupResult, Run};
use gavel_core::work::VerdictRecord;
use serde::Serialize;

/// A judged pair, or larger group, with its pictures.
#[derive(Debug, Serialize)]
pub(super) struct JudgedPair {
    step: Step,
    /// The prompt's index in the step.
    index: usize,
    prompt: String,
    /// PNG blobs of the pictures that were edited; none for text-to-image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<Digest>,
    /// What the task's file says besides.
    #[serde(flatten)]
    given: Annotation,
    /// PNG blobs of the candidates.
    images: Vec<Digest>,
    /// On each match: of the first against the second, against the third, and so on.
    verdicts: Vec<VerdictRecord>,
    /// The candidates' ranks, 1 being the best; absent where the judge does not set them apart.
    ranks: Option<Vec<u32>>,
    /// Why the group gave no gradient although it was decided.
    skipped: Option<String>,
}

/// The `limit` latest judged pairs, the newest step first.
pub(super) fn latest(run: &Run, limit: usize) -> Vec<JudgedPair> {
    let in_flight = run.in_flight().map(|flight| (flight.step, flight.groups.as_slice()));
    let mut in_flight: Vec<_> = in_flight.collect();
    in_flight.reverse();
    let committed = run
        .results()
        .steps
        .iter()
        .rev()
        .map(|step| (step.record.step, step.groups.as_slice()));
    in_flight
        .into_iter()
        .chain(committed)
        .flat_map(|(step, groups)| {
            groups
                .iter()
                .enumerate()
                .map(move |(index, group)| (step, index, group))
        })
        .filter_map(|(step, index, group)| view(run, step, index, group))
        .take(limit)
        .collect()
}

fn view(run: &Run, step: Step, index: usize, group: &GroupResult) -> Option<JudgedPair> {
    if !group.is_judged() {
        return None;
    }
    let task = run.assets().prompts.get(group.line as usize)?;
    let given = run.assets().annotations.prompts.get(&PromptIndex(group.line));
    Some(JudgedPair {
        step,
        index,
        prompt: task.words.clone(),
        sources: task.sources.clone(),
        given: given.cloned().unwrap_or_default(),
        images: group.candidates.iter().map(|candidate| candidate.image).collect(),
        verdicts: group.verdicts.clone(),
        ranks: group.ranks(),
        skipped: group.skipped.clone(),
    })
}
