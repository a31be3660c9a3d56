//! A file's records, as values.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use gavel_core::text;
use serde_json::{Map, Value, json};

use super::error::{Expected, Foreign};
use super::{DataError, Place};

/// How a file writes its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One on each line, as it is.
    Text,
    /// A JSON array, JSON Lines, or an object of named records.
    Json,
    Yaml,
    /// A table with named columns, and what stands between two cells.
    Table(u8),
}

impl Form {
    /// The form that the ending of the file's name says, whatever its case. Without such an ending prompts are text, examples JSON.
    fn of(file: &Path, expected: Expected) -> Self {
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or("");
        match ending.to_ascii_lowercase().as_str() {
            "json" | "jsonl" | "ndjson" => Self::Json,
            "yaml" | "yml" => Self::Yaml,
            "csv" => Self::Table(b','),
            "tsv" | "tab" => Self::Table(b'\t'),
            _ if expected == Expected::Examples => Self::Json,
            _ => Self::Text,
        }
    }
}

/// The records of a file with their places: text, JSON, JSON Lines, YAML, or a table; of a folder, each of its text files as a prompt.
pub(crate) fn records(file: &Path, expected: Expected) -> Result<Vec<(Place, Value)>, DataError> {
    let read = |source| DataError::Read {
        file: file.to_owned(),
        expected,
        source,
    };
    if file.is_dir() && expected == Expected::Prompts {
        return folder(file).map_err(read);
    }
    let bytes = std::fs::read(file).map_err(read)?;
    let foreign = |form| DataError::Foreign {
        file: file.to_owned(),
        expected,
        form,
    };
    if let Some(form) = Foreign::of(&bytes) {
        return Err(foreign(form));
    }
    let text = text::of(Ok(bytes)).map_err(read)?;
    let whole = |parsed: Parsed| whole(file, expected, parsed);
    match Form::of(file, expected) {
        Form::Text => match disguised(&text) {
            Some(form) => Err(foreign(form)),
            None => Ok(prompts(&text)),
        },
        Form::Json if text.trim_start().starts_with('[') => whole(serde_json::from_str(&text).map_err(Into::into)),
        Form::Json => match dictionary(&text) {
            Some(records) => whole(Ok(records)),
            None => lines(file, expected, &text),
        },
        Form::Yaml => whole(serde_saphyr::from_str(&text).map_err(Into::into)),
        Form::Table(_) if expected == Expected::Examples => Err(foreign(Foreign::Table)),
        Form::Table(delimiter) => table(&text, delimiter).map_err(|source| DataError::Syntax {
            file: file.to_owned(),
            expected,
            source,
        }),
    }
}

/// Each text file of a folder as a prompt, by name; the name without its ending is the prompt's `id`.
fn folder(folder: &Path) -> io::Result<Vec<(Place, Value)>> {
    let entries = folder.read_dir()?.map(|entry| entry.map(|entry| entry.path()));
    let mut files: Vec<PathBuf> = entries.collect::<io::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    let record = |(index, file): (usize, &PathBuf)| {
        let words = text::of(std::fs::read(file))?;
        let id = file.file_stem().unwrap_or_default().to_string_lossy();
        Ok((Place { index, line: None }, json!({ "prompt": words.trim(), "id": id })))
    };
    files.iter().enumerate().map(record).collect()
}

type Fault = Box<dyn std::error::Error + Send + Sync>;
type Parsed = Result<Vec<Value>, Fault>;

fn whole(file: &Path, expected: Expected, parsed: Parsed) -> Result<Vec<(Place, Value)>, DataError> {
    let records = parsed.map_err(|source| DataError::Syntax {
        file: file.to_owned(),
        expected,
        source,
    })?;
    let place = |(index, value)| (Place { index, line: None }, value);
    Ok(records.into_iter().enumerate().map(place).collect())
}

/// The lines of a text. None before the last may be empty: a prompt's place in the file decides its noise.
fn prompts(text: &str) -> Vec<(Place, Value)> {
    let line = |(index, line): (usize, &str)| {
        let place = Place {
            index,
            line: Some(index + 1),
        };
        (place, Value::String(line.to_owned()))
    };
    text.trim_end().lines().enumerate().map(line).collect()
}

/// What a text is whose first line is no prompt.
fn disguised(text: &str) -> Option<Foreign> {
    let is_record = |line: &str| serde_json::from_str::<Map<String, Value>>(line).is_ok();
    let is_list = |text: &str| text.trim_start().starts_with('[') && serde_json::from_str::<Vec<Value>>(text).is_ok();
    (text.lines().next().is_some_and(is_record) || is_list(text)).then_some(Foreign::NamelessJson)
}

/// The records of an object that has each under its name, as some sets are published. The name becomes the field `id` of a record without one.
fn dictionary(text: &str) -> Option<Vec<Value>> {
    let named: Map<String, Value> = serde_json::from_str(text).ok()?;
    if named.is_empty() || !named.values().all(Value::is_object) {
        return None;
    }
    let record = |(name, mut record): (String, Value)| {
        if let Value::Object(fields) = &mut record {
            fields.entry("id").or_insert(Value::String(name));
        }
        record
    };
    Some(named.into_iter().map(record).collect())
}

fn lines(file: &Path, expected: Expected, text: &str) -> Result<Vec<(Place, Value)>, DataError> {
    let mut records = Vec::new();
    for (line, text) in text.lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let place = Place {
            index: records.len(),
            line: Some(line + 1),
        };
        let value = serde_json::from_str(text).map_err(|source| DataError::Record {
            file: file.to_owned(),
            place,
            expected,
            source: Some(source),
        })?;
        records.push((place, value));
    }
    Ok(records)
}

/// The rows of a table below its line of names; an empty cell is an absent field.
fn table(text: &str, delimiter: u8) -> Result<Vec<(Place, Value)>, Fault> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(text.as_bytes());
    let columns: Vec<String> = reader.headers()?.iter().map(|name| name.trim().to_owned()).collect();
    let mut distinct = BTreeSet::new();
    if let Some(twice) = columns.iter().find(|name| !distinct.insert(*name)) {
        return Err(format!("two columns are called `{twice}`").into());
    }
    let mut records = Vec::new();
    let mut spans_lines = false;
    for (index, row) in reader.records().enumerate() {
        let row = row?;
        spans_lines = row.iter().any(|cell| cell.contains('\n'));
        let line = row.position().map(|position| position.line() as usize);
        let cells = columns.iter().zip(&row).filter(|(_, cell)| !cell.trim().is_empty());
        let fields: Map<String, Value> = cells
            .map(|(name, cell)| (name.clone(), Value::String(cell.to_owned())))
            .collect();
        records.push((Place { index, line }, Value::Object(fields)));
    }
    // An open quotation mark makes one cell of the rest of the file.
    if spans_lines && !text.matches('"').count().is_multiple_of(2) {
        return Err("a cell begins with a quotation mark that nothing closes".into());
    }
    Ok(records)
}
