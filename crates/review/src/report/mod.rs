//! What a finished run leaves: `adapter/`, `adapter-best/`, `checkpoints/`, `report.json` and `report.html`.

mod axes;
mod data;
mod difference;
mod gallery;
mod html;
mod pictures;
mod probes;
#[cfg(test)]
mod tests;

use std::path::Path;

use gavel_core::ids::Step;
use gavel_core::run::Run;
use gavel_core::work::rules::is_checkpoint;
use gavel_eval::Evaluator;
use serde::Deserialize as _;
use serde_json::Value;

use crate::folder::{read, write as write_file, write_adapter};
use crate::{Error, RunFolder, RunSource};
use axes::{Axes, Axis};
use data::Report;
use gallery::Gallery;
use pictures::Pictures;
use probes::Probes;

const JSON_FILE: &str = "report.json";
const PAGE_FILE: &str = "report.html";

/// Writes everything that a finished run leaves to its own folder.
///
/// # Errors
/// The ledger or a blob cannot be read, or a file not be written.
pub async fn finish(folder: &RunFolder, evaluator: Option<&dyn Evaluator>) -> Result<(), Error> {
    let run = folder.run().await?;
    for (version, policy) in run.results().policies.numbered() {
        if is_checkpoint(folder.spec(), Step(version as u32)) {
            folder.write_checkpoint(Step(version as u32), policy).await?;
        }
    }
    write_from(&run, folder, folder.path(), evaluator).await
}

/// Writes the adapter and the report of a run to the folder `out`, from wherever the run is read. Of one that goes on they say how far
/// it is.
///
/// # Errors
/// As [`finish`].
pub async fn write(source: &dyn RunSource, out: &Path, evaluator: Option<&dyn Evaluator>) -> Result<(), Error> {
    write_from(&source.run().await?, source, out, evaluator).await
}

async fn write_from(
    run: &Run,
    source: &dyn RunSource,
    out: &Path,
    evaluator: Option<&dyn Evaluator>,
) -> Result<(), Error> {
    let policy = run
        .policy()
        .ok_or_else(|| Error::NothingTrained { run: run.id().clone() })?;
    let adapter_sha256 = write_adapter(source, policy.evaluated(), &out.join("adapter")).await?;
    let best = run.best().and_then(|step| run.results().policies.get(step.0 as usize));
    if let Some(best) = best {
        write_adapter(source, best.evaluated(), &out.join("adapter-best")).await?;
    }
    let pictures = Pictures::read(run, source, evaluator).await?;
    let probes = Probes::read(run, source, evaluator).await?;
    let report = Report::new(run, adapter_sha256, evaluator, &pictures, &probes);
    write_file(&out.join(JSON_FILE), serde_json::to_string_pretty(&report)?)?;
    let gallery = Gallery::read(run, source).await?;
    write_file(
        &out.join(PAGE_FILE),
        html::render(&report, &pictures, &probes, &gallery)?,
    )
}

/// The report in a few lines, read back from `report.json` in the folder `out`.
///
/// # Errors
/// The file cannot be read.
pub fn summary(out: &Path) -> Result<String, Error> {
    let file = out.join(JSON_FILE);
    let report: Value = serde_json::from_slice(&read(&file)?).map_err(|source| Error::Json { file, source })?;
    let mut lines = results(&report);
    lines.push(format!("adapter      {}", out.join("adapter").display()));
    if let Some(best) = report.get("best").and_then(Value::as_u64) {
        let folder = out.join("adapter-best");
        lines.push(format!("best probe   step {best}, {}", folder.display()));
    }
    lines.push(format!("report       {}", out.join(PAGE_FILE).display()));
    Ok(lines.join("\n"))
}

/// What `report.json` says of the run's success, a line each.
fn results(report: &Value) -> Vec<String> {
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64);
    let mut lines = Vec::new();
    let axes = report.pointer("/evaluation/axes").map(Axes::deserialize);
    if let Some(Ok(axes)) = axes {
        let half = |name: &str, axis: Axis| {
            let Axis { before, after, copy } = axis;
            format!("{name:12} {before:.3} -> {after:.3} on held-out edits; a copy of the source: {copy:.3}")
        };
        lines.push(half("fulfilment", axes.fulfilment));
        lines.push(half("preservation", axes.preservation));
        lines.push(axes.statement().text);
    } else if let (Some(before), Some(after)) = (number("/evaluation/before"), number("/evaluation/after")) {
        lines.push(format!("adherence    {before:.3} -> {after:.3} on held-out prompts"));
    }
    if let (Some(value), Some(low), Some(high)) = (
        number("/win_rate/value"),
        number("/win_rate/low"),
        number("/win_rate/high"),
    ) {
        lines.push(format!("win rate     {value:.2} over the base [{low:.2}, {high:.2}]"));
    }
    if let Some(accuracy) = number("/judge/accuracy") {
        lines.push(format!(
            "judge        right on {:.0} % of the labelled pairs",
            100.0 * accuracy
        ));
    }
    lines
}
