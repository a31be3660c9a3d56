//! What an evaluation is made of, read before anything is painted.

use std::path::Path;

use gavel_core::spec::RunSpec;
use gavel_judge::Templates;
use gavel_models::Family;
use gavel_review::evaluate::{QuestionAuthor, record_questions};
use gavel_rubric::Rubrics;
use gavel_rubric::data::questions::{self, PictureQuestion};
use gavel_rubric::data::tasks::{self, TaskRecord};
use gavel_rubric::data::{ReadOptions, Transparency};

use super::{EvaluateArguments, SubjectArgument};
use crate::assets;
use crate::diagnostic::{Diagnostic, Result};
use crate::fetch::fetch;
use crate::output;

/// Most subjects: each two of them are compared on each prompt.
const SUBJECTS_MAX: usize = 16;

/// Refuses two subjects of one name, and more than are compared.
pub(super) fn check_names(subjects: &[SubjectArgument]) -> Result<()> {
    if subjects.len() > SUBJECTS_MAX {
        return Err(Diagnostic::new(format!(
            "there are {} subjects, at most {SUBJECTS_MAX} are compared",
            subjects.len()
        ))
        .with_hint("compare fewer at a time"));
    }
    for (index, subject) in subjects.iter().enumerate() {
        if subjects[..index].iter().any(|before| before.name == subject.name) {
            return Err(Diagnostic::new(format!("two subjects are called `{}`", subject.name))
                .with_hint("give each a name of its own: --subject NAME=WHAT"));
        }
    }
    Ok(())
}

/// The file of prompts.
pub(super) fn prompts<'a>(spec: &'a RunSpec, arguments: &'a EvaluateArguments) -> Result<&'a Path> {
    let file = arguments.prompts.as_deref().or(spec.prompts.held_out.as_deref());
    file.ok_or_else(|| {
        Diagnostic::new("there are no prompts: the configuration has no `prompts.held_out`")
            .with_hint("name a file of prompts with --prompts")
    })
}

/// The prompts, as many of them as `evaluation.prompts` says.
pub(super) fn read_tasks(spec: &RunSpec, arguments: &EvaluateArguments) -> Result<Vec<TaskRecord>> {
    let file = prompts(spec, arguments)?;
    let options = ReadOptions {
        fetch: &fetch,
        transparency: Transparency::Dropped,
        ..ReadOptions::local()
    };
    let edits = Family::from_name(spec.model.family.as_str())?.takes_sources();
    let mut tasks = tasks::read(file, edits, &options)?;
    if let Some(prompts) = spec.evaluation.as_ref().and_then(|evaluation| evaluation.prompts) {
        tasks.truncate(prompts as usize);
    }
    if let Some(field) = &arguments.by
        && tasks.iter().all(|task| !task.fields.contains_key(field))
    {
        return Err(
            Diagnostic::new(format!("no record of {} has a field `{field}`", file.display()))
                .with_hint("name another field with --by, or leave it out"),
        );
    }
    Ok(tasks)
}

/// Refuses a comparison with sources where there are none.
pub(super) fn check_sources(tasks: &[TaskRecord], arguments: &EvaluateArguments) -> Result<()> {
    match arguments.dinov2.is_some() && tasks.iter().all(|task| task.sources.is_empty()) {
        true => Err(Diagnostic::new(
            "--dinov2 compares edits with their sources, and no record of the prompts has a source",
        )
        .with_hint("leave it out, or evaluate edits")),
        false => Ok(()),
    }
}

/// Refuses several pictures of each prompt where a fleet paints, whose runs paint one.
pub(super) fn check_samples(arguments: &EvaluateArguments) -> Result<()> {
    match arguments.connect.is_some() && arguments.samples > 1 {
        true => Err(Diagnostic::new(format!(
            "--connect has workers paint one picture of each prompt, and --samples asks for {}",
            arguments.samples
        ))
        .with_hint("leave --connect out: this process paints, or several do with --shard")),
        false => Ok(()),
    }
}

/// The questions about each prompt's picture.
pub(super) fn read_questions(tasks: &[TaskRecord], arguments: &EvaluateArguments) -> Result<Vec<Vec<PictureQuestion>>> {
    let Some(file) = &arguments.questions else {
        return match arguments.no_questions {
            true => Ok(vec![Vec::new(); tasks.len()]),
            false => Ok(record_questions(tasks)?),
        };
    };
    let by_id = questions::read(file)?;
    let of_task = |task: &TaskRecord| {
        let id = task
            .fields
            .get("id")
            .map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        // A prompt may stand in a file more than once.
        id.and_then(|id| by_id.get(&id).cloned()).unwrap_or_default()
    };
    let asked: Vec<Vec<PictureQuestion>> = tasks.iter().map(of_task).collect();
    let without = asked.iter().filter(|questions| questions.is_empty()).count();
    if without == tasks.len() {
        return Err(Diagnostic::new(format!("{}: no question is about one of the {without} prompts", file.display()))
            .with_hint("`item_id` of a question is `id` of its prompt's record, or the name of the prompt's text file without its ending"));
    }
    if without > 0 {
        output::note(format_args!(
            "{}: no question is about {without} of the {} prompts",
            file.display(),
            tasks.len()
        ));
    }
    Ok(asked)
}

/// Refuses to go on where none of the prompts has a question, though some were to be written.
pub(super) fn check_written(author: &QuestionAuthor, asked: &[Vec<PictureQuestion>], file: &Path) -> Result<()> {
    match asked.iter().all(Vec::is_empty) {
        true => Err(Diagnostic::new(format!(
            "`{}` wrote no question that can be asked about any of the {} prompts",
            author.name,
            asked.len()
        ))
        .with_hint(format!(
            "name a model that keeps to a form in [judge.writer], or write questions into {} and name it with --prompts",
            file.display()
        ))),
        false => Ok(()),
    }
}

/// What the judge decides by and is asked with, read before anything is painted.
pub(super) fn words(spec: &RunSpec, tasks: &[TaskRecord]) -> Result<(Rubrics, Templates)> {
    let edits = tasks.iter().any(|task| !task.sources.is_empty());
    assets::check_judge_templates(&spec.judge, edits)?;
    Ok((Rubrics::load(&spec.judge.rubric)?, Templates::load(&spec.judge)?))
}

/// Refuses, before anything is painted, a judge that answers no questions in words.
pub(super) fn check_answers(spec: &RunSpec) -> Result<()> {
    match spec.judge.back_end.writer() {
        Some(_) => Ok(()),
        None => Err(Diagnostic::new(
            "there are questions about pictures, and `[judge]` has no model that answers in words",
        )
        .with_hint("name a vision-language model or a server in [judge], or leave questions out: --no-questions, and neither --quality nor --fulfilment")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let subjects =
            |names: &[&str]| -> Vec<SubjectArgument> { names.iter().map(|name| name.parse().unwrap()).collect() };
        assert!(check_names(&subjects(&["base", "a=base"])).is_ok());
        let error = check_names(&subjects(&["a=base", "a=b"])).unwrap_err();
        assert_eq!(error.to_string(), "two subjects are called `a`");
        let many: Vec<String> = (0..17).map(|index| format!("{index}=base")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(check_names(&subjects(&many)).is_err());
    }
}
