//! Questions about single pictures, which a model answers: those that the prompts bring, and those that are asked of every picture.

mod everywhere;
mod figures;

use gavel_core::work::PictureAnswer;
use gavel_rubric::data::Picture;
use gavel_rubric::data::questions::{self, PictureQuestion};
use gavel_rubric::data::tasks::TaskRecord;
use gavel_rubric::{AskError, Chat, Recorded, threads};
use serde::{Deserialize, Serialize};

use super::{Error, OpenPrompt};
pub use figures::QuestionFigures;
pub(super) use figures::score;

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
    /// Who wrote those that no record brings; `None` where nobody was asked to.
    pub author: Option<&'a QuestionAuthor>,
    /// What is asked of every picture as well.
    pub everywhere: Everywhere,
}

/// What is asked about every picture besides the questions that its prompt brings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Everywhere {
    /// Whether it is asked how well each picture is made, whatever its prompt.
    pub quality: bool,
    /// Whether it is asked if each picture does what its prompt asks for.
    pub fulfilment: bool,
}

impl Everywhere {
    /// What is asked about a task's picture: the task's own questions, those about quality and those about what it asks for.
    pub fn lists(self, questions: &[PictureQuestion], task: &TaskRecord) -> [Vec<PictureQuestion>; 3] {
        let is_edit = !task.sources.is_empty();
        let quality = self.quality.then(|| everywhere::quality(is_edit));
        let fulfilment = self.fulfilment.then(|| everywhere::fulfilment(&task.words, is_edit));
        [
            questions.to_vec(),
            quality.unwrap_or_default(),
            fulfilment.unwrap_or_default(),
        ]
    }
}

/// Who wrote questions, and about what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuestionAuthor {
    /// The model.
    pub name: String,
    /// The prompts that it took apart, by their numbers.
    pub written: Vec<usize>,
    /// Those about which it wrote no question that can be asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unwritten: Vec<usize>,
}

/// What was answered about one picture.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Of the prompt's questions.
    pub(super) questions: Vec<QuestionAnswer>,
    /// Of those about quality.
    pub(super) quality: Vec<QuestionAnswer>,
    /// Of those about what the prompt asks for.
    pub(super) fulfilment: Vec<QuestionAnswer>,
}

impl Answered {
    /// Why questions could not be asked.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = &String> {
        let lists = [&self.questions, &self.quality, &self.fulfilment];
        lists.into_iter().flatten().filter_map(|one| one.unanswered.as_ref())
    }
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
        let of_prompts: Vec<[Vec<PictureQuestion>; 3]> = self.questions[first_index..]
            .iter()
            .zip(prompts)
            .map(|(questions, prompt)| self.everywhere.lists(questions, prompt.task.record))
            .collect();
        let mut asked: Vec<(&PictureQuestion, &[Picture], &Picture)> = Vec::new();
        for (lists, prompt) in of_prompts.iter().zip(prompts) {
            let sources = prompt.task.record.sources.as_slice();
            for (picture, _) in &prompt.pictures {
                asked.extend(lists.iter().flatten().map(|question| (question, sources, picture)));
            }
        }
        let mut answers = threads::map(self.concurrency, &asked, |_, (question, sources, picture)| {
            self.answer(question, sources, picture)
        })?
        .into_iter();
        let mut of_picture = |lists: &[Vec<PictureQuestion>; 3]| {
            let mut of_list = |list: &Vec<PictureQuestion>| answers.by_ref().take(list.len()).collect();
            let [questions, quality, fulfilment] = lists;
            Answered {
                questions: of_list(questions),
                quality: of_list(quality),
                fulfilment: of_list(fulfilment),
            }
        };
        let of_prompts = of_prompts.iter().zip(prompts);
        Ok(of_prompts
            .map(|(lists, prompt)| prompt.pictures.iter().map(|_| of_picture(lists)).collect())
            .collect())
    }

    /// Keeps what the same model, asked elsewhere, answered about a picture of the prompt of this index: to all questions about it, in the order
    /// of [`Everywhere::lists`]. What has no answer is asked again.
    pub(super) fn take(
        &self,
        index: usize,
        task: &TaskRecord,
        picture: &Picture,
        answers: &[PictureAnswer],
    ) -> Result<(), Error> {
        let questions = self.questions.get(index).map_or(&[][..], Vec::as_slice);
        let lists = self.everywhere.lists(questions, task);
        for (question, answer) in lists.iter().flatten().zip(answers) {
            let yes = match answer {
                PictureAnswer::Yes => Some(true),
                PictureAnswer::No => Some(false),
                PictureAnswer::Neither => None,
                PictureAnswer::Unanswered { .. } => continue,
            };
            self.recorded
                .keep_yes_or_no(self.chat, &question.question, &task.sources, picture, yes)?;
        }
        Ok(())
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
