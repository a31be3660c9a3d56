//! Tasks: the prompts of a text-to-image run, and the edits of an editing run.
//!
//! A text file has a prompt on each line. Records name their words and pictures as the common public sets do.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::Expected;
use super::file;
use super::record::{Fault, Record, of_type};
use super::{DataError, Picture, Place, ReadOptions, RecordFault};

/// Words under any of the names that sets give them.
const WORDS: &[&str] = &["prompt", "instruction", "query", "edit_instruction", "edit_prompt"];
/// Words under names that say something else beside one of [`WORDS`].
const LOOSE_WORDS: &[&str] = &["text", "caption"];
/// Both.
const ALL_WORDS: &[&str] = &[
    "prompt",
    "instruction",
    "query",
    "edit_instruction",
    "edit_prompt",
    "text",
    "caption",
];
const SOURCES: &[&str] = &[
    "source",
    "sources",
    "source_image",
    "source_images",
    "source_img",
    "base_image",
    "original_image",
    "input_image",
    "input_images",
    "reference_image",
    "reference_images",
    "ref_image",
];
/// What a record is called by.
const ID: &str = "id";
/// Endings of pictures' files.
const PICTURES: &[&str] = &["png", "jpg", "jpeg", "webp"];
const TARGET: &[&str] = &["target", "target_image", "target_img"];
const MASK: &[&str] = &["mask", "mask_image", "mask_img"];

/// One task of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// Where it stands in its file.
    pub place: Place,
    /// The prompt, or the instruction of an edit.
    pub words: String,
    /// The pictures to edit, in the order in which the model takes them; empty for a prompt.
    pub sources: Vec<Picture>,
    /// What the edit should come to, where somebody made it.
    pub target: Option<Picture>,
    /// What the edit may change, white on black, of the first source's size.
    pub mask: Option<Picture>,
    /// Every other field of the record.
    pub fields: Map<String, Value>,
}

/// Reads the tasks of a text file, of JSON, JSON Lines, YAML or a table (CSV, TSV), with their pictures; prompts of a folder of text files too. `edits`: each task edits source pictures; else
/// none does.
///
/// # Errors
/// [`DataError`], which names file, record and field.
pub fn read(file: &Path, edits: bool, options: &ReadOptions<'_>) -> Result<Vec<TaskRecord>, DataError> {
    let expected = if edits { Expected::Edits } else { Expected::Prompts };
    let records = file::records(file, expected)?;
    if records.is_empty() {
        return Err(DataError::Empty {
            file: file.to_owned(),
            expected,
        });
    }
    let task = |(place, value)| {
        let record = match value {
            // A prompt may stand by itself.
            Value::String(words) => Value::Object(Map::from_iter([(WORDS[0].to_owned(), Value::String(words))])),
            value => value,
        };
        let record = Record::new(file, place, record, expected, options)?;
        record.task(place, edits).map_err(|(field, fault)| DataError::Field {
            file: file.to_owned(),
            place,
            field,
            fault: Box::new(fault),
        })
    };
    records.into_iter().map(task).collect()
}

