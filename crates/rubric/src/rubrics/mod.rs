//! What a judge decides by over many prompts: a general set, and sets of single prompts.

mod combine;
mod file;

use std::collections::BTreeMap;
use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::work::Task;

use crate::{RubricError, RubricSet};
pub(crate) use combine::combine;
pub use file::{PromptSet, RubricFile};
pub use gavel_core::spec::Combine;

/// The sets of a rubric file, each as the judge reads it. A prompt with a set of its own is judged by that one, every other prompt by
/// the general one; how far a prompt's own set holds general criteria too is the file's rule ([`Combine`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Rubrics {
    general: RubricSet,
    of_prompts: BTreeMap<Task, RubricSet>,
}

impl Rubrics {
    /// One set for all prompts.
    pub fn one(general: RubricSet) -> Self {
        Self {
            general,
            of_prompts: BTreeMap::new(),
        }
    }

    /// A general set, and those of single prompts as the judge reads them. A prompt without source pictures stands for its words, whatever is edited.
    pub fn new(general: RubricSet, of_prompts: BTreeMap<Task, RubricSet>) -> Self {
        Self { general, of_prompts }
    }

    /// Reads a rubric file: a rubric set, with or without sets of single prompts, when its name ends in `.toml`, bare text otherwise.
    ///
    /// # Errors
    /// [`RubricError`], which names the file and the key.
    pub fn load(file: &Path) -> Result<Self, RubricError> {
        RubricFile::load(file)?.rubrics(file)
    }

    /// The set for prompts without one of their own.
    pub fn general(&self) -> &RubricSet {
        &self.general
    }

    /// The set that decides about a prompt. `sources` are the SHA-256 of the pictures that it edits: a set that names these very
    /// pictures goes before one for the prompt's words alone.
    pub fn of(&self, prompt: &str, sources: &[Digest]) -> &RubricSet {
        self.own(prompt, sources).unwrap_or(&self.general)
    }

    /// The prompts with a set of their own, in order.
    pub fn of_prompts(&self) -> &BTreeMap<Task, RubricSet> {
        &self.of_prompts
    }

    /// The general set, then those of single prompts.
    pub fn sets(&self) -> impl Iterator<Item = &RubricSet> {
        std::iter::once(&self.general).chain(self.of_prompts.values())
    }

    /// Whether some set is judged criterion by criterion.
    pub fn is_weighted(&self) -> bool {
        self.sets().any(RubricSet::is_weighted)
    }

    /// The same words without weights.
    pub fn without_weights(&self) -> Self {
        let own = self.of_prompts.iter();
        Self {
            general: self.general.without_weights(),
            of_prompts: own.map(|(task, set)| (task.clone(), set.without_weights())).collect(),
        }
    }

    fn own(&self, prompt: &str, sources: &[Digest]) -> Option<&RubricSet> {
        if self.of_prompts.is_empty() {
            return None;
        }
        let exact = Task {
            words: prompt.to_owned(),
            sources: sources.to_vec(),
        };
        let by_words = || self.of_prompts.get(&Task::new(prompt));
        self.of_prompts.get(&exact).or_else(by_words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> RubricSet {
        RubricSet::from_text(text).unwrap()
    }

    #[test]
    fn a_prompt_has_its_own_set_or_the_general_one_and_pictures_go_before_words() {
        let [cube, ball] = [b"cube", b"ball"].map(|bytes| Digest::of(bytes));
        let of_prompts = [
            (Task::new("make it blue"), set("It is blue.")),
            (
                Task {
                    words: "make it blue".into(),
                    sources: vec![cube],
                },
                set("The cube is blue."),
            ),
        ];
        let rubrics = Rubrics::new(set("As asked."), of_prompts.into());
        let first = |prompt, sources: &[Digest]| rubrics.of(prompt, sources).criteria().next().unwrap().to_owned();
        assert_eq!(first("make it blue", &[cube]), "The cube is blue.");
        assert_eq!(first("make it blue", &[ball]), "It is blue.");
        assert_eq!(first("make it blue", &[]), "It is blue.");
        assert_eq!(first("make it red", &[cube]), "As asked.");
    }
}
