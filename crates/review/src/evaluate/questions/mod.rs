//! Questions about single pictures, which a model answers: those that the prompts bring, and those about quality.

mod figures;
mod quality;

use gavel_rubric::data::Picture;
use gavel_rubric::data::questions::{self, PictureQuestion};
use gavel_rubric::data::tasks::TaskRecord;
use gavel_rubric::{AskError, Chat, Recorded, threads};
use serde::{Deserialize, Serialize};

use super::{Error, OpenPrompt};
pub use figures::QuestionFigures;

/// A question about one picture, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionAnswer {
    /// The question.
    #[serde(flatten)]
    pub question: PictureQuestion,
    /// Whether the model says yes; `None` where it says neither yes nor no.
    pub yes: Option<bool>,
    /// Why there is no answer at all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unanswered: Option<String>,
}

/// Who answers questions.
pub struct Questioning<'a> {
    /// The model.
    pub chat: &'a dyn Chat,
    /// What has been answered before.
    pub recorded: &'a Recorded<'a>,
    /// Questions that are under way at a time.
    pub concurrency: usize,
    /// Of each prompt; see [`record_questions`].
    pub questions: &'a [Vec<PictureQuestion>],
    /// Whether it is asked as well how well each picture is made, whatever its prompt.
    pub quality: bool,
}

/// What was answered about one picture.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Of the prompt's questions.
    pub(super) questions: Vec<QuestionAnswer>,
    /// Of those about quality.
    pub(super) quality: Vec<QuestionAnswer>,
}

/// The questions of each record: its field `questions`.
///
/// # Errors
/// [`Error::Questions`] for a field of another form.
pub fn record_questions(tasks: &[TaskRecord]) -> Result<Vec<Vec<PictureQuestion>>, Error> {
    let of_record = |(index, task): (usize, &TaskRecord)| {
        questions::of_record(task).map_err(|problem| Error::Questions { index, problem })
    };
    tasks.iter().enumerate().map(of_record).collect()
}

impl Questioning<'_> {
    /// The answers about each picture of each of some prompts, of which the first has this index.
    pub(super) fn answers(&self, first_index: usize, prompts: &[OpenPrompt<'_>]) -> Result<Vec<Vec<Answered>>, Error> {
        let quality = |prompt: &OpenPrompt<'_>| match self.quality {
            true => quality::questions(!prompt.task.record.sources.is_empty()),
            false => Vec::new(),
        };
        let of_prompts: Vec<(&[PictureQuestion], Vec<PictureQuestion>)> = self.questions[first_index..]
            .iter()
            .zip(prompts)
            .map(|(questions, prompt)| (questions.as_slice(), quality(prompt)))
            .collect();
        let mut asked: Vec<(&PictureQuestion, &[Picture], &Picture)> = Vec::new();
        for ((questions, quality), prompt) in of_prompts.iter().zip(prompts) {
            let sources = prompt.task.record.sources.as_slice();
            for (picture, _) in &prompt.pictures {
                asked.extend(
                    questions
                        .iter()
                        .chain(quality)
                        .map(|question| (question, sources, picture)),
                );
            }
        }
        let mut answers = threads::map(self.concurrency, &asked, |_, (question, sources, picture)| {
            self.answer(question, sources, picture)
        })?
        .into_iter();
        let of_prompt =
            |((questions, quality), prompt): (&(&[PictureQuestion], Vec<PictureQuestion>), &OpenPrompt<'_>)| {
                let pictures = prompt.pictures.iter();
                pictures
                    .map(|_| Answered {
                        questions: answers.by_ref().take(questions.len()).collect(),
                        quality: answers.by_ref().take(quality.len()).collect(),
                    })
                    .collect()
            };
        Ok(of_prompts.iter().zip(prompts).map(of_prompt).collect())
    }

    fn answer(
        &self,
        question: &PictureQuestion,
        sources: &[Picture],
        picture: &Picture,
    ) -> Result<QuestionAnswer, AskError> {
        let answered = self.recorded.yes_or_no(self.chat, &question.question, sources, picture);
        let (yes, unanswered) = match answered {
            Ok(yes) => (yes, None),
            // This one cannot be answered, others may be.
            Err(AskError::Unanswerable { reason, .. }) => (None, Some(reason)),
            Err(error) => return Err(error),
        };
        Ok(QuestionAnswer {
            question: question.clone(),
            yes,
            unanswered,
        })
    }
}
