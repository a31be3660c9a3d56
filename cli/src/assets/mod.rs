//! The files that a configuration names, read and checked before anything starts.

mod labelled;
mod prompts;

use std::path::Path;

use anyhow::Context as _;
use gavel_core::spec::{EvaluatorName, RunSpec};
use gavel_core::{RubricText, RunAssets};
use gavel_eval::Evaluator;
use gavel_rubric::{JudgeTemplate, RubricSet};

use crate::fault::Fault;

/// A run's files. `labelled_images` are the pictures that `assets.labelled` names by hash; they have to be stored as blobs.
pub(crate) struct Files {
    pub(crate) assets: RunAssets,
    pub(crate) labelled_images: Vec<Vec<u8>>,
}

/// Reads every file but the model folders.
///
/// # Errors
/// The first file that cannot be used, with the line or key.
pub(crate) fn read(spec: &RunSpec) -> anyhow::Result<Files> {
    let prompts = prompts::read(&spec.prompts.train).context("`prompts.train` cannot be used")?;
    let held_out = match &spec.prompts.held_out {
        Some(file) => prompts::read(file).context("`prompts.held_out` cannot be used")?,
        None => Vec::new(),
    };
    if let Some(evaluator) = evaluator(spec) {
        for prompt in &held_out {
            evaluator
                .check_prompt(prompt)
                .context("`prompts.held_out` cannot be used")?;
        }
    }
    let rubric = RubricSet::load(&spec.judge.rubric)?;
    JudgeTemplate::load(&spec.judge.template)?;
    let template = read_text(&spec.judge.template)?;
    let labelled = match spec
        .evaluation
        .as_ref()
        .and_then(|evaluation| evaluation.labelled.as_ref())
    {
        Some(file) => labelled::read(file).context("`evaluation.labelled` cannot be used")?,
        None => labelled::Labelled::default(),
    };
    let rubric = RubricText::new(rubric.text());
    let assets = RunAssets {
        prompts,
        held_out,
        rubric,
        template,
        labelled: labelled.pairs,
    };
    Ok(Files {
        assets,
        labelled_images: labelled.images,
    })
}

/// Says whether the model folders are there, by the files that each must have.
///
/// # Errors
/// The first that is not a model folder of its kind.
pub(crate) fn check_folders(spec: &RunSpec) -> Result<(), Fault> {
    model_folder(&spec.model.path, "model.path", "model_index.json")?;
    model_folder(&spec.judge.path, "judge.path", "config.json")
}

fn model_folder(folder: &Path, key: &str, marker: &str) -> Result<(), Fault> {
    if !folder.is_dir() {
        return Err(Fault::new(format!("`{key}`: there is no folder {}", folder.display()))
            .with_hint("download the model, or correct the path; it is relative to the current folder or to the configuration file"));
    }
    if !folder.join(marker).is_file() {
        return Err(Fault::new(format!("`{key}`: {} holds no {marker}", folder.display()))
            .with_hint(format!("name the folder that has {marker} at its root")));
    }
    Ok(())
}

/// The evaluator that `evaluation.evaluator` names.
pub(crate) fn evaluator(spec: &RunSpec) -> Option<Box<dyn Evaluator>> {
    match spec.evaluation.as_ref()?.evaluator? {
        EvaluatorName::Scenes => Some(Box::new(gavel_eval::Scenes)),
    }
}

fn read_text(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))
}
