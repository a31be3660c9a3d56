//! The rubrics of a run's judges, from their files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::work::Task;
use gavel_core::{PromptRubric, PromptRubrics, RubricText};
use gavel_rubric::RubricFile;

use crate::diagnostic::{Diagnostic, Result};

/// The texts of the rubrics of single prompts, by their fingerprints.
pub(super) type Texts = BTreeMap<Digest, Vec<u8>>;

/// Every task of a run, by which the prompts of a rubric file are known.
pub(super) struct Tasks<'a>(BTreeSet<(&'a str, &'a [Digest])>);

impl<'a> Tasks<'a> {
    pub(super) fn of(tasks: impl Iterator<Item = &'a Task>) -> Self {
        // A set for words alone is for every task with these words.
        let known = |task: &'a Task| {
            [
                (task.words.as_str(), task.sources.as_slice()),
                (task.words.as_str(), &[]),
            ]
        };
        Self(tasks.flat_map(known).collect())
    }

    fn has(&self, task: &Task) -> bool {
        self.0.contains(&(task.words.as_str(), task.sources.as_slice()))
    }
}

/// Reads a rubric file: the general rubric, and those of the run's prompts that have one of their own, whose texts go into `texts`. Without
/// `tasks`, which could not be read then, every prompt of the file counts as the run's.
///
/// # Errors
/// The file cannot be used, or names a prompt that the run does not have.
pub(super) fn read(file: &Path, tasks: Option<&Tasks<'_>>, texts: &mut Texts) -> Result<(RubricText, PromptRubrics)> {
    let written = RubricFile::load(file)?;
    let rubrics = written.rubrics(file)?;
    let is_known = |task: &Task| tasks.is_none_or(|tasks| tasks.has(task));
    let unknown = |prompt: &gavel_rubric::PromptSet| !is_known(&prompt.task());
    if let Some(index) = written.prompts.iter().position(unknown).filter(|_| !written.shared) {
        let prompt = &written.prompts[index].prompt;
        let file = file.display();
        return Err(
            Diagnostic::new(format!("{file}: `prompts[{index}]` ({prompt:.60}) is no prompt of this run")).with_hint(
                "write it as `prompts.train`, `prompts.held_out` or `evaluation.labelled` has it, or say `shared = true` at the top of a \
                 rubric file that other runs use too",
            ),
        );
    }
    let own = rubrics.of_prompts().iter().filter(|(task, _)| is_known(task));
    let own = own.map(|(task, set)| {
        let text = set.text().into_bytes();
        let rubric = Digest::of(&text);
        texts.insert(rubric, text);
        PromptRubric {
            task: task.clone(),
            rubric,
        }
    });
    let own = PromptRubrics::new(own.collect());
    Ok((RubricText::new(rubrics.general().text()), own))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "version = 1\nthemes = [{ tips = [\"As asked.\"] }]\n[[prompts]]\nprompt = \"a red cube\"\ntips = [\"It is red.\"]\n";

    #[test]
    fn a_prompt_that_the_run_does_not_have_is_refused_unless_the_file_is_shared() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rubric.toml");
        std::fs::write(&file, FILE).unwrap();
        let (cube, ball) = ([Task::new("a red cube")], [Task::new("a red ball")]);
        let mut texts = Texts::new();
        let (general, own) = read(&file, Some(&Tasks::of(cube.iter())), &mut texts).unwrap();
        assert_eq!(general.text, "- As asked.\n");
        assert_eq!(own.of(&cube[0]), Some(Digest::of(b"- It is red.\n")));
        assert!(texts.values().eq([b"- It is red.\n"]));
        let refused = read(&file, Some(&Tasks::of(ball.iter())), &mut texts).unwrap_err();
        assert!(
            refused
                .to_string()
                .ends_with("rubric.toml: `prompts[0]` (a red cube) is no prompt of this run"),
            "{refused}"
        );
        std::fs::write(&file, format!("shared = true\n{FILE}")).unwrap();
        let (_, own) = read(&file, Some(&Tasks::of(ball.iter())), &mut texts).unwrap();
        assert!(own.is_empty());
    }
}