impl Record<'_> {
    fn task(mut self, place: Place, edits: bool) -> Result<TaskRecord, Fault> {
        let words_names = self.words_names()?;
        let words = self.text(words_names)?;
        let sources = self.source_pictures(edits)?;
        let target = self.one_picture(TARGET)?;
        let mask = self.one_picture(MASK)?;
        if let (Some((name, mask)), Some(source)) = (&mask, sources.first()) {
            same_size(name, mask, source)?;
        }
        for name in [words_names, SOURCES, TARGET, MASK].into_iter().flatten() {
            self.fields.shift_remove(*name);
        }
        Ok(TaskRecord {
            place,
            words,
            sources,
            target: target.map(|(_, picture)| picture),
            mask: mask.map(|(_, picture)| picture),
            fields: self.fields,
        })
    }

    /// The names among which the record's words stand.
    fn words_names(&self) -> Result<&'static [&'static str], Fault> {
        for names in [WORDS, LOOSE_WORDS] {
            if self.optional(names)?.is_some() {
                return Ok(names);
            }
        }
        Err((WORDS[0].to_owned(), RecordFault::Missing { names: ALL_WORDS }))
    }

    fn source_pictures(&self, edits: bool) -> Result<Vec<Picture>, Fault> {
        match (edits, self.optional(SOURCES)?) {
            (false, None) => Ok(Vec::new()),
            (false, Some((name, _))) => Err((name.to_owned(), RecordFault::Unedited)),
            (true, None) => match self.pictured_id() {
                Some(source) => Ok(vec![self.picture(ID, source)?]),
                None => Err((SOURCES[0].to_owned(), RecordFault::Missing { names: SOURCES })),
            },
            (true, Some((name, value))) => {
                let sources = Self::sources(name, value)?;
                if sources.is_empty() {
                    return Err(of_type(name, "a path, or a list of at least one"));
                }
                let pictures = sources.iter().map(|(name, source)| self.picture(name, source));
                pictures.collect()
            }
        }
    }

    /// The picture that a record is called by, as ImgEdit's are.
    fn pictured_id(&self) -> Option<&str> {
        let id = self.fields.get(ID)?.as_str()?;
        let ending = Path::new(id).extension()?.to_str()?.to_ascii_lowercase();
        PICTURES.contains(&ending.as_str()).then_some(id)
    }

    fn one_picture(&self, names: &'static [&'static str]) -> Result<Option<(&'static str, Picture)>, Fault> {
        match self.optional(names)? {
            None => Ok(None),
            Some((name, Value::String(source))) => Ok(Some((name, self.picture(name, source)?))),
            Some((name, _)) => Err(of_type(name, "a path, an address or a data URL")),
        }
    }
}

fn same_size(name: &str, picture: &Picture, source: &Picture) -> Result<(), Fault> {
    let ((width, height), (source_width, source_height)) = (picture.image().dimensions(), source.image().dimensions());
    if (width, height) == (source_width, source_height) {
        return Ok(());
    }
    let fault = RecordFault::Size {
        width,
        height,
        source_width,
        source_height,
    };
    Err((name.to_owned(), fault))
}

#[cfg(test)]
mod tests {
    use gavel_core::Hint as _;
    use image::{Rgb, RgbImage};
    use serde_json::json;

    use super::*;

    fn read_in(folder: &Path, name: &str, text: &str, edits: bool) -> Result<Vec<TaskRecord>, String> {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        let told = |error: DataError| {
            let hint = error.hint().unwrap_or_default();
            format!("{error}; {hint}").replace(&format!("{}/", folder.display()), "")
        };
        read(&file, edits, &ReadOptions::local()).map_err(told)
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in [("a.png", 2), ("b.png", 2), ("large.png", 3)] {
            RgbImage::from_pixel(size, 2, Rgb([9, 8, 7]))
                .save(folder.path().join(name))
                .unwrap();
        }
        folder
    }

    #[test]
    fn every_form_gives_the_same_prompts() {
        let folder = folder();
        let words = |name: &str, text: &str| -> Vec<String> {
            let tasks = read_in(folder.path(), name, text, false).unwrap();
            tasks.into_iter().map(|task| task.words).collect()
        };
        let expected = ["a cat", "a dog"];
        assert_eq!(words("p.txt", "\u{feff}a cat\r\n a dog\n"), expected);
        assert_eq!(
            words("p.jsonl", "{\"prompt\": \"a cat\"}\n{\"query\": \"a dog\"}\n"),
            expected
        );
        assert_eq!(words("p.json", "[\"a cat\", {\"instruction\": \"a dog\"}]"), expected);
        assert_eq!(words("p.yaml", "- a cat\n- prompt: a dog\n"), expected);
        assert_eq!(
            words("p.JSONL", "{\"prompt\": \"a cat\"}\n{\"text\": \"a dog\"}\n"),
            expected
        );
        assert_eq!(
            words("p.Json", "\u{feff}[{\"caption\": \"a cat\"}, \"a dog\"]"),
            expected
        );
        assert_eq!(words("p.csv", "id,prompt\n1,a cat\n\n2,\" a dog\"\n"), expected);
        assert_eq!(words("p.CSV", "\u{feff}prompt\r\na cat\r\na dog\r\n"), expected);
        assert_eq!(words("p.tsv", "weight\tcaption\n1\ta cat\n2\ta dog\n"), expected);
        assert_eq!(
            words("p.txt", "a cat\na dog\n\n \n"),
            expected,
            "blank lines at the end"
        );
    }

