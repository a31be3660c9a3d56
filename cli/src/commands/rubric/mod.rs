//! `gavel rubric`: rubric sets written from labelled examples, shown, compared and checked.

mod arguments;
mod backend;
mod check;
mod diff;
mod fetch;
mod generate;
mod measure;
mod page;
mod show;

use std::process::ExitCode;

use anyhow::Context as _;
use gavel_rubric::data::{LabelledSet, ReadOptions};
use serde::Serialize;

use arguments::DataArguments;
pub(crate) use arguments::RubricCommand;

/// Does what `gavel rubric` asks.
///
/// # Errors
/// Whatever keeps it from being done.
pub(super) fn rubric(command: &RubricCommand) -> anyhow::Result<ExitCode> {
    match command {
        RubricCommand::Generate(arguments) => generate::generate(arguments)?,
        RubricCommand::Check(arguments) => check::check(arguments)?,
        RubricCommand::Show(arguments) => show::show(arguments)?,
        RubricCommand::Diff(arguments) => return diff::diff(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn read_data(arguments: &DataArguments) -> anyhow::Result<LabelledSet> {
    let local = ReadOptions::local();
    let options = ReadOptions {
        picture_bytes_max: arguments.picture_mib_max << 20,
        scores: arguments.score_min.zip(arguments.score_max),
        fetch: &fetch::fetch,
        ..local
    };
    Ok(LabelledSet::read(&arguments.data, &options)?)
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("cannot write JSON")?);
    Ok(())
}

fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}
