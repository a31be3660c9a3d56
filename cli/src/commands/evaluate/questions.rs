//! `gavel evaluate --write-questions`: a model takes prompts apart, and leaves what it wrote in a file that is read as prompts again.

use std::ops::Range;
use std::path::{Path, PathBuf};

use gavel_core::spec::RunSpec;
use gavel_judge::{Models, rubric_writer_concurrency};
use gavel_review::evaluate::QuestionAuthor;
use gavel_rubric::data::Picture;
use gavel_rubric::data::questions::PictureQuestion;
use gavel_rubric::data::tasks::TaskRecord;
use gavel_rubric::generate::{PictureQuestionWriter, WantedQuestions, WrittenQuestions};
use gavel_rubric::{Journal, Recorded};
use serde_json::{Map, Value, json};

use super::bar;
use crate::diagnostic::{Context as _, Result};
use crate::files::{write, write_whole};
use crate::output;

/// The file of prompts with their questions, and the folder of the pictures that it names.
const FILE: &str = "questions.jsonl";
const SOURCES: &str = "sources";

/// Writes the questions of those of a stretch of the prompts that have none, into `asked`. Names those about which none could be written.
pub(super) fn write_missing(
    spec: &RunSpec,
    tasks: &[TaskRecord],
    stretch: Range<usize>,
    kept: &Journal,
    models: &mut Models,
    asked: &mut [Vec<PictureQuestion>],
) -> Result<QuestionAuthor> {
    let chat = models.open_rubric_writer(&spec.judge)?;
    let without: Vec<usize> = stretch.filter(|index| asked[*index].is_empty()).collect();
    let bar = bar(without.len(), "prompts taken apart");
    let writer = PictureQuestionWriter {
        chat: chat.as_ref(),
        recorded: &Recorded::new(Some(kept)),
        threads: rubric_writer_concurrency(&spec.judge),
        progress: &|| bar.inc(1),
    };
    let wanted = |index: &usize| WantedQuestions {
        words: &tasks[*index].words,
        sources: &tasks[*index].sources,
    };
    let wanted: Vec<WantedQuestions<'_>> = without.iter().map(wanted).collect();
    let outcomes = writer
        .write(&wanted)
        .with_context(|| format!("`{}` has not written all questions", chat.name()))?;
    bar.finish_and_clear();
    let mut author = QuestionAuthor {
        name: chat.name().to_owned(),
        written: Vec::new(),
        unwritten: Vec::new(),
    };
    let mut first_reason = None;
    for (index, outcome) in without.into_iter().zip(outcomes) {
        match outcome {
            WrittenQuestions::Written(questions) => {
                asked[index] = questions;
                author.written.push(index);
            }
            WrittenQuestions::Unwritten { reason } => {
                first_reason.get_or_insert(reason);
                author.unwritten.push(index);
            }
        }
    }
    if let Some(reason) = first_reason {
        let numbers: Vec<String> = author.unwritten.iter().map(usize::to_string).collect();
        output::note(format_args!(
            "`{}` wrote no question that can be asked about {} of the {} prompts, number {}; of the first: {reason}",
            author.name,
            author.unwritten.len(),
            author.unwritten.len() + author.written.len(),
            numbers.join(", ")
        ));
    }
    Ok(author)
}

/// Leaves the prompts with their questions in `folder`, in a form in which prompts are read, with the pictures of edits beside it.
pub(super) fn keep(folder: &Path, tasks: &[TaskRecord], asked: &[Vec<PictureQuestion>]) -> Result<PathBuf> {
    let mut lines = String::new();
    for (task, questions) in tasks.iter().zip(asked) {
        lines += &record(folder, task, questions)?.to_string();
        lines.push('\n');
    }
    let file = folder.join(FILE);
    write_whole(&file, &lines)?;
    Ok(file)
}

fn record(folder: &Path, task: &TaskRecord, questions: &[PictureQuestion]) -> Result<Value> {
    let picture = |picture: &Picture| keep_picture(folder, picture);
    let mut record = Map::new();
    record.insert("prompt".to_owned(), json!(task.words));
    if !task.sources.is_empty() {
        let sources: Vec<String> = task.sources.iter().map(picture).collect::<Result<_>>()?;
        record.insert("source".to_owned(), json!(sources));
    }
    for (name, one) in [("target", &task.target), ("mask", &task.mask)] {
        if let Some(one) = one {
            record.insert(name.to_owned(), json!(picture(one)?));
        }
    }
    record.extend(task.fields.clone());
    record.insert("questions".to_owned(), serde_json::to_value(questions)?);
    Ok(Value::Object(record))
}

/// Writes a picture that is not there yet, and returns its path in `folder`.
fn keep_picture(folder: &Path, picture: &Picture) -> Result<String> {
    let ending = match picture.encoded.as_slice() {
        [0xff, 0xd8, ..] => "jpg",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "png",
    };
    let name = format!("{SOURCES}/{}.{ending}", picture.digest);
    let file = folder.join(&name);
    if std::fs::read(&file).is_ok_and(|bytes| bytes == picture.encoded) {
        return Ok(name);
    }
    write(&file, &picture.encoded)?;
    Ok(name)
}
