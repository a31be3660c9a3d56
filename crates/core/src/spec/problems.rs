//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::path::Path;

use crate::Hint;
use crate::bounds::{Bound, PATH};

/// The largest number that a key takes where nothing closer is said: whoever wants no bound on a gradient writes less, and products
/// of two stay far from overflowing.
pub(super) const NUMBER_MAX: f64 = 1e12;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, such as `objective.clip_range`.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// The nearest valid name, where the key itself is unknown.
    pub suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        match &self.suggestion {
            Some(name) => write!(f, "; did you mean `{name}`?"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration; one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Hint for Problems {
    fn hint(&self) -> Option<String> {
        Some("docs/configuration.md lists every key with its type, unit, default and range".into())
    }
}

impl Problems {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, key: impl Into<String>, message: impl Into<String>, suggestion: Option<String>) {
        self.0.push(Problem {
            key: key.into(),
            message: message.into(),
            suggestion,
        });
    }

    /// Adds a problem unless `holds`. Conditions are written so that NaN makes them false.
    pub(crate) fn require(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds && !self.0.iter().any(|problem| problem.key == key) {
            self.add(key, message(), None);
        }
    }

    pub(crate) fn require_set(&mut self, path: &Path, key: &str, what: &str) {
        self.require(!path.as_os_str().is_empty(), key, || format!("must be set: {what}"));
        self.path(path, key);
    }

    pub(crate) fn path(&mut self, path: &Path, key: &str) {
        self.length(&path.to_string_lossy(), PATH, key);
    }

    pub(crate) fn at_least_one<N: Into<u64> + Copy>(&mut self, count: N, key: &str) {
        self.require(count.into() >= 1, key, || "must be at least 1, not 0".into());
    }

    /// Requires a count from 1 to the bound.
    pub(crate) fn count(&mut self, count: u64, bound: Bound, key: &str) {
        self.at_least_one(count, key);
        self.at_most(count, bound, key);
    }

    pub(crate) fn at_most(&mut self, found: u64, bound: Bound, key: &str) {
        self.require(bound.admits(found), key, || {
            format!("must be at most {}, not {found}", bound.most)
        });
    }

    /// Bounds the length of a text in bytes. The text itself is not repeated: it may be anything.
    pub(crate) fn length(&mut self, text: &str, bound: Bound, key: &str) {
        self.require(bound.admits(text.len() as u64), key, || {
            format!("must have at most {} bytes, not {}", bound.most, text.len())
        });
    }

    pub(crate) fn positive(&mut self, value: f64, key: &str) {
        self.require(value > 0.0 && value <= NUMBER_MAX, key, || {
            format!("must be a positive number of at most {NUMBER_MAX:e}, not {value:e}")
        });
    }

    pub(crate) fn not_negative(&mut self, value: f64, key: &str) {
        self.require((0.0..=NUMBER_MAX).contains(&value), key, || {
            format!("must lie in 0 to {NUMBER_MAX:e}, not {value:e}")
        });
    }

    pub(crate) fn decay(&mut self, value: f64, key: &str) {
        self.require((0.0..1.0).contains(&value), key, || {
            format!("must lie in 0 to 1, 1 excluded, not {value}")
        });
    }
}
