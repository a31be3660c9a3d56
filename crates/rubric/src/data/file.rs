//! A file's records, as values.

use std::path::Path;

use serde_json::Value;

use super::{DataError, Place};

/// The records of a JSON, JSON Lines or YAML file with their places.
pub(super) fn records(file: &Path) -> Result<Vec<(Place, Value)>, DataError> {
    let text = std::fs::read_to_string(file).map_err(|source| DataError::Read {
        file: file.to_owned(),
        source,
    })?;
    // Editors on some systems begin a file with a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    if ["yaml", "yml"].iter().any(|yaml| extension.eq_ignore_ascii_case(yaml)) {
        whole(file, serde_saphyr::from_str::<Vec<Value>>(text).map_err(Into::into))
    } else if text.trim_start().starts_with('[') {
        whole(file, serde_json::from_str::<Vec<Value>>(text).map_err(Into::into))
    } else {
        lines(file, text)
    }
}

type Parsed = Result<Vec<Value>, Box<dyn std::error::Error + Send + Sync>>;

fn whole(file: &Path, parsed: Parsed) -> Result<Vec<(Place, Value)>, DataError> {
    let records = parsed.map_err(|source| DataError::Syntax {
        file: file.to_owned(),
        source,
    })?;
    let place = |(index, value)| (Place { index, line: None }, value);
    Ok(records.into_iter().enumerate().map(place).collect())
}

fn lines(file: &Path, text: &str) -> Result<Vec<(Place, Value)>, DataError> {
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
            source: Some(source),
        })?;
        records.push((place, value));
    }
    Ok(records)
}
