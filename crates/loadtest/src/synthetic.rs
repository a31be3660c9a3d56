//! A run that is all coordination: many small units, and nothing to compute.

use gavel_client::{ConnectOptions, Connection};
use gavel_core::ids::RunId;
use gavel_core::spec::RunSpec;
use gavel_core::{RubricText, RunAssets};

use crate::error::Error;

/// Lines of the prompt file; longer steps walk through it several times.
const PROMPTS: u32 = 1000;
const RUBRIC: &str = "the better picture wins";

/// A run for simulated workers.
#[derive(Debug, Clone)]
pub struct SyntheticRun {
    /// What is to be done.
    pub spec: RunSpec,
    /// Its prompts.
    pub assets: RunAssets,
}

impl SyntheticRun {
    /// Its name.
    pub fn id(&self) -> RunId {
        self.spec.id()
    }

    /// Units of the whole run: three for each prompt of a step, one commit for each step, and the initial adapter.
    pub fn units(&self) -> u64 {
        1 + u64::from(self.spec.run.steps) * self.units_per_step()
    }

    /// Units of one step.
    pub fn units_per_step(&self) -> u64 {
        3 * u64::from(self.spec.prompts.per_step) + 1
    }
}

/// A run of `steps` steps with `per_step` prompts each, without evaluation. Every unit covers one prompt: the most units that
/// a prompt can make.
///
/// # Errors
/// [`Error::Spec`] when `steps` or `per_step` is 0.
pub fn synthetic_run(steps: u32, per_step: u32) -> Result<SyntheticRun, Error> {
    let section = |entries: &[(&str, toml::Value)]| {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        toml::Value::Table(entries.collect())
    };
    let sections = [
        ("run", section(&[("name", "load".into()), ("steps", steps.into())])),
        ("model", section(&[("path", "no-model".into())])),
        (
            "prompts",
            section(&[("train", "no-file".into()), ("per_step", per_step.into())]),
        ),
        ("sampling", section(&[("batch", 1.into())])),
        (
            "judge",
            section(&[
                ("batch", 1.into()),
                ("path", "no-model".into()),
                ("rubric", "no-file".into()),
                ("template", "no-file".into()),
            ]),
        ),
        ("trainer", section(&[("shard", 1.into())])),
    ];
    let table = sections.into_iter().map(|(name, section)| (name.to_owned(), section));
    let spec = RunSpec::from_value(table.collect())?;
    let assets = RunAssets {
        prompts: (0..PROMPTS)
            .map(|line| format!("prompt {line}: two red cubes to the left of a small green ball").into())
            .collect(),
        rubric: RubricText::new(RUBRIC),
        ..RunAssets::default()
    };
    Ok(SyntheticRun { spec, assets })
}

/// Submits the run to the coordinator at `address`.
///
/// # Errors
/// [`Error::Address`], [`Error::Connect`], [`Error::Refused`].
pub async fn submit(address: &str, run: &SyntheticRun) -> Result<(), Error> {
    let connection = Connection::open(&ConnectOptions::new(address)?).await?;
    let submitted = connection.runs().submit(&run.id(), &run.spec, &run.assets).await;
    submitted.map_err(|source| Error::Refused {
        what: "the synthetic run",
        source,
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synthetic_run_passes_the_checks_and_has_a_unit_for_each_prompt_and_stage() {
        let run = synthetic_run(2, 10).unwrap();
        run.spec.check().unwrap();
        assert_eq!((run.units_per_step(), run.units()), (31, 63));
    }

    #[test]
    fn a_run_without_prompts_is_refused() {
        assert!(matches!(synthetic_run(1, 0), Err(Error::Spec(_))));
    }
}
