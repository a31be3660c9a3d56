//! A file's records, as values.

use std::path::Path;

use serde_json::Value;

use super::error::Expected;
use super::{DataError, Place};

/// A file's text.
pub(crate) fn text(file: &Path, expected: Expected) -> Result<String, DataError> {
    let mut text = std::fs::read_to_string(file).map_err(|source| DataError::Read {
        file: file.to_owned(),
        expected,
        source,
    })?;
    // Editors on some systems begin a file with a byte-order mark.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// The records of a JSON, JSON Lines or YAML file with their places.
pub(crate) fn records(file: &Path, expected: Expected) -> Result<Vec<(Place, Value)>, DataError> {
    let text = text(file, expected)?;
    if has_extension(file, &["yaml", "yml"]) {
        let parsed = serde_saphyr::from_str::<Vec<Value>>(&text).map_err(Into::into);
        whole(file, expected, parsed)
    } else if text.trim_start().starts_with('[') {
        whole(
            file,
            expected,
            serde_json::from_str::<Vec<Value>>(&text).map_err(Into::into),
        )
    } else {
        lines(file, expected, &text)
    }
}

/// Whether the file's name ends in one of these, whatever their case.
pub(crate) fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    let found = file.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension))
}

type Parsed = Result<Vec<Value>, Box<dyn std::error::Error + Send + Sync>>;

fn whole(file: &Path, expected: Expected, parsed: Parsed) -> Result<Vec<(Place, Value)>, DataError> {
    let records = parsed.map_err(|source| DataError::Syntax {
        file: file.to_owned(),
        expected,
        source,
    })?;
    let place = |(index, value)| (Place { index, line: None }, value);
    Ok(records.into_iter().enumerate().map(place).collect())
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
