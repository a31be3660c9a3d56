//! The latest judged pairs, for the gallery.

use gavel_core::ids::{Digest, Step};
use gavel_core::run::{PairResult, Run};
use gavel_core::verdict::VerdictRecord;
use serde::Serialize;

/// A judged pair with its pictures.
#[derive(Debug, Serialize)]
pub(super) struct JudgedPair {
    step: Step,
    /// Place in the step.
    index: usize,
    prompt: String,
    /// PNG blobs of both candidates.
    images: [Digest; 2],
    verdict: VerdictRecord,
    /// Why the pair gave no gradient although it was decided.
    skipped: Option<String>,
}

/// The `limit` latest judged pairs, the newest step first.
pub(super) fn latest(run: &Run, limit: usize) -> Vec<JudgedPair> {
    let in_flight = run.in_flight().map(|flight| (flight.step, flight.pairs.as_slice()));
    let mut in_flight: Vec<_> = in_flight.collect();
    in_flight.reverse();
    let committed = run
        .results()
        .steps
        .iter()
        .rev()
        .map(|step| (step.record.step, step.pairs.as_slice()));
    in_flight
        .into_iter()
        .chain(committed)
        .flat_map(|(step, pairs)| pairs.iter().enumerate().map(move |(index, pair)| (step, index, pair)))
        .filter_map(|(step, index, pair)| view(run, step, index, pair))
        .take(limit)
        .collect()
}

fn view(run: &Run, step: Step, index: usize, pair: &PairResult) -> Option<JudgedPair> {
    let candidates = pair.candidates?;
    Some(JudgedPair {
        step,
        index,
        prompt: run.assets().prompts.get(pair.line as usize)?.clone(),
        images: candidates.map(|candidate| candidate.image),
        verdict: pair.verdict.clone()?,
        skipped: pair.skipped.clone(),
    })
}
