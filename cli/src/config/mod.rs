//! From file, environment and command line to a checked [`RunSpec`].

mod arguments;
mod family;
mod paths;

use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat};
use gavel_core::spec::{GradientExchange, Problems, RunSpec};
use gavel_core::text;
use gavel_trainer_worker::exchange;

use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
pub(crate) use arguments::ConfigArguments;

/// Reads a configuration: the file, overridden by `GAVEL__SECTION__KEY` in the environment, overridden by `--set`.
///
/// # Errors
/// The file cannot be read or is no TOML, an override has no key, or the whole does not pass the checks.
pub(crate) fn load(arguments: &ConfigArguments) -> Result<RunSpec> {
    load_file(&arguments.file, &arguments.overrides)
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
        eprintln!("{warning}");
    }
    let table = layered(&table, overrides)?;
    checked(table).with_context(|| format!("{}: the configuration has problems", file.display()))
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

fn layered(file: &toml::Table, overrides: &[String]) -> Result<toml::Table> {
    let text = toml::to_string(file)
        .foreign()
        .context("cannot write the file's table again")?;
    let environment = Environment::with_prefix("GAVEL")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true);
    let mut builder = Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .add_source(environment);
    for entry in overrides {
        builder = builder.add_source(File::from_str(&assignment(entry)?, FileFormat::Toml));
    }
    let layered = builder
        .build()
        .foreign()
        .context("cannot combine file, environment and --set")?;
    layered
        .try_deserialize()
        .foreign()
        .context("cannot combine file, environment and --set")
}

/// `section.key=value` as a line of TOML. What is no TOML value is text.
fn assignment(entry: &str) -> Result<String> {
    let fault =
        || Diagnostic::new(format!("`--set {entry}` is not KEY=VALUE")).with_hint("write it like --set run.seed=7");
    let (key, value) = entry.split_once('=').ok_or_else(fault)?;
    let (key, value) = (key.trim(), value.trim());
    let plain =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !key.contains('.') || !key.split('.').all(plain) {
        return Err(fault());
    }
    let line = format!("{key} = {value}");
    if toml::from_str::<toml::Table>(&line).is_ok_and(|table| table.len() == 1) && !value.contains('\n') {
        Ok(line)
    } else {
        Ok(format!("{key} = {}", toml::Value::String(value.to_owned())))
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
    fn overrides_are_toml_values_or_text() {
        assert_eq!(assignment("run.seed=7").unwrap(), "run.seed = 7");
        assert_eq!(
            assignment("optimizer.learning_rate = 1e-3").unwrap(),
            "optimizer.learning_rate = 1e-3"
        );
        assert_eq!(assignment("run.name=a-b").unwrap(), "run.name = \"a-b\"");
        assert_eq!(
            assignment("lora.target_modules=[\"attn.to_q\"]").unwrap(),
            "lora.target_modules = [\"attn.to_q\"]"
        );
        for wrong in ["seed", "seed=7", "run.=7", "run.se ed=7", ".seed=7"] {
            assert_eq!(
                assignment(wrong).unwrap_err().to_string(),
                format!("`--set {wrong}` is not KEY=VALUE")
            );
        }
    }

    #[cfg(not(feature = "nccl"))]
    #[test]
    fn a_binary_without_nccl_says_how_to_build_one_with_it() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml");
        let overrides = ["trainer.exchange=nccl".to_owned(), "model.device=cuda".to_owned()];
        let spec = load_file(&file, &overrides).unwrap();
        let text = check_build(&spec).unwrap_err().render();
        assert!(
            text.contains("built without NCCL") && text.contains("--features cuda,nccl"),
            "{text}"
        );
        assert!(check_build(&load_file(&file, &[]).unwrap()).is_ok());
    }

    #[test]
    fn later_overrides_win_over_the_file() {
        let file: toml::Table = "[run]\nname = \"x\"\nseed = 1\n".parse().unwrap();
        let overrides = ["run.seed=2".to_owned(), "run.seed=3".to_owned()];
        let table = layered(&file, &overrides).unwrap();
        assert_eq!(table["run"]["seed"].as_integer(), Some(3));
        assert_eq!(table["run"]["name"].as_str(), Some("x"));
    }
}
