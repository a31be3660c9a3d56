//! What judge and model have answered, as an evaluation's folder keeps it.

use std::path::{Path, PathBuf};

use gavel_review::evaluate::Shard;
use gavel_rubric::Journal;

use super::super::rubric::now;
use crate::diagnostic::{Diagnostic, Result};

/// How the journals are called: `answers.jsonl` and `answers-2-of-8.jsonl`.
const NAME: &str = "answers";
const ENDING: &str = "jsonl";

/// Opens the journal of the evaluation or of its shard in `folder`, which knows what all the others there hold.
pub(super) fn open(folder: &Path, shard: Option<Shard>) -> Result<Journal> {
    let name = shard.map_or(NAME.to_owned(), |shard| format!("{NAME}-{}", shard.file_name()));
    let own = folder.join(name).with_extension(ENDING);
    let journal = Journal::open(&own, &now())?;
    for other in journals(folder)?.iter().filter(|file| **file != own) {
        journal.recall_from(other)?;
    }
    Ok(journal)
}

/// The journals in a folder, in the order of their names.
fn journals(folder: &Path) -> Result<Vec<PathBuf>> {
    let unread = |error: std::io::Error| Diagnostic::new(format!("{}: cannot be read: {error}", folder.display()));
    let entries = folder.read_dir().map_err(unread)?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(unread)?;
    files.retain(|file| {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        file.extension().is_some_and(|ending| ending == ENDING) && stem.split('-').next() == Some(NAME)
    });
    files.sort();
    Ok(files)
}
