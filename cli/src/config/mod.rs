//! From file, environment and command line to a checked [`RunSpec`].

mod arguments;
mod family;
mod overrides;
mod paths;

use std::path::{Path, PathBuf};

use gavel_core::spec::{GradientExchange, Problems, RunSpec};
use gavel_core::text;
use gavel_trainer_worker::exchange;

use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
pub(crate) use arguments::{ConfigArguments, FleetArguments};
pub(crate) use overrides::variables;

/// Reads a configuration: the file, overridden by `GAVEL__SECTION__KEY` in the environment, overridden by `--set`.
///
/// # Errors
/// The file cannot be read or is no TOML, an override has no key, or the whole does not pass the checks.
pub(crate) fn load(arguments: &ConfigArguments) -> Result<RunSpec> {
    load_with(arguments, FleetArguments::default())
}

/// As [`load`], with another fleet.
pub(crate) fn load_with(arguments: &ConfigArguments, fleet: FleetArguments) -> Result<RunSpec> {
    load_file(&arguments.file, &fleet.after(&arguments.overrides))
}

/// As [`load`], from parts.
pub(crate) fn load_file(file: &Path, overrides: &[String]) -> Result<RunSpec> {
    let text = text::of(std::fs::read(file)).map_err(|error| {
        let told = Diagnostic::from(error).caused(format!("{}: cannot read the configuration", file.display()).into());
        match told.hint {
            Some(_) => told,
            None => told.with_hint("configs/ holds the configurations that come with Gavel"),
        }
    })?;
    let mut table: toml::Table =
        toml::from_str(&text).with_context(|| format!("{}: not valid TOML", file.display()))?;
    if let Some(warning) = paths::resolve(&mut table, file) {
        output::note(warning);
    }
    let overrides = overrides::all(&variables(), overrides)?;
    overrides::apply(&table, overrides, checked)
        .with_context(|| format!("{}: the configuration has problems", file.display()))
}

/// A spec that is there, with other values.
///
/// # Errors
/// An override has no key, or the whole does not pass the checks.
pub(crate) fn changed(spec: &RunSpec, overrides: &[String]) -> Result<RunSpec> {
    let table = table(spec)?;
    let overrides = overrides::all(&[], overrides)?;
    overrides::apply(&table, overrides, checked).context("the changed configuration has problems")
}

/// A spec as a configuration file has it, every key that has a value included.
///
/// # Errors
/// None that a spec which passed its checks has.
pub(crate) fn table(spec: &RunSpec) -> Result<toml::Table> {
    let mut json = serde_json::to_value(spec).context("the configuration cannot be written")?;
    drop_nulls(&mut json);
    serde_json::from_value(json).context("the configuration cannot be written as TOML")
}

/// A key without a value is left out of a configuration.
fn drop_nulls(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(table) = value {
        table.retain(|_, value| !value.is_null());
        table.values_mut().for_each(drop_nulls);
    }
}

/// The spec, or all problems: those that core finds, and a family that this program does not train.
fn checked(mut table: toml::Table) -> Result<RunSpec, Problems> {
    let family = family::check(&table);
    family::fill_target_modules(&mut table);
    let (spec, mut problems) = match RunSpec::from_value(table) {
        Ok(spec) => (Some(spec), Problems::default()),
        Err(problems) => (None, problems),
    };
    let is_told = problems.0.iter().any(|problem| problem.key == "model.family");
    problems.0.extend(family.filter(|_| !is_told));
    spec.filter(|_| problems.is_empty()).ok_or(problems)
}

/// Refuses what this binary was built without.
///
/// # Errors
/// Names the feature to build it with.
pub(crate) fn check_build(spec: &RunSpec) -> Result<()> {
    match spec.trainer.exchange {
        GradientExchange::Blobs => Ok(()),
        GradientExchange::Nccl => Ok(exchange::built()?),
    }
}

/// The folder of a run's results.
pub(crate) fn out_folder(spec: &RunSpec, out: Option<&Path>) -> PathBuf {
    out.map_or_else(|| Path::new("runs").join(&spec.run.name), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_configuration_that_comes_with_gavel_can_be_changed_by_a_key() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        for entry in std::fs::read_dir(configs).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "toml") {
                let spec = load_file(&file, &[]).unwrap();
                assert_eq!(changed(&spec, &[]).unwrap(), spec, "{}", file.display());
                let other = changed(&spec, &["run.steps=7".into()]).unwrap();
                assert_eq!(other.run.steps, 7);
            }
        }
    }

    // Tests have NCCL, which is compiled without CUDA; .ci/run asks a binary without it.
    #[test]
    fn a_binary_without_nccl_says_how_to_build_one_with_it() {
        let text = Diagnostic::from(exchange::ExchangeError::NotBuilt).render();
        assert!(
            text.contains("built without NCCL") && text.contains("--features cuda,nccl"),
            "{text}"
        );
    }
}
