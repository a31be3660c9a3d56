//! What a picture is made from.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// What a picture is made from: a prompt's words and, where the model's family edits pictures, the source pictures.
///
/// As JSON a task without sources is the words alone, so that files and ledgers from before there were sources read the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Task {
    /// The prompt's words.
    pub words: String,
    /// The source pictures as PNG blobs, in the order in which the model takes them; empty where nothing is edited.
    pub sources: Vec<Digest>,
}

impl Task {
    /// A task of words alone.
    pub fn new(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            sources: Vec::new(),
        }
    }
}

impl From<String> for Task {
    fn from(words: String) -> Self {
        Self::new(words)
    }
}

impl From<&str> for Task {
    fn from(words: &str) -> Self {
        Self::new(words)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Words(String),
    WithSources(WithSources),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WithSources {
    words: String,
    sources: Vec<Digest>,
}

impl From<Stored> for Task {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Words(words) => Self::new(words),
            Stored::WithSources(WithSources { words, sources }) => Self { words, sources },
        }
    }
}

impl From<Task> for Stored {
    fn from(Task { words, sources }: Task) -> Self {
        match sources.is_empty() {
            true => Self::Words(words),
            false => Self::WithSources(WithSources { words, sources }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_sources_is_stored_as_its_words() {
        let task = Task::new("a red circle");
        assert_eq!(serde_json::to_string(&task).unwrap(), "\"a red circle\"");
        assert_eq!(serde_json::from_str::<Task>("\"a red circle\"").unwrap(), task);
    }

    #[test]
    fn a_task_with_sources_survives_json_and_unknown_fields_do_not() {
        let task = Task {
            words: "make it blue".into(),
            sources: vec![Digest::of(b"one"), Digest::of(b"two")],
        };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), task);
        let more = text.replacen('{', "{\"strength\":1,", 1);
        assert!(serde_json::from_str::<Task>(&more).is_err(), "{more}");
    }
}
