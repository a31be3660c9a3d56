//! `gavel rubric weigh`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use gavel_judge::Models;
use gavel_rubric::weigh::{Strength, Weigher};
use gavel_rubric::{Journal, RubricFile, RubricSet, Weighing, WhyDropped};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::backend::{self, BackendArguments};
use super::{DataArguments, now, read_data};
use crate::commands::print_json;
use crate::diagnostic::{Context as _, Foreign as _, Result};
use crate::files::{beside, write_whole};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct WeighArguments {
    #[command(flatten)]
    pub(super) data: DataArguments,
    #[command(flatten)]
    pub(super) backend: BackendArguments,
    /// The rubric whose general set is weighed (TOML or bare text); weights that it has are not looked at.
    #[arg(long, value_name = "FILE")]
    pub(super) rubric: PathBuf,
    /// The rubric to write, with weights; the verdicts are kept beside it in OUT.journal.
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// How strongly weights are kept small [default: what does best on pairs that were left out].
    #[arg(long, value_name = "LAMBDA", value_parser = lambda, conflicts_with = "folds")]
    pub(super) lambda: Option<f64>,
    /// Parts of the pairs, each of which is left out once to find out how strongly weights are to be kept small.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=100))]
    pub(super) folds: u8,
    /// Pairs that are judged together.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) batch: u32,
    /// Print what was done as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

fn lambda(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0, such as 0.01".to_owned())
}

pub(super) fn weigh(arguments: &WeighArguments) -> Result<()> {
    let mut file = RubricFile::load(&arguments.rubric)?;
    let rubric = file.rubrics(&arguments.rubric)?.general().clone();
    let data = read_data(&arguments.data)?;
    let journal_file = beside(&arguments.out, "journal");
    let journal = Journal::open(&journal_file, &now())?;
    let judge = backend::judge(&mut Models::default(), &arguments.backend, None)?;
    let bar = ProgressBar::new(Weigher::verdicts(&data, &rubric) as u64);
    bar.set_style(
        ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} verdicts, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    let weigher = Weigher {
        judge: &judge,
        journal: Some(&journal),
        batch: arguments.batch as usize,
        threads: arguments.backend.concurrency as usize,
        strength: match arguments.lambda {
            Some(lambda) => Strength::Given(lambda),
            None => Strength::CrossValidated(arguments.folds.into()),
        },
        progress: &|done| bar.inc(done as u64),
    };
    let examples = arguments.data.data.display().to_string();
    let weighed = weigher.weigh(&data, &rubric, &examples)?;
    bar.finish_and_clear();
    let weighing = weighed.rubric.provenance.as_ref();
    let weighing = weighing
        .and_then(|provenance| provenance.weighing.as_ref())
        .context("weights without an account of them")?;
    file.themes.clone_from(&weighed.rubric.themes);
    file.provenance.clone_from(&weighed.rubric.provenance);
    file.rubrics(&arguments.out)?;
    let text = file.to_toml().foreign().context("cannot write the rubric as TOML")?;
    write_whole(&arguments.out, &text)?;
    if arguments.json {
        return print_json(&json!({
            "rubric": arguments.out,
            "sha256": weighed.rubric.digest(),
            "themes": weighed.rubric.themes,
            "weighing": weighing,
            "answers_asked": weighed.asked,
            "answers_from_journal": weighed.found,
        }));
    }
    output::tell(describe(&weighed.rubric, weighing));
    output::tell(format_args!(
        "answers      {} asked, {} from {}",
        weighed.asked,
        weighed.found,
        journal_file.display()
    ));
    output::tell(format_args!("written      {}", arguments.out.display()));
    Ok(())
}

fn describe(rubric: &RubricSet, weighing: &Weighing) -> String {
    let mut text = format!("pairs        {}", weighing.pairs);
    // Writing to a string cannot fail.
    if weighing.failed > 0 {
        let _ = write!(text, ", {} more could not be judged", weighing.failed);
    }
    let _ = write!(text, "\nlambda       {:.6}", weighing.lambda);
    if let (Some(folds), Some(loss), Some(accuracy)) =
        (weighing.folds, weighing.left_out_log_loss, weighing.left_out_accuracy)
    {
        let accuracy = 100.0 * accuracy;
        let _ = write!(
            text,
            ", by {folds} folds: {accuracy:.1} % right on pairs that were left out, loss {loss:.4}"
        );
    }
    for (tip, weight) in rubric.themes.iter().flat_map(|theme| theme.weighted()) {
        let _ = write!(text, "\n{weight:<12} {tip}");
    }
    for dropped in &weighing.dropped {
        let why = match dropped.why {
            WhyDropped::NeverTurnedOn => "no pair leans by it",
            WhyDropped::NoWeight => "its weight is 0",
        };
        let _ = write!(text, "\ndropped      {}: {why}", dropped.criterion);
    }
    text
}
