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

/// The folders and devices of all that is asked: the judge, the members of an ensemble and, where questions are written, what writes them.
pub(super) fn hosted(spec: &RunSpec, writes: bool) -> Result<()> {
    preflight::judges(&asked(spec, writes)).map(drop)
}

/// The servers of all that is asked answer, and take the key.
pub(super) fn servers(spec: &RunSpec, writes: bool) -> Result<()> {
    preflight::endpoints(&asked(spec, writes)).map(drop)
}

/// The judge, and what writes questions: nobody watches the judge here, and no rubric is written.
fn asked(spec: &RunSpec, writes: bool) -> RunSpec {
    let mut spec = spec.clone();
    spec.judge.held_out = None;
    spec.judge.writer = spec.judge.writer.filter(|_| writes);
    if let Some(writer) = &mut spec.judge.writer {
        writer.embedding = None;
    }
    spec
}
