//! Prompt files: a prompt on each line, JSON Lines, or a JSON array.

use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::work::Task;
use serde_json::Value;

use super::Pictures;
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
use crate::files::read_text;

/// A prompt as its file gives it.
#[derive(Debug, PartialEq)]
struct Prompt {
    words: String,
    /// Paths of the pictures to be edited, relative to the file.
    sources: Vec<String>,
}

impl Prompt {
    fn of(words: &str) -> Self {
        Self {
            words: words.to_owned(),
            sources: Vec::new(),
        }
    }
}

/// Reads the prompts of a `.jsonl`, `.json` or text file, and the pictures that they edit into `pictures`. `edits`: the run's
/// family edits source pictures.
///
/// # Errors
/// The file cannot be read, a line is empty or wrong (with its number), or there is no prompt at all; a source picture cannot be
/// read, or is given to a family that edits none.
pub(super) fn read(file: &Path, edits: bool, pictures: &mut Pictures) -> Result<Vec<Task>> {
    let text = read_text(file).with_context(|| {
        Diagnostic::new("the prompt file is missing").with_hint("a text file with one prompt on each line")
    })?;
    let prompts = parse(&text, file)?;
    let tasks = (1..).zip(prompts).map(|(number, prompt)| {
        task(prompt, file, edits, pictures).with_context(|| format!("{}: prompt {number}", file.display()))
    });
    tasks.collect()
}

/// Reads a prompt's source pictures.
fn task(prompt: Prompt, file: &Path, edits: bool, pictures: &mut Pictures) -> Result<Task> {
    if !edits && !prompt.sources.is_empty() {
        return Err(
            Diagnostic::new("names source pictures, and the family of `model.family` edits none")
                .with_hint("remove `sources` from the prompt, or choose a family that edits"),
        );
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut task = Task::new(prompt.words);
    for source in prompt.sources {
        let path = folder.join(source);
        let bytes = std::fs::read(&path)
            .foreign()
            .with_context(|| format!("{}: cannot read", path.display()))?;
        image::load_from_memory(&bytes)
            .foreign()
            .with_context(|| format!("{}: is no picture", path.display()))?;
        let digest = Digest::of(&bytes);
        pictures.insert(digest, bytes);
        task.sources.push(digest);
    }
    Ok(task)
}

fn parse(text: &str, file: &Path) -> Result<Vec<Prompt>> {
    let prompts = match file.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => numbered(text, file, |line| object(&json(line)?))?,
        Some("json") => array(text, file)?,
        _ => numbered(text, file, |line| Ok(Prompt::of(line)))?,
    };
    if prompts.is_empty() {
        return Err(Diagnostic::new(format!("{}: there is no prompt in it", file.display()))
            .with_hint("write one prompt on each line"));
    }
    Ok(prompts)
}

fn numbered(text: &str, file: &Path, read: impl Fn(&str) -> Result<Prompt, String>) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let prompt = if line.trim().is_empty() {
            Err("is empty".to_owned())
        } else {
            read(line.trim())
        };
        let fault = |problem: String| {
            Diagnostic::new(format!("{}: line {} {problem}", file.display(), index + 1))
                .with_hint("correct or remove the line; a prompt's line in the file decides its noise")
        };
        prompts.push(prompt.map_err(fault)?);
    }
    Ok(prompts)
}

fn array(text: &str, file: &Path) -> Result<Vec<Prompt>> {
    let fault = |problem: String| {
        Diagnostic::new(format!("{}: {problem}", file.display()))
            .with_hint("write [\"a prompt\", ...] or [{\"prompt\": \"...\"}, ...]")
    };
    let Value::Array(entries) = json(text).map_err(|problem| fault(format!("the file {problem}")))? else {
        return Err(fault("not a JSON array".to_owned()));
    };
    let entry = |(index, value): (usize, &Value)| {
        object(value).map_err(|problem| fault(format!("entry {} {problem}", index + 1)))
    };
    entries.iter().enumerate().map(entry).collect()
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("is no valid JSON: {error}"))
}

