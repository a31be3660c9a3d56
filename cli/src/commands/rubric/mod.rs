//! `gavel rubric`: rubric sets written from labelled examples, shown, compared and checked.

mod backend;
mod check;
mod diff;
mod export;
mod generate;
mod measure;
mod page;
mod show;
mod weigh;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use gavel_rubric::data::{LabelledSet, ReadOptions};

use crate::diagnostic::Result;
use crate::fetch::fetch;

#[derive(Debug, Subcommand)]
pub(crate) enum RubricCommand {
    /// Write a rubric set from labelled examples. A generation that was killed goes on where it was.
    Generate(Box<generate::GenerateArguments>),
    /// Write a set of its own for each prompt of a list, from the prompt alone or from labelled pairs near it. It can be called again for more.
    Write(Box<write::WriteArguments>),
    /// Learn from labelled pairs how much each criterion of a rubric counts. A weighing that was killed goes on where it was.
    Weigh(Box<weigh::WeighArguments>),
    /// Measure a judge on labelled pairs: without a rubric, by the general one, by prompts' own sets, by criteria with weights.
    Check(Box<check::CheckArguments>),
    /// Show a rubric set: its criteria, its fingerprint, where it comes from.
    Show(show::ShowArguments),
    /// Compare two rubric sets; the exit status is 1 when a judge reads different words.
    Diff(diff::DiffArguments),
    /// Write what a run's judge decides by as a rubric set: the general set, and those that its prompts brought or had written.
    Export(Box<export::ExportArguments>),
}

/// Labelled examples.
#[derive(Debug, Args)]
pub(crate) struct DataArguments {
    /// Labelled examples: a JSON array, JSON Lines or YAML (docs/rubrics.md).
    #[arg(long, visible_alias = "pairs", value_name = "FILE")]
    pub(super) data: PathBuf,
    /// The worst score, where records do not say.
    #[arg(long, value_name = "SCORE", requires = "score_max", allow_negative_numbers = true)]
    pub(super) score_min: Option<i64>,
    /// The best score, where records do not say.
    #[arg(long, value_name = "SCORE", requires = "score_min", allow_negative_numbers = true)]
    pub(super) score_max: Option<i64>,
    /// Most MiB that an encoded picture may have.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) picture_mib_max: u64,
}

/// Does what `gavel rubric` asks.
///
/// # Errors
/// Whatever keeps it from being done.
pub(super) fn rubric(command: &RubricCommand) -> Result<ExitCode> {
    match command {
        RubricCommand::Generate(arguments) => generate::generate(arguments)?,
        RubricCommand::Write(arguments) => write::write(arguments)?,
        RubricCommand::Weigh(arguments) => weigh::weigh(arguments)?,
        RubricCommand::Check(arguments) => check::check(arguments)?,
        RubricCommand::Show(arguments) => show::show(arguments)?,
        RubricCommand::Export(arguments) => export::export(arguments)?,
        RubricCommand::Diff(arguments) => return diff::diff(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn read_data(arguments: &DataArguments) -> Result<LabelledSet> {
    let local = ReadOptions::local();
    let options = ReadOptions {
        picture_bytes_max: arguments.picture_mib_max << 20,
        scores: arguments.score_min.zip(arguments.score_max),
        fetch: &fetch,
        ..local
    };
    Ok(LabelledSet::read(&arguments.data, &options)?)
}

pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}
