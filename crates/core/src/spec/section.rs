//! What every section of the configuration can do, and how one is read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::keys;
use super::problems::Problems;

/// A section of the configuration: a struct whose fields are its keys.
pub(super) trait Section: Serialize + DeserializeOwned + Default {
    /// The keys that the section may have, in the order of the documentation.
    fn keys() -> Vec<&'static str> {
        keys::of(|probe| Self::deserialize(probe))
    }

    /// Reads the section; one that is left out has its defaults. `at` is its name.
    fn read(table: Option<Table>, at: &str, problems: &mut Problems) -> Self {
        table.map_or_else(Self::default, |table| {
            read(table, at, problems, |value| Self::deserialize(value))
        })
    }

    /// Adds what is wrong with the values.
    fn check(&self, _problems: &mut Problems) {}
}

/// A section that a run may do without.
impl<S: Section> Section for Option<S> {
    fn keys() -> Vec<&'static str> {
        S::keys()
    }

    fn read(table: Option<Table>, at: &str, problems: &mut Problems) -> Self {
        table.map(|table| S::read(Some(table), at, problems))
    }

    fn check(&self, problems: &mut Problems) {
        if let Some(section) = self {
            section.check(problems);
        }
    }
}

/// The deserializer that remembers at which key it is.
pub(super) type Tracked<'a, 'b> = serde_path_to_error::Deserializer<'a, 'b, Value>;

/// Reads a table. A key of the wrong type is reported and left out, and the rest is read again, so that every such key is
/// found; what stands in for it is never used, because the whole is refused.
pub(super) fn read<T: Default>(
    mut table: Table,
    at: &str,
    problems: &mut Problems,
    deserialize: impl Fn(Tracked<'_, '_>) -> Result<T, toml::de::Error>,
) -> T {
    loop {
        let mut track = serde_path_to_error::Track::new();
        let value = Value::Table(table.clone());
        let error = match deserialize(serde_path_to_error::Deserializer::new(value, &mut track)) {
            Ok(read) => return read,
            Err(error) => error,
        };
        let path = track.path().to_string();
        problems.add(format!("{at}.{path}"), error.message().trim(), None);
        let first = path.split(['.', '[']).next().unwrap_or_default();
        if table.remove(first).is_none() {
            return T::default();
        }
    }
}

/// Takes the keys that are none of `known` out of `table` and reports each with the name that it may have been meant to be.
pub(super) fn refuse_unknown(table: &mut Table, at: &str, known: &[&str], problems: &mut Problems) {
    table.retain(|key, _| {
        let is_known = known.contains(&key);
        if !is_known {
            let nearest = keys::nearest(key, known).map(|name| format!("{at}.{name}"));
            problems.add(format!("{at}.{key}"), "unknown key", nearest);
        }
        is_known
    });
}
