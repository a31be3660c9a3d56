//! `gavel config`.

use clap::Subcommand;

use crate::assets;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::Result;

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
    println!("{}: ok", arguments.file.display());
    println!("  run        {} (spec {})", spec.run.name, spec.digest().short());
    println!(
        "  prompts    {}, held out {}",
        assets.prompts.len(),
        assets.held_out.len()
    );
    println!("  rubric     {}", assets.rubric.digest.short());
    println!("  labelled   {} pairs", assets.labelled.len());
    Ok(())
}
