//! `gavel config`.

use clap::Subcommand;
use gavel_core::RunAssets;
use gavel_core::work::Task;
use gavel_models::Family;

use super::print_json;
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
    /// Print the JSON Schema of configuration files, by which editors complete and check them.
    Schema,
}

pub(super) fn config(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check(arguments) => check(arguments),
        ConfigCommand::Show(arguments) => show(arguments),
        ConfigCommand::Schema => print_json(&schema()),
    }
}

/// The schema of a configuration, with the families that this program knows.
pub(super) fn schema() -> serde_json::Value {
    let mut schema = gavel_core::spec::schema().to_value();
    if let Some(family) = schema.pointer_mut("/properties/model/properties/family") {
        family["enum"] = Family::ALL.iter().map(|family| family.name()).collect();
    }
    schema
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
    text += &format!("  rubric     {}{}\n", assets.rubric.digest.short(), own_rubrics(assets));
    text += &format!("  labelled   {} pairs\n", assets.labelled.len());
    // Whether the folder is whole is told by `gavel doctor`.
    let too_long = Family::from_name(spec.model.family.as_str())
        .ok()
        .and_then(|family| family.inspect(&spec.model.path).ok())
        .map(|model| preflight::too_long_prompts(&spec, model.as_ref(), assets))
        .transpose()?;
    for notice in files.notices().iter().chain(too_long.iter().flatten()) {
        text += &format!("  notice     {notice}\n");
    }
    output::print(text)
}

/// How many prompts have a rubric of their own; nothing where none has.
fn own_rubrics(assets: &RunAssets) -> String {
    let has_own = |tasks: &[Task]| {
        let own = tasks.iter().filter(|task| assets.prompt_rubrics.of(task).is_some());
        format!("{} of {}", own.count(), tasks.len())
    };
    match assets.prompt_rubrics.is_empty() {
        true => String::new(),
        false => format!(
            ", own ones for {} prompts, held out {}",
            has_own(&assets.prompts),
            has_own(&assets.held_out)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_the_programs() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/gavel.schema.json");
        let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("GAVEL_REGENERATE").is_some() {
            std::fs::write(file, &schema).unwrap();
        }
        let published = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            published == schema,
            "docs/gavel.schema.json is not what `gavel config schema` prints: \
             GAVEL_REGENERATE=1 cargo test --workspace --bin gavel the_published_schema"
        );
    }
}