/// The text itself, or an object: the words in `prompt` or `query`, the pictures to be edited in `sources`, or one in `source`.
fn object(value: &Value) -> Result<Prompt, String> {
    let (words, sources) = match value {
        Value::String(text) => (Some(text), Vec::new()),
        Value::Object(fields) => {
            let words = match fields.get("prompt").or_else(|| fields.get("query")) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            };
            (words, sources(fields.get("sources").or_else(|| fields.get("source")))?)
        }
        _ => (None, Vec::new()),
    };
    match words {
        Some(words) if !words.trim().is_empty() => Ok(Prompt {
            words: words.trim().to_owned(),
            sources,
        }),
        Some(_) => Err("has an empty prompt".to_owned()),
        None => Err("has no text in `prompt` or `query`".to_owned()),
    }
}

fn sources(value: Option<&Value>) -> Result<Vec<String>, String> {
    let paths = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(paths)) => paths.iter().collect(),
        Some(path) => vec![path],
    };
    let path = |path: &Value| match path {
        Value::String(path) => Ok(path.clone()),
        _ => Err("has in `sources` what is no path".to_owned()),
    };
    paths.into_iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str) -> Result<Vec<String>, String> {
        let prompts = parse(text, Path::new(name)).map_err(|fault| fault.to_string())?;
        Ok(prompts.into_iter().map(|prompt| prompt.words).collect())
    }

    #[test]
    fn every_form_gives_the_same_prompts() {
        let expected = Ok(vec!["a cat".to_owned(), "a dog".to_owned()]);
        assert_eq!(check("p.txt", "a cat\na dog\n"), expected);
        assert_eq!(
            check("p.jsonl", "{\"prompt\": \"a cat\"}\n{\"query\": \"a dog\"}\n"),
            expected
        );
        assert_eq!(check("p.json", "[\"a cat\", {\"prompt\": \"a dog\"}]"), expected);
    }

    #[test]
    fn faults_are_named_by_line() {
        for (name, text, message) in [
            ("p.txt", "a cat\n\na dog\n", "p.txt: line 2 is empty"),
            ("p.txt", "", "p.txt: there is no prompt in it"),
            ("p.json", "[]", "p.json: there is no prompt in it"),
            ("p.json", "{}", "p.json: not a JSON array"),
            ("p.json", "[1]", "p.json: entry 1 has no text in `prompt` or `query`"),
            (
                "p.jsonl",
                "{\"text\": 1}",
                "p.jsonl: line 1 has no text in `prompt` or `query`",
            ),
            (
                "p.jsonl",
                "\"a\"\n{",
                "p.jsonl: line 2 is no valid JSON: EOF while parsing an object at line 1 column 1",
            ),
        ] {
            assert_eq!(check(name, text), Err(message.to_owned()));
        }
    }

    #[test]
    fn source_pictures_are_read_beside_the_file_and_refused_where_nothing_is_edited() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.jsonl");
        std::fs::write(
            &file,
            "\"a cat\"\n{\"prompt\": \"make it blue\", \"sources\": [\"a.png\"]}\n",
        )
        .unwrap();
        let refused = read(&file, false, &mut Pictures::new()).unwrap_err();
        let refused = format!("{refused:#}");
        assert!(
            refused.contains("p.jsonl: prompt 2") && refused.contains("`model.family` edits none"),
            "{refused}"
        );
        let missing = read(&file, true, &mut Pictures::new()).unwrap_err();
        assert!(format!("{missing:#}").contains("a.png"), "{missing:#}");

        image::RgbImage::new(2, 2).save(folder.path().join("a.png")).unwrap();
        let mut pictures = Pictures::new();
        let tasks = read(&file, true, &mut pictures).unwrap();
        assert_eq!(tasks[0], Task::new("a cat"));
        assert_eq!(tasks[1].words, "make it blue");
        assert!(pictures.keys().eq(&tasks[1].sources));
    }
}
