//! `gavel config`.

use clap::Subcommand;
use gavel_models::Family;

use crate::assets;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::Result;
use crate::{output, preflight};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration file and print every problem.
    Check(ConfigArguments),
    /// Print a configuration with every key: those of the file and of overrides, and the defaults of all others.
    Show(ConfigArguments),
}

pub(super) fn config(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check(arguments) => check(arguments),
        ConfigCommand::Show(arguments) => show(arguments),
    }
}

fn show(arguments: &ConfigArguments) -> Result<()> {
    let table = config::table(&config::load(arguments)?)?;
    output::print(table)
}

fn check(arguments: &ConfigArguments) -> Result<()> {
    let spec = config::load(arguments)?;
    config::check_build(&spec)?;
    assets::check_model_folder(&spec)?;
    assets::check_judge_folders(&spec)?;
    let files = assets::read(&spec)?;
    let assets = &files.assets;
    let mut text = format!("{}: ok\n", arguments.file.display());
    text += &format!("  run        {} (spec {})\n", spec.run.name, spec.digest().short());
    text += &format!(
        "  prompts    {}, held out {}\n",
        assets.prompts.len(),
        assets.held_out.len()
    );
    text += &format!("  rubric     {}\n", assets.rubric.digest.short());
    text += &format!("  labelled   {} pairs\n", assets.labelled.len());
    // Whether the folder is whole is told by `gavel doctor`.
    let too_long = Family::from_name(spec.model.family.as_str())
        .ok()
        .and_then(|family| family.inspect(&spec.model.path).ok())
        .map(|model| preflight::too_long(&spec, model.as_ref(), assets))
        .transpose()?;
    for notice in files.notices().iter().chain(too_long.iter().flatten()) {
        text += &format!("  notice     {notice}\n");
    }
    output::print(text)
}
