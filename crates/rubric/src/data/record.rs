//! A record's fields, under any of their names.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::Expected;
use super::{DataError, Picture, Place, ReadOptions, RecordFault};

pub(crate) struct Record<'a> {
    pub(crate) fields: Map<String, Value>,
    folder: &'a Path,
    options: &'a ReadOptions<'a>,
}

/// A field's name, and what is wrong with it.
pub(crate) type Fault = (String, RecordFault);

impl<'a> Record<'a> {
    /// Takes a value that must be an object. `file` names the folder that paths are relative to.
    ///
    /// # Errors
    /// [`DataError::Record`].
    pub(crate) fn new(
        file: &'a Path,
        place: Place,
        value: Value,
        expected: Expected,
        options: &'a ReadOptions<'a>,
    ) -> Result<Self, DataError> {
        match value {
            Value::Object(fields) => Ok(Self {
                fields,
                folder: file.parent().unwrap_or(Path::new("")),
                options,
            }),
            _ => Err(DataError::Record {
                file: file.to_owned(),
                place,
                expected,
                source: None,
            }),
        }
    }

    /// The least and greatest score, where a record does not say.
    pub(crate) fn scores(&self) -> Option<(i64, i64)> {
        self.options.scores
    }

    /// The text of the field, trimmed.
    pub(crate) fn text(&self, names: &'static [&'static str]) -> Result<String, Fault> {
        let (name, text) = self.required(names)?;
        match text.as_str().map(str::trim) {
            Some("") => Err((name.to_owned(), RecordFault::Blank)),
            Some(text) => Ok(text.to_owned()),
            None => Err(of_type(name, "a text")),
        }
    }

    /// Where the pictures of a field come from, each with its name; a single one need not be a list.
    pub(crate) fn sources<'v>(name: &str, value: &'v Value) -> Result<Vec<(String, &'v str)>, Fault> {
        const ONE: &str = "a path, an address or a data URL";
        match value {
            Value::String(source) => Ok(vec![(name.to_owned(), source)]),
            Value::Array(sources) => sources
                .iter()
                .enumerate()
                .map(|(index, source)| {
                    let name = format!("{name}[{index}]");
                    match source.as_str() {
                        Some(source) => Ok((name, source)),
                        None => Err((name, RecordFault::Type { expected: ONE })),
                    }
                })
                .collect(),
            _ => Err(of_type(name, "a list of paths, addresses or data URLs")),
        }
    }

    pub(crate) fn picture(&self, name: &str, source: &str) -> Result<Picture, Fault> {
        Picture::read(source, self.folder, self.options).map_err(|fault| (name.to_owned(), fault))
    }

    pub(crate) fn required(&self, names: &'static [&'static str]) -> Result<(&'static str, &Value), Fault> {
        self.optional(names)?
            .ok_or((names[0].to_owned(), RecordFault::Missing { names }))
    }

    /// The field under whichever name it has; `null` is as good as absent.
    pub(crate) fn optional(&self, names: &'static [&'static str]) -> Result<Option<(&'static str, &Value)>, Fault> {
        let mut found = names
            .iter()
            .filter_map(|name| self.fields.get(*name).map(|value| (*name, value)))
            .filter(|(_, value)| !value.is_null());
        match (found.next(), found.next()) {
            (Some((first, _)), Some((second, _))) => Err((
                second.to_owned(),
                RecordFault::Twice {
                    other: first.to_owned(),
                },
            )),
            (first, _) => Ok(first),
        }
    }
}

pub(crate) fn of_type(name: &str, expected: &'static str) -> Fault {
    (name.to_owned(), RecordFault::Type { expected })
}
