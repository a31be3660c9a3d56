//! The tasks of a run, from its prompt files.

use std::path::Path;

use gavel_core::work::Task;
use gavel_rubric::data::{DataError, ReadOptions, tasks};

use super::Pictures;
use crate::fetch::fetch;

/// Reads the tasks of a file, and the pictures that they edit into `pictures`. `edits`: the run's family edits source pictures.
///
/// # Errors
/// [`DataError`], which names file, record and field.
pub(super) fn read(file: &Path, edits: bool, pictures: &mut Pictures) -> Result<Vec<Task>, DataError> {
    let options = ReadOptions {
        fetch: &fetch,
        ..ReadOptions::local()
    };
    let records = tasks::read(file, edits, &options)?;
    let task = |record: tasks::TaskRecord| {
        let sources = record.sources.into_iter().map(|source| {
            pictures.insert(source.digest, source.encoded);
            source.digest
        });
        Task {
            sources: sources.collect(),
            words: record.words,
        }
    };
    Ok(records.into_iter().map(task).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_picture_of_many_tasks_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.jsonl");
        let line = |words: &str| format!("{{\"instruction\": \"{words}\", \"source_image\": \"a.png\"}}\n");
        std::fs::write(&file, line("make it blue") + &line("make it red")).unwrap();
        image::RgbImage::new(2, 2).save(folder.path().join("a.png")).unwrap();
        let mut pictures = Pictures::new();
        let tasks = read(&file, true, &mut pictures).unwrap();
        assert_eq!([&*tasks[0].words, &*tasks[1].words], ["make it blue", "make it red"]);
        assert_eq!(tasks[0].sources, tasks[1].sources);
        assert!(pictures.keys().eq(&tasks[0].sources));
    }
}
