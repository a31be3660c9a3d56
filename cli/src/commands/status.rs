//! `gavel status`.

use std::time::Duration;

use clap::Args;
use gavel_core::ids::RunId;
use gavel_core::run::{RubricsStatus, RunStatus};

use super::connect::Connect;
use super::print_json;
use crate::diagnostic::Result;
use crate::output;
use crate::run::{asked, figures};
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// A run's name; left out, all runs.
    pub(crate) run: Option<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Print the whole state as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn status(arguments: &StatusArguments) -> Result<()> {
    let runs = block_on(async {
        let runs = arguments.connect.open().await?.runs();
        match &arguments.run {
            Some(run) => Ok(vec![runs.status(&RunId(run.clone())).await?]),
            None => Ok(runs.list().await?),
        }
    })?;
    if arguments.json {
        match (&arguments.run, runs.as_slice()) {
            (Some(_), [run]) => print_json(run)?,
            _ => print_json(&runs)?,
        }
    } else if runs.is_empty() {
        output::print_line("no runs")?;
    } else {
        for run in &runs {
            output::print(describe(run))?;
        }
    }
    Ok(())
}

/// A run in a few lines.
pub(super) fn describe(run: &RunStatus) -> String {
    let mut text = format!("{}  {}  step {} of {}\n", run.run, run.phase, run.step, run.steps_total);
    let since = Duration::from_secs(run.now_unix_ms.saturating_sub(run.waiting.since_unix_ms) / 1000);
    text += &format!(
        "  waits for {} (since {})\n",
        run.waiting.text,
        humantime::format_duration(since)
    );
    if let Some(progress) = &run.progress {
        text += &format!(
            "  step {}: {} of {} samples, {} of {} pairs judged, {} of {} gradient shards\n",
            progress.step,
            progress.samples,
            progress.samples_total,
            progress.groups_judged,
            progress.groups_total,
            progress.shards,
            progress.shards_total
        );
    }
    if let Some(step) = run.steps.last() {
        text += &format!("  last step: {}\n", figures(step));
    }
    if let Some(matches) = &run.asked {
        text += &format!("  judge: {} so far\n", asked(matches));
    }
    if let Some(RubricsStatus { written, general }) = run.rubrics {
        text += &format!("  rubrics: {written} prompts have one that was written, {general} go by the general one\n");
    }
    if let Some(asked) = run.evaluation.and_then(|evaluation| evaluation.questions) {
        text += &format!("  questions about pictures: {} of {} asked\n", asked.asked, asked.total);
    }
    if let Some(rate) = run.evaluation.and_then(|evaluation| evaluation.win_rate) {
        text += &format!(
            "  win rate over the base: {:.2} [{:.2}, {:.2}] on {} prompts\n",
            rate.value, rate.low, rate.high, rate.prompts
        );
    }
    text
}