    #[test]
    fn a_folder_of_texts_has_a_prompt_in_each_by_name() {
        let folder = folder();
        let texts = folder.path().join("prompts");
        std::fs::create_dir(&texts).unwrap();
        for (name, text) in [
            ("b1.txt", "\u{feff}a dog\r\n"),
            ("a.txt", "a cat,\nasleep"),
            ("notes.md", "none"),
        ] {
            std::fs::write(texts.join(name), text).unwrap();
        }
        let read = || read(&texts, false, &ReadOptions::local());
        let found: Vec<(String, Value)> = read()
            .unwrap()
            .into_iter()
            .map(|task| (task.words, task.fields["id"].clone()))
            .collect();
        let expected = [("a cat,\nasleep", "a"), ("a dog", "b1")].map(|(words, id)| (words.to_owned(), json!(id)));
        assert_eq!(found, expected);
        std::fs::write(texts.join("c.txt"), "").unwrap();
        assert!(read().unwrap_err().to_string().contains("record 2: `prompt` is empty"));
        std::fs::remove_dir_all(&texts).unwrap();
        std::fs::create_dir(&texts).unwrap();
        assert!(matches!(read(), Err(DataError::Empty { .. })));
    }

    #[test]
    fn an_edit_is_read_from_a_table() {
        let folder = folder();
        let tasks = read_in(
            folder.path(),
            "e.csv",
            "instruction,source_image,mask\nbluer,a.png,\n",
            true,
        )
        .unwrap();
        assert_eq!((tasks[0].words.as_str(), tasks[0].sources.len()), ("bluer", 1));
        assert!(tasks[0].mask.is_none());
    }

    #[test]
    fn an_object_of_named_records_is_read_in_its_order() {
        let folder = folder();
        let text = json!({
            "b1": {"edit_prompt": "make it red", "source": "a.png", "edit_type": "alter"},
            "a2": {"edit_prompt": "remove it", "source": "b.png", "id": 7},
        });
        let tasks = read_in(folder.path(), "e.json", &text.to_string(), true).unwrap();
        assert_eq!([&*tasks[0].words, &*tasks[1].words], ["make it red", "remove it"]);
        assert_eq!(tasks[0].fields["id"], "b1");
        assert_eq!(tasks[1].fields["id"], 7);
    }

    #[test]
    fn an_edit_has_sources_under_every_name_and_keeps_its_other_fields() {
        let folder = folder();
        for name in SOURCES {
            let record = json!([{"instruction": "bluer", *name: ["a.png", "large.png"], "target": "b.png", "mask": "b.png", "task_type": "colour"}]);
            let tasks = read_in(folder.path(), "e.json", &record.to_string(), true).unwrap();
            let sizes: Vec<u32> = tasks[0].sources.iter().map(|source| source.image().width()).collect();
            assert_eq!(sizes, [2, 3], "{name}");
            assert!(tasks[0].target.is_some() && tasks[0].mask.is_some());
            assert_eq!(Value::Object(tasks[0].fields.clone()), json!({"task_type": "colour"}));
        }
        // Where nothing else names a picture, the record's id may, as in ImgEdit.
        let by_id = json!({"1082": {"id": "a.png", "prompt": "bluer", "edit_type": "alter"}, "b": {"id": "7", "prompt": "redder", "source": "b.png"}});
        let tasks = read_in(folder.path(), "e.json", &by_id.to_string(), true).unwrap();
        assert_eq!((tasks[0].sources.len(), &tasks[0].fields["id"]), (1, &json!("a.png")));
        let without = json!([{"id": "7", "prompt": "bluer"}]).to_string();
        assert!(read_in(folder.path(), "e.json", &without, true).is_err());
        let one = read_in(
            folder.path(),
            "e.jsonl",
            r#"{"prompt": "bluer", "source": "a.png"}"#,
            true,
        )
        .unwrap();
        assert_eq!(one[0].sources.len(), 1);
    }

