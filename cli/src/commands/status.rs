//! `gavel status`.

use std::time::Duration;

use anyhow::Context as _;
use gavel_core::ids::RunId;
use gavel_core::run::{Phase, RunStatus};

use super::block_on;
use crate::args::StatusArguments;
use crate::client;

pub(super) fn status(arguments: &StatusArguments) -> anyhow::Result<()> {
    let runs = block_on(async {
        let runs = client::connect(&arguments.connect.addresses).await?.runs();
        match &arguments.run {
            Some(run) => Ok(vec![runs.status(&RunId(run.clone())).await?]),
            None => Ok(runs.list().await?),
        }
    })?;
    if arguments.json {
        let text = match (&arguments.run, runs.as_slice()) {
            (Some(_), [run]) => serde_json::to_string_pretty(run),
            _ => serde_json::to_string_pretty(&runs),
        };
        println!("{}", text.context("cannot write JSON")?);
    } else if runs.is_empty() {
        println!("no runs");
    } else {
        for run in &runs {
            print!("{}", describe(run));
        }
    }
    Ok(())
}

/// A run in a few lines.
pub(super) fn describe(run: &RunStatus) -> String {
    let mut text = format!(
        "{}  {}  step {} of {}\n",
        run.run,
        phase_name(&run.phase),
        run.step,
        run.steps_total
    );
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
            progress.pairs_judged,
            progress.pairs_total,
            progress.shards,
            progress.shards_total
        );
    }
    if let Some(step) = run.steps.last() {
        text += &format!(
            "  last step: {} pairs, {} decided, reward {:+.3}, kl {:.5}, clipped {:.1} %, ratio deviation {:.1e}, {:.1} s\n",
            step.pairs,
            step.decided,
            step.reward_mean,
            step.kl,
            100.0 * step.clip_fraction,
            step.ratio_deviation,
            step.seconds.wall
        );
    }
    if let Some(rate) = run.evaluation.and_then(|evaluation| evaluation.win_rate) {
        text += &format!(
            "  win rate over the base: {:.2} [{:.2}, {:.2}] on {} prompts\n",
            rate.value, rate.low, rate.high, rate.prompts
        );
    }
    text
}

/// The phase in a word or two, with the reason of an early end.
pub(crate) fn phase_name(phase: &Phase) -> String {
    match phase {
        Phase::Preparing => "preparing".to_owned(),
        Phase::Training => "training".to_owned(),
        Phase::EvaluatingBase => "evaluating the base".to_owned(),
        Phase::EvaluatingTuned => "evaluating the adapter".to_owned(),
        Phase::Finished => "finished".to_owned(),
        Phase::Stopped { reason } => format!("stopped ({reason})"),
        Phase::Failed { reason } => format!("failed ({reason})"),
    }
}
