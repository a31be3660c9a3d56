//! The latest judged pairs, or larger groups, for the gallery.

use gavel_core::Annotation;
use gavel_core::ids::{Digest, PromptIndex, RunId, Step};
use gavel_core::run::{GroupResult, Run, StepResult};
use gavel_core::work::VerdictRecord;
use serde::Serialize;

use crate::driver::{DriverError, DriverHandle};

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

/// Steps that are read from the ledger at a time, once those that the run has are through.
const STEPS_AT_ONCE: u32 = 8;

/// The `limit` latest judged pairs, the newest step first.
///
/// # Errors
/// [`DriverError::UnknownRun`]; the ledger does not answer.
pub(super) async fn latest(driver: &DriverHandle, run: &RunId, limit: usize) -> Result<Vec<JudgedPair>, DriverError> {
    let look = move |run: &Run| (present(run, limit), run.details_from());
    let (mut pairs, mut before) = driver.inspect(run, look).await?;
    while pairs.len() < limit && before > Step(1) {
        let first = Step(before.0.saturating_sub(STEPS_AT_ONCE).max(1));
        let steps = driver.steps(run, first, (before.0 - first.0) as usize).await?;
        let missing = limit - pairs.len();
        let look = move |run: &Run| views(run, of_steps(&steps), missing);
        pairs.extend(driver.inspect(run, look).await?);
        before = first;
    }
    Ok(pairs)
}

/// Those that the run itself still has.
fn present(run: &Run, limit: usize) -> Vec<JudgedPair> {
    let in_flight = run.in_flight().map(|flight| (flight.step, flight.groups.as_slice()));
    let mut in_flight: Vec<_> = in_flight.collect();
    in_flight.reverse();
    let steps = in_flight.into_iter().chain(of_steps(&run.results().steps));
    views(run, steps, limit)
}

/// Committed steps with their groups, the newest first.
fn of_steps(steps: &[StepResult]) -> impl Iterator<Item = (Step, &[GroupResult])> {
    steps
        .iter()
        .rev()
        .map(|step| (step.record.step, step.groups.as_slice()))
}

fn views<'a>(run: &Run, steps: impl Iterator<Item = (Step, &'a [GroupResult])>, limit: usize) -> Vec<JudgedPair> {
    let groups = steps.flat_map(|(step, groups)| {
        let numbered = groups.iter().enumerate();
        numbered.map(move |(index, group)| (step, index, group))
    });
    groups
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
