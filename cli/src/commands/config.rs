//! `gavel config`.

use clap::Subcommand;

use crate::assets;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::Result;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration file and print every problem.
    Check(ConfigArguments),
}

pub(super) fn config(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check(arguments) => check(arguments),
    }
}

fn check(arguments: &ConfigArguments) -> Result<()> {
    let spec = config::load(arguments)?;
    config::check_build(&spec)?;
    assets::check_model_folder(&spec)?;
    assets::check_judge_folders(&spec)?;
    let assets = assets::read(&spec)?.assets;
    let mut text = format!("{}: ok\n", arguments.file.display());
    text += &format!("  run        {} (spec {})\n", spec.run.name, spec.digest().short());
    text += &format!(
        "  prompts    {}, held out {}\n",
        assets.prompts.len(),
        assets.held_out.len()
    );
    text += &format!("  rubric     {}\n", assets.rubric.digest.short());
    text += &format!("  labelled   {} pairs\n", assets.labelled.len());
    output::print(text)
}