    #[test]
    fn faults_name_the_record_and_the_field() {
        let folder = folder();
        let png = std::fs::read(folder.path().join("a.png")).unwrap();
        std::fs::write(folder.path().join("cut.png"), &png[..png.len() / 2]).unwrap();
        std::fs::write(folder.path().join("nothing.png"), []).unwrap();
        let edit = |value: Value| json!([{"instruction": "bluer", "source": value}]).to_string();
        let cases = [
            (
                "p.txt",
                "a cat\n\na dog\n".to_owned(),
                false,
                "record 1 (line 2): `prompt` is empty",
            ),
            ("p.txt", String::new(), false, "p.txt: no prompt"),
            ("p.json", "[]".into(), false, "p.json: no prompt"),
            ("p.json", "[1]".into(), false, "record 0 is no prompt"),
            (
                "p.jsonl",
                "{\"words\": 1}".into(),
                false,
                "record 0 (line 1): `prompt` is missing",
            ),
            (
                "p.jsonl",
                "{\"text\": 1}".into(),
                false,
                "record 0 (line 1): `text` must be a text",
            ),
            (
                "p.csv",
                "id,words\n1,a cat\n".into(),
                false,
                "record 0 (line 2): `prompt` is missing; add `prompt` (also accepted: `instruction`, `query`,",
            ),
            (
                "p.csv",
                "prompt,prompt\na,b\n".into(),
                false,
                "p.csv: not a list of prompts",
            ),
            (
                "p.csv",
                "prompt\n\"a, b\nc\n".into(),
                false,
                "p.csv: not a list of prompts",
            ),
            (
                "p.txt",
                "{\"prompt\": \"a cat\"}\n".into(),
                false,
                "the prompts are JSON",
            ),
            ("p", "[\"a cat\"]\n".into(), false, "name it with .jsonl"),
            (
                "p.PARQUET",
                "PAR1....".into(),
                false,
                "the prompts are a Parquet file; convert it: python",
            ),
            ("p.xlsx", "PK\u{3}\u{4}".into(), false, "save it as CSV"),
            (
                "p.jsonl",
                "{\"prompt\": \"a\", \"query\": \"b\"}".into(),
                false,
                "`query` stands beside `prompt`",
            ),
            ("p.jsonl", "\"a\"\n{".into(), false, "record 1 (line 2) is no prompt"),
            (
                "p.json",
                edit(json!("a.png")),
                false,
                "`source` names a source picture, and nothing is edited here",
            ),
            (
                "e.txt",
                "make it blue\n".into(),
                true,
                "record 0 (line 1): `source` is missing",
            ),
            (
                "e.json",
                edit(json!([])),
                true,
                "`source` must be a path, or a list of at least one",
            ),
            ("e.json", edit(json!(["a.png", 7])), true, "`source[1]` must be a path"),
            (
                "e.json",
                edit(json!("none.png")),
                true,
                "`source` names none.png, which cannot be read",
            ),
            ("e.json", edit(json!("nothing.png")), true, "`source` is an empty file"),
            (
                "e.json",
                edit(json!("cut.png")),
                true,
                "`source` is no picture that can be read",
            ),
            (
                "e.json",
                json!([{"instruction": "x", "source": "a.png", "mask": "large.png"}]).to_string(),
                true,
                "`mask` has 3 x 2 pixels, its source 2 x 2",
            ),
        ];
        for (name, text, edits, message) in cases {
            let told = read_in(folder.path(), name, &text, edits).unwrap_err();
            assert!(told.contains(message), "{told}, not {message}");
        }
    }
}
