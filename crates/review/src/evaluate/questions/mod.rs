//! Questions about single pictures, which the records of prompts bring and a model answers.

use gavel_core::measure::Proportion;
use gavel_rubric::data::Picture;
use gavel_rubric::data::tasks::TaskRecord;
use gavel_rubric::{AskError, Chat, Recorded, threads};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, OpenPrompt, PictureAnswers};

/// The field of a record that holds its questions.
const FIELD: &str = "questions";
/// Questions of one prompt.
const QUESTIONS_MOST: usize = 64;
/// Bytes of one question.
const QUESTION_BYTES_MOST: usize = 1024;

/// A question about one picture, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionAnswer {
    /// The question, as the record has it.
    pub question: String,
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
    /// Of each prompt; see [`questions`].
    pub questions: &'a [Vec<String>],
}

/// How a subject's pictures answer the questions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuestionFigures {
    /// Questions that were asked.
    pub asked: usize,
    /// Those that were answered by neither yes nor no; they count nowhere else.
    pub unanswered: usize,
    /// Share of the answers that are yes; `None` where there is no answer.
    pub yes: Option<Proportion>,
    /// Share of the pictures, of those all of whose questions were answered, of which all were by yes.
    pub all: Option<Proportion>,
}

/// The questions of each record: its field `questions`, a list of texts each of which a good picture answers by yes.
///
/// # Errors
/// [`Error::Questions`] for a field of another form.
pub fn questions(tasks: &[TaskRecord]) -> Result<Vec<Vec<String>>, Error> {
    let of_record = |(index, task): (usize, &TaskRecord)| match task.fields.get(FIELD) {
        None => Ok(Vec::new()),
        Some(value) => of_field(value).map_err(|problem| Error::Questions { index, problem }),
    };
    tasks.iter().enumerate().map(of_record).collect()
}

fn of_field(value: &Value) -> Result<Vec<String>, String> {
    let Some(list) = value.as_array() else {
        return Err(format!("is {}, not a list of texts", kind(value)));
    };
    if list.len() > QUESTIONS_MOST {
        return Err(format!(
            "has {} questions, at most {QUESTIONS_MOST} are asked",
            list.len()
        ));
    }
    let text = |value: &Value| match value.as_str().map(str::trim) {
        Some("") => Err("holds an empty text".to_owned()),
        Some(text) if text.len() > QUESTION_BYTES_MOST => Err(format!(
            "holds a text of {} bytes, at most {QUESTION_BYTES_MOST} are asked",
            text.len()
        )),
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("holds {}, not a text", kind(value))),
    };
    list.iter().map(text).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "one text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Questioning<'_> {
    /// The answers about each picture of each of some prompts, of which the first has this index.
    pub(super) fn answers(
        &self,
        first_index: usize,
        prompts: &[OpenPrompt<'_>],
    ) -> Result<Vec<Vec<Vec<QuestionAnswer>>>, Error> {
        let mut asked: Vec<(&str, &[Picture], &Picture)> = Vec::new();
        for (questions, prompt) in self.questions[first_index..].iter().zip(prompts) {
            let sources = prompt.task.record.sources.as_slice();
            for (picture, _) in &prompt.pictures {
                asked.extend(questions.iter().map(|question| (question.as_str(), sources, picture)));
            }
        }
        let answers = threads::map(self.concurrency, &asked, |_, (question, sources, picture)| {
            let answered = self.recorded.yes_or_no(self.chat, question, sources, picture);
            let (yes, unanswered) = match answered {
                Ok(yes) => (yes, None),
                // This one cannot be answered, others may be.
                Err(AskError::Unanswerable { reason, .. }) => (None, Some(reason)),
                Err(error) => return Err(error),
            };
            Ok(QuestionAnswer {
                question: (*question).to_owned(),
                yes,
                unanswered,
            })
        })?;
        let mut answers = answers.into_iter();
        let of_prompt = |(questions, prompt): (&Vec<String>, &OpenPrompt<'_>)| {
            let pictures = prompt.pictures.iter();
            pictures
                .map(|_| answers.by_ref().take(questions.len()).collect())
                .collect()
        };
        Ok(self.questions[first_index..]
            .iter()
            .zip(prompts)
            .map(of_prompt)
            .collect())
    }
}

impl QuestionFigures {
    pub(super) fn of(answers: &[&PictureAnswers]) -> Option<Self> {
        let pictures = answers.iter().map(|answer| &answer.questions);
        let pictures: Vec<&Vec<QuestionAnswer>> = pictures.filter(|questions| !questions.is_empty()).collect();
        let all: Vec<Option<bool>> = pictures.iter().copied().flatten().map(|answer| answer.yes).collect();
        let answered: Vec<bool> = all.iter().copied().flatten().collect();
        let whole: Vec<bool> = pictures
            .iter()
            .filter_map(|questions| {
                let answers: Option<Vec<bool>> = questions.iter().map(|answer| answer.yes).collect();
                answers.map(|answers| answers.iter().all(|yes| *yes))
            })
            .collect();
        let share = |answers: &[bool]| {
            let yes = answers.iter().filter(|yes| **yes).count();
            Proportion::of(yes as f64, answers.len())
        };
        (!all.is_empty()).then(|| Self {
            asked: all.len(),
            unanswered: all.len() - answered.len(),
            yes: share(&answered),
            all: share(&whole),
        })
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::Digest;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_of_another_form_is_refused_with_what_it_is() {
        assert_eq!(
            of_field(&json!([" Is it red? ", "Is it round?"])).unwrap(),
            ["Is it red?", "Is it round?"]
        );
        assert_eq!(of_field(&json!([])).unwrap(), Vec::<String>::new());
        let many = vec!["?"; QUESTIONS_MOST + 1];
        for (field, problem) in [
            (json!("Is it red?"), "is one text, not a list of texts"),
            (json!({"0": "x"}), "is an object, not a list of texts"),
            (json!(["x", 3]), "holds a number, not a text"),
            (json!(["x", " "]), "holds an empty text"),
            (
                json!(["x".repeat(QUESTION_BYTES_MOST + 1)]),
                "holds a text of 1025 bytes, at most 1024 are asked",
            ),
            (json!(many), "has 65 questions, at most 64 are asked"),
        ] {
            assert_eq!(of_field(&field).unwrap_err(), problem);
        }
    }

    fn picture(answers: &[Option<bool>]) -> PictureAnswers {
        let answer = |yes: &Option<bool>| QuestionAnswer {
            question: "?".to_owned(),
            yes: *yes,
            unanswered: None,
        };
        PictureAnswers {
            subject: "a".to_owned(),
            sha256: Digest([0; 32]),
            facts: None,
            preservation: None,
            source: None,
            target: None,
            similarity: None,
            questions: answers.iter().map(answer).collect(),
        }
    }

    #[test]
    fn questions_without_an_answer_are_counted_and_left_out_of_the_shares() {
        let pictures = [
            picture(&[Some(true), Some(true)]),
            picture(&[Some(true), Some(false)]),
            picture(&[Some(true), None]),
            picture(&[]),
        ];
        let figures = QuestionFigures::of(&pictures.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!((figures.asked, figures.unanswered), (6, 1));
        assert_eq!(figures.yes.unwrap().value, 0.8);
        assert_eq!(figures.all.unwrap().value, 0.5, "of the two pictures with both answers");
        assert_eq!(QuestionFigures::of(&[&pictures[3]]), None);
        let none = QuestionFigures::of(&[&picture(&[None])]).unwrap();
        assert_eq!((none.unanswered, none.yes, none.all), (1, None, None));
    }
}
