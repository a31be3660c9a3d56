//! What a finished run leaves: `adapter/`, `checkpoints/`, `report.json` and `report.html`.

mod charts;
mod data;
mod html;
mod pictures;

use anyhow::Context as _;
use gavel_core::ids::Step;
use gavel_core::spec::RunSpec;
use gavel_core::work::rules::is_checkpoint;

use crate::assets;
use crate::run::RunFolder;
use data::Report;
use pictures::Pictures;

const JSON: &str = "report.json";
const HTML: &str = "report.html";

/// Writes everything from the ledger and the blobs.
///
/// # Errors
/// The ledger or a blob cannot be read, or a file not be written.
pub(crate) async fn write(folder: &RunFolder, spec: &RunSpec) -> anyhow::Result<()> {
    let run = folder.read_run(spec).await?;
    let policy = run.policy().context("the run has no policy")?;
    let adapter_sha256 = folder.write_final(spec, policy).await?;
    for (version, policy) in run.results().policies.iter().enumerate() {
        if is_checkpoint(spec, Step(version as u32)) {
            folder.write_checkpoint(spec, Step(version as u32), policy).await?;
        }
    }
    let evaluator = assets::evaluator(spec);
    let pictures = Pictures::read(&run, &folder.blobs().await?, evaluator.as_deref()).await?;
    let report = Report::new(&run, adapter_sha256, evaluator.as_deref(), &pictures);
    let text = serde_json::to_string_pretty(&report).context("cannot write the report as JSON")?;
    save(folder, JSON, &text)?;
    save(folder, HTML, &html::render(&report, &pictures)?)
}

/// The report in a few lines, read back from `report.json`.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn summary(folder: &RunFolder) -> anyhow::Result<String> {
    let file = folder.path().join(JSON);
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}: cannot read", file.display()))?;
    let report: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{}: not valid JSON", file.display()))?;
    let number = |path: &str| report.pointer(path).and_then(serde_json::Value::as_f64);
    let mut lines = Vec::new();
    if let (Some(before), Some(after)) = (number("/evaluation/before"), number("/evaluation/after")) {
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
    lines.push(format!("adapter      {}", folder.path().join("adapter").display()));
    lines.push(format!("report       {}", folder.path().join(HTML).display()));
    Ok(lines.join("\n"))
}

fn save(folder: &RunFolder, name: &str, text: &str) -> anyhow::Result<()> {
    let file = folder.path().join(name);
    std::fs::write(&file, text).with_context(|| format!("{}: cannot write", file.display()))
}
