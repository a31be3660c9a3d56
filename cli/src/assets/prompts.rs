//! The tasks of a run, from its prompt files.

use std::collections::BTreeMap;
use std::path::Path;

use gavel_core::work::Task;
use gavel_rubric::data::{DataError, ReadOptions, tasks};

use super::Pictures;
use crate::fetch::fetch;

/// The tasks of a file.
pub(super) struct Prompts {
    pub(super) tasks: Vec<Task>,
    /// The fields that nothing reads, each with the number of records that have it.
    unread: BTreeMap<String, usize>,
}

impl Prompts {
    /// What the user should know of the file that `key` names.
    pub(super) fn notice(&self, key: &str) -> Option<String> {
        let fields = self.unread.iter().map(|(field, count)| format!("`{field}` ({count})"));
        let fields: Vec<String> = fields.collect();
        let told = format!(
            "`{key}`: fields that nothing reads, with their number of records: {}",
            fields.join(", ")
        );
        (!fields.is_empty()).then_some(told)
    }
}

/// Reads the tasks of a file, and the pictures that they edit into `pictures`. `edits`: the run's family edits source pictures.
///
/// # Errors
/// [`DataError`], which names file, record and field.
pub(super) fn read(file: &Path, edits: bool, pictures: &mut Pictures) -> Result<Prompts, DataError> {
    let options = ReadOptions {
        fetch: &fetch,
        ..ReadOptions::local()
    };
    let records = tasks::read(file, edits, &options)?;
    let unread = tasks::unread_fields(&records);
    let unread = unread
        .into_iter()
        .map(|(field, count)| (field.to_owned(), count))
        .collect();
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
    Ok(Prompts {
        unread,
        tasks: records.into_iter().map(task).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_picture_of_many_tasks_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.jsonl");
        let line =
            |words: &str| format!("{{\"instruction\": \"{words}\", \"source_image\": \"a.png\", \"weight\": 1}}\n");
        std::fs::write(&file, line("make it blue") + &line("make it red")).unwrap();
        image::RgbImage::new(2, 2).save(folder.path().join("a.png")).unwrap();
        let mut pictures = Pictures::new();
        let prompts = read(&file, true, &mut pictures).unwrap();
        assert!(prompts.notice("prompts.train").unwrap().ends_with("`weight` (2)"));
        let tasks = prompts.tasks;
        assert_eq!([&*tasks[0].words, &*tasks[1].words], ["make it blue", "make it red"]);
        assert_eq!(tasks[0].sources, tasks[1].sources);
        assert!(pictures.keys().eq(&tasks[0].sources));
    }
}
