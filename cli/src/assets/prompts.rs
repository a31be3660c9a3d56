//! The tasks of a run, from its prompt files.

use std::collections::BTreeMap;
use std::path::Path;

use gavel_core::Annotation;
use gavel_core::ids::PromptIndex;
use gavel_core::work::Task;
use gavel_rubric::data::{DataError, Picture, ReadOptions, Transparency, tasks};

use super::Pictures;
use crate::fetch::fetch;

/// The tasks of one file, and what people gave along with them.
#[derive(Default)]
pub(super) struct Prompts {
    pub(super) tasks: Vec<Task>,
    pub(super) annotations: BTreeMap<PromptIndex, Annotation>,
}

/// Reads the tasks of a file, and all their pictures into `pictures`. `edits`: the run's family edits source pictures.
///
/// # Errors
/// [`DataError`], which names file, record and field.
pub(super) fn read(file: &Path, edits: bool, pictures: &mut Pictures) -> Result<Prompts, DataError> {
    let options = ReadOptions {
        fetch: &fetch,
        transparency: Transparency::Dropped,
        ..ReadOptions::local()
    };
    let mut store = |picture: Picture| {
        pictures.insert(picture.digest, picture.encoded);
        picture.digest
    };
    let mut prompts = Prompts::default();
    for (index, record) in (0..).map(PromptIndex).zip(tasks::read(file, edits, &options)?) {
        let given = Annotation {
            target: record.target.map(&mut store),
            mask: record.mask.map(&mut store),
            fields: record.fields,
        };
        if !given.is_empty() {
            prompts.annotations.insert(index, given);
        }
        prompts.tasks.push(Task {
            words: record.words,
            sources: record.sources.into_iter().map(&mut store).collect(),
        });
    }
    Ok(prompts)
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
        let Prompts { tasks, annotations } = read(&file, true, &mut pictures).unwrap();
        assert_eq!([&*tasks[0].words, &*tasks[1].words], ["make it blue", "make it red"]);
        assert_eq!(tasks[0].sources, tasks[1].sources);
        assert!(pictures.keys().eq(&tasks[0].sources));
        assert!(annotations.is_empty());
    }

    #[test]
    fn what_people_gave_along_with_a_task_is_kept_with_its_pictures() {
        let folder = tempfile::tempdir().unwrap();
        for (name, level) in [("a.png", 0), ("b.png", 90), ("m.png", 255)] {
            let picture = image::RgbImage::from_pixel(2, 2, image::Rgb([level; 3]));
            picture.save(folder.path().join(name)).unwrap();
        }
        let file = folder.path().join("p.jsonl");
        let lines = r#"{"instruction": "make it red", "source": "a.png"}
{"instruction": "make it blue", "source": "a.png", "target": "b.png", "mask": "m.png", "task_type": "colour", "level": 2}
"#;
        std::fs::write(&file, lines).unwrap();
        let mut pictures = Pictures::new();
        let Prompts { tasks, annotations } = read(&file, true, &mut pictures).unwrap();
        assert_eq!(annotations.keys().copied().collect::<Vec<_>>(), [PromptIndex(1)]);
        let given = &annotations[&PromptIndex(1)];
        let all = [tasks[0].sources[0], given.target.unwrap(), given.mask.unwrap()];
        assert_eq!(pictures.len(), 3);
        assert!(all.iter().all(|digest| pictures.contains_key(digest)));
        assert_eq!(
            serde_json::to_string(&given.fields).unwrap(),
            r#"{"task_type":"colour","level":2}"#
        );
    }
}
