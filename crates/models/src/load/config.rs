//! JSON files of a model folder.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;

use super::LoadError;

/// Reads `config.json` or another JSON file of a model folder; keys that `T` does not name are ignored.
///
/// # Errors
/// [`LoadError::FileMissing`] and [`LoadError::Read`] for the file, [`LoadError::Config`] with the path of the offending
/// key for its content: no JSON, a key missing, a value of another type.
pub fn read_config<T: DeserializeOwned>(file: &Path) -> Result<T, LoadError> {
    let text = fs::read_to_string(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LoadError::FileMissing { file: file.to_owned() },
        _ => LoadError::Read {
            file: file.to_owned(),
            source,
        },
    })?;
    let deserializer = &mut serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(deserializer).map_err(|error| LoadError::Config {
        file: file.to_owned(),
        key: error.path().to_string(),
        source: error.into_inner(),
    })
}

/// Reads a JSON file whose keys depend on the release that wrote it.
///
/// # Errors
/// As [`read_config`].
pub fn read_json(file: &Path) -> Result<serde_json::Value, LoadError> {
    read_config(file)
}
