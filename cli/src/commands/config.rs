//! `gavel config`.

use clap::Subcommand;
use gavel_models::Family;

use crate::assets::{self, Files};
use crate::config::{self, ConfigArguments};
use crate::diagnostic::Result;
use crate::preflight;

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
    let Files { assets, notices, .. } = assets::read(&spec)?;
    println!("{}: ok", arguments.file.display());
    println!("  run        {} (spec {})", spec.run.name, spec.digest().short());
    println!(
        "  prompts    {}, held out {}",
        assets.prompts.len(),
        assets.held_out.len()
    );
    println!("  rubric     {}", assets.rubric.digest.short());
    println!("  labelled   {} pairs", assets.labelled.len());
    // Whether the folder is whole is told by `gavel doctor`.
    let too_long = Family::from_name(spec.model.family.as_str())
        .ok()
        .and_then(|family| family.inspect(&spec.model.path).ok())
        .map(|model| preflight::too_long(&spec, model.as_ref(), &assets))
        .transpose()?;
    for notice in notices.iter().chain(too_long.iter().flatten()) {
        println!("  notice     {notice}");
    }
    Ok(())
}
