//! What an evaluation looks at before anything is painted, so that no work is lost to what could be known.

use std::path::Path;

use gavel_core::spec::RunSpec;
use gavel_models::Family;
use gavel_rubric::data::tasks::TaskRecord;

use crate::assets;
use crate::diagnostic::Result;
use crate::{output, preflight};

/// The model of the configuration can paint these prompts, which stand in `file`.
pub(super) fn painted(spec: &RunSpec, file: &Path, tasks: &[TaskRecord]) -> Result<()> {
    assets::check_model_folder(spec)?;
    let model = Family::from_name(spec.model.family.as_str())?.inspect(&spec.model.path)?;
    let key = file.display().to_string();
    preflight::size(spec, model.as_ref())?;
    preflight::source_counts(model.as_ref(), &key, tasks.iter().map(|task| task.sources.len()))?;
    let words: Vec<&str> = tasks.iter().map(|task| task.words.as_str()).collect();
    if let Some(notice) = preflight::too_long(spec, model.as_ref(), &key, &words)? {
        output::note(notice);
    }
    Ok(())
}

/// The folders and devices of all that is asked: the judge, and the members of an ensemble.
pub(super) fn hosted(spec: &RunSpec) -> Result<()> {
    preflight::judges(&asked(spec)).map(drop)
}

/// The servers of all that is asked answer, and take the key.
pub(super) fn servers(spec: &RunSpec) -> Result<()> {
    preflight::endpoints(&asked(spec)).map(drop)
}

/// The judge alone: nobody watches it here, and nobody writes for it.
fn asked(spec: &RunSpec) -> RunSpec {
    let mut spec = spec.clone();
    (spec.judge.held_out, spec.judge.writer) = (None, None);
    spec
}
