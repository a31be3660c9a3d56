//! The prompts that are judged by a rubric of their own.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::work::Task;

/// A prompt and the rubric that decides about its pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptRubric {
    /// The prompt. Without source pictures it stands for its words, whatever is edited.
    pub task: Task,
    /// The rubric's text, a blob, which is named by its fingerprint.
    pub rubric: Digest,
}

/// The rubrics of single prompts, in the order of the prompts, no prompt twice. Their texts are blobs that are stored with the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PromptRubrics(Vec<PromptRubric>);

impl PromptRubrics {
    /// Puts them in order. Of two for one prompt the first counts.
    pub fn new(mut rubrics: Vec<PromptRubric>) -> Self {
        rubrics.sort_by(|one, other| one.task.cmp(&other.task));
        rubrics.dedup_by(|later, first| later.task == first.task);
        Self(rubrics)
    }

    /// The rubric of a task: the one for its words and source pictures, or else the one for its words alone.
    pub fn of(&self, task: &Task) -> Option<Digest> {
        let by_words = || self.find(&task.words, &[]);
        self.find(&task.words, &task.sources).or_else(by_words)
    }

    /// Each prompt with its rubric.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &PromptRubric> {
        self.0.iter()
    }

    /// Whether no prompt has a rubric of its own.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether they are in order and no prompt is there twice, as [`PromptRubrics::of`] takes for granted.
    pub fn is_in_order(&self) -> bool {
        self.0.is_sorted_by(|one, next| one.task < next.task)
    }

    fn find(&self, words: &str, sources: &[Digest]) -> Option<Digest> {
        let key = |one: &PromptRubric| {
            let words = one.task.words.as_str().cmp(words);
            words.then_with(|| one.task.sources.as_slice().cmp(sources))
        };
        self.0.binary_search_by(key).ok().map(|index| self.0[index].rubric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(words: &str, sources: &[&[u8]]) -> Task {
        Task {
            words: words.into(),
            sources: sources.iter().map(|bytes| Digest::of(bytes)).collect(),
        }
    }

    #[test]
    fn a_task_has_the_rubric_of_its_pictures_or_else_of_its_words() {
        let one = |task: &Task, rubric: &[u8]| PromptRubric {
            task: task.clone(),
            rubric: Digest::of(rubric),
        };
        let (cube, blue) = (edit("make it blue", &[b"cube"]), edit("make it blue", &[]));
        let rubrics = PromptRubrics::new(vec![
            one(&Task::new("a dog"), b"dog"),
            one(&cube, b"blue cube"),
            one(&blue, b"blue"),
            one(&blue, b"a second one"),
        ]);
        assert_eq!((rubrics.iter().len(), rubrics.is_in_order()), (3, true));
        let of = |task: &Task| rubrics.of(task);
        assert_eq!(of(&cube), Some(Digest::of(b"blue cube")));
        assert_eq!(of(&edit("make it blue", &[b"ball"])), Some(Digest::of(b"blue")));
        assert_eq!(of(&Task::new("a dog")), Some(Digest::of(b"dog")));
        assert_eq!(of(&Task::new("a cat")), None);
        let text = serde_json::to_string(&rubrics).unwrap();
        let reversed: Vec<PromptRubric> = rubrics.0.iter().rev().cloned().collect();
        assert_eq!(serde_json::from_str::<PromptRubrics>(&text).unwrap(), rubrics);
        assert!(!PromptRubrics(reversed).is_in_order());
    }
}
