//! Prompt files: a prompt on each line, JSON Lines, or a JSON array.

use std::path::Path;

use serde_json::Value;

use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::files::read_text;

/// Reads the prompts of a `.jsonl`, `.json` or text file.
///
/// # Errors
/// The file cannot be read, a line is empty or wrong (with its number), or there is no prompt at all.
pub(super) fn read(file: &Path) -> Result<Vec<String>> {
    let text = read_text(file).with_context(|| {
        Diagnostic::new("the prompt file is missing").with_hint("a text file with one prompt on each line")
    })?;
    parse(&text, file)
}

fn parse(text: &str, file: &Path) -> Result<Vec<String>> {
    let prompts = match file.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => numbered(text, file, |line| object(&json(line)?))?,
        Some("json") => array(text, file)?,
        _ => numbered(text, file, |line| Ok(line.to_owned()))?,
    };
    if prompts.is_empty() {
        return Err(Diagnostic::new(format!("{}: there is no prompt in it", file.display()))
            .with_hint("write one prompt on each line"));
    }
    Ok(prompts)
}

fn numbered(text: &str, file: &Path, read: impl Fn(&str) -> Result<String, String>) -> Result<Vec<String>> {
    let mut prompts = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let prompt = if line.trim().is_empty() {
            Err("is empty".to_owned())
        } else {
            read(line.trim())
        };
        let fault = |problem: String| {
            Diagnostic::new(format!("{}: line {} {problem}", file.display(), index + 1))
                .with_hint("correct or remove the line; a prompt's place in the file decides its noise")
        };
        prompts.push(prompt.map_err(fault)?);
    }
    Ok(prompts)
}

fn array(text: &str, file: &Path) -> Result<Vec<String>> {
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

/// The text itself, or the field `prompt` or `query`.
fn object(value: &Value) -> Result<String, String> {
    let text = match value {
        Value::String(text) => Some(text),
        Value::Object(fields) => match fields.get("prompt").or_else(|| fields.get("query")) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        },
        _ => None,
    };
    match text {
        Some(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Some(_) => Err("has an empty prompt".to_owned()),
        None => Err("has no text in `prompt` or `query`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str) -> Result<Vec<String>, String> {
        parse(text, Path::new(name)).map_err(|fault| fault.to_string())
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
}
