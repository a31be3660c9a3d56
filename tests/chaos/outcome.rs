//! What a finished run left: adapter, verdicts and steps as its ledger and blobs tell them, without times.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};
use gavel_coordinator::blobs::Blobs;
use gavel_coordinator::ledger::{Ledger as _, SqliteLedger};
use gavel_coordinator::read_run;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::{Event, Phase, StepSeconds};
use gavel_core::work::Unit;
use serde::Serialize;

/// What a finished run left, in comparable form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// SHA-256 of the final adapter's bytes, read from the blob store.
    pub(crate) adapter: Digest,
    /// A line for each verdict: training pairs in order, then held-out pairs, then labelled ones.
    verdicts: Vec<String>,
    /// A line for each step: its figures without times.
    steps: Vec<String>,
    /// A line for each policy, picture, trajectory and gradient: their hashes.
    blobs: Vec<String>,
}

/// What the ledger's events count up to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) accepted: u32,
    pub(crate) granted: u32,
    pub(crate) expired: u32,
    pub(crate) released: u32,
    /// Attempts that a worker reported as failed although its inputs were good.
    pub(crate) failed: u32,
    /// Reports of inputs that were lost or changed.
    pub(crate) losses: u32,
    /// Units accepted again because their results were lost.
    pub(crate) made_again: u32,
    /// Times that the run had to be submitted again, because a picture of its submission was lost.
    pub(crate) submitted_again: u32,
    /// Times that a coordinator took the run over from one that was killed.
    pub(crate) taken_over: u32,
}

/// Reads a finished run, and checks that each unit was accepted once, or once more for each loss of a result.
pub(crate) async fn read(state: &Path, id: &RunId) -> anyhow::Result<(Outcome, Tally)> {
    let ledger = SqliteLedger::open(&state.join("ledger.sqlite")).await?;
    let run = read_run(&ledger, id).await?;
    ensure!(run.phase() == Phase::Finished, "the ledger's run is {:?}", run.phase());
    let mut tally = Tally::default();
    // Units accepted since results were last lost; within these no unit may come twice.
    let mut accepted: BTreeSet<Unit> = BTreeSet::new();
    let mut ever: BTreeSet<Unit> = BTreeSet::new();
    for record in ledger.events(id).await? {
        match serde_json::from_str(&record.event).context("an event that is no event")? {
            Event::Granted { .. } => tally.granted += 1,
            Event::Completed { unit, .. } => {
                tally.accepted += 1;
                ensure!(accepted.insert(unit), "{unit} was accepted twice");
                tally.made_again += u32::from(!ever.insert(unit));
            }
            Event::Expired { .. } => tally.expired += 1,
            Event::Released { .. } => tally.released += 1,
            Event::Failed { unusable, .. } if unusable.is_empty() => tally.failed += 1,
            Event::Failed { .. } => {
                tally.losses += 1;
                accepted.clear();
            }
            Event::Resumed => tally.submitted_again += 1,
            Event::Recovered { .. } => tally.taken_over += 1,
            other => anyhow::bail!("an event that nobody caused: {other:?}"),
        }
    }
    ledger.close().await;
    let results = run.results();
    let last = results.policies.last().context("no policy")?;
    let final_adapter = last.evaluated();
    let blobs = Blobs::open_folder(&state.join("blobs"), u64::MAX).await?;
    let adapter = Digest::of(&blobs.get(&final_adapter).await?);
    let training = results.steps.iter().flat_map(|step| &step.groups);
    let verdicts = training
        .flat_map(|group| &group.verdicts)
        .chain(results.comparisons.iter().flatten())
        .chain(results.calibration.iter().flatten());
    let steps = results.steps.iter().map(|step| {
        let mut record = step.record.clone();
        record.seconds = StepSeconds::default();
        record
    });
    let of_steps = results.steps.iter().map(|step| {
        let candidates: Vec<_> = step
            .groups
            .iter()
            .map(|group| (group.line, &group.candidates))
            .collect();
        (candidates, &step.shards)
    });
    let mut hashes = lines(results.policies.iter())?;
    hashes.extend(lines(of_steps)?);
    hashes.extend(lines([&results.base_images, &results.tuned_images].into_iter())?);
    let outcome = Outcome {
        adapter,
        verdicts: lines(verdicts)?,
        steps: lines(steps)?,
        blobs: hashes,
    };
    Ok((outcome, tally))
}

fn lines<T: Serialize>(rows: impl Iterator<Item = T>) -> anyhow::Result<Vec<String>> {
    rows.map(|row| serde_json::to_string(&row).context("a row has no JSON form"))
        .collect()
}

impl Outcome {
    /// The hash of every table, by name.
    pub(crate) fn hashes(&self) -> [(&'static str, Digest); 4] {
        let of = |table: &[String]| Digest::of(table.join("\n").as_bytes());
        [
            ("adapter", self.adapter),
            ("verdict table", of(&self.verdicts)),
            ("step table", of(&self.steps)),
            ("all other blobs", of(&self.blobs)),
        ]
    }

    /// The first place where two runs differ; `None` when they are the same.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let tables = [
            ("verdict", &self.verdicts, &other.verdicts),
            ("step", &self.steps, &other.steps),
            ("blob", &self.blobs, &other.blobs),
        ];
        for (what, here, there) in tables {
            let rows = here.len().max(there.len());
            if let Some(row) = (0..rows).find(|row| here.get(*row) != there.get(*row)) {
                let (here, there) = (here.get(row), there.get(row));
                return Some(format!("{what} row {row}: undisturbed {here:?}, disturbed {there:?}"));
            }
        }
        (self.adapter != other.adapter).then(|| format!("adapter: {} and {}", self.adapter, other.adapter))
    }
}
