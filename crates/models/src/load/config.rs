//! JSON files of a model folder.

use std::{fs, io, path::Path};

use gavel_core::text;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::LoadError;

/// More layers, heads, tokens or channels than any model has. Three such numbers multiply without overflow.
const SIZE_MAX: u64 = 1 << 21;

/// Reads a number of a configuration that says how many or how wide: one that is absurd is refused before anything is made of that size.
pub(crate) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    checked_size(u64::deserialize(deserializer)?)
}

/// As [`size`], for a number that may be absent.
pub(crate) fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    Option::deserialize(deserializer)?.map(checked_size).transpose()
}

/// As [`size`], for a list.
pub(crate) fn sizes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    let sizes = Vec::<u64>::deserialize(deserializer)?;
    sizes.into_iter().map(checked_size).collect()
}

/// As [`sizes`], for a list that may be absent.
pub(crate) fn optional_sizes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<usize>>, D::Error> {
    let sizes = Option::<Vec<u64>>::deserialize(deserializer)?;
    sizes
        .map(|sizes| sizes.into_iter().map(checked_size).collect())
        .transpose()
}

fn checked_size<E: serde::de::Error>(size: u64) -> Result<usize, E> {
    match usize::try_from(size) {
        Ok(size) if size as u64 <= SIZE_MAX => Ok(size),
        _ => Err(E::custom(format_args!(
            "{size} is more than any model has, at most {SIZE_MAX}"
        ))),
    }
}

/// Refuses numbers of `file`, given with their keys, that must be positive and are not.
///
/// # Errors
/// [`LoadError::Unsupported`].
pub(crate) fn require_positive(file: &Path, numbers: &[(&str, usize)]) -> Result<(), LoadError> {
    match numbers.iter().find(|(_, number)| *number == 0) {
        None => Ok(()),
        Some((key, number)) => Err(LoadError::Unsupported {
            file: file.to_owned(),
            key: (*key).to_owned(),
            found: number.to_string(),
            expected: "at least 1".to_owned(),
        }),
    }
}

/// Reads `config.json` or another JSON file of a model folder; keys that `T` does not name are ignored.
///
/// # Errors
/// [`LoadError::FileMissing`] and [`LoadError::Read`] for the file, [`LoadError::Config`] with the path of the offending
/// key for its content: no JSON, a key missing, a value of another type.
pub fn read_config<T: DeserializeOwned>(file: &Path) -> Result<T, LoadError> {
    let text = read_text(file)?;
    let deserializer = &mut serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(deserializer).map_err(|error| LoadError::Config {
        file: file.to_owned(),
        key: error.path().to_string(),
        source: error.into_inner(),
    })
}

/// Reads a text file of a model folder.
///
/// # Errors
/// [`LoadError::FileMissing`] and [`LoadError::Read`].
pub(crate) fn read_text(file: &Path) -> Result<String, LoadError> {
    text::of(fs::read(file)).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LoadError::FileMissing { file: file.to_owned() },
        _ => LoadError::Read {
            file: file.to_owned(),
            source,
        },
    })
}

/// Reads a JSON file whose keys depend on the release that wrote it.
///
/// # Errors
/// As [`read_config`].
pub fn read_json(file: &Path) -> Result<serde_json::Value, LoadError> {
    read_config(file)
}
