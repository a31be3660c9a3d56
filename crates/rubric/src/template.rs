//! Judge templates: the words around a pair, in a file.

use std::collections::BTreeSet;
use std::path::Path;

use gavel_core::ids::Digest;
use minijinja::context;
use serde::Deserialize;

use crate::conversation::{self, Conversation, Message, PICTURES, Place, Turn, read};
use crate::{RubricSet, TemplateError};

const VARIABLES: &str = "`caption`, `rubric`, `criteria` and `themes`";

/// Most pictures that one question compares.
const LIST_MOST: usize = 16;

/// A prompt for a vision-language model that compares two pictures, or all of a list at once.
#[derive(Debug, Clone)]
pub struct JudgeTemplate {
    /// What people call it.
    pub name: String,
    /// How the model is to answer.
    pub answer: AnswerKind,
    /// The answers for "the picture shown first", "the picture shown second", and of a list for those after them; each must be one token of the
    /// judge. "1" and "2" where the answer is JSON.
    pub labels: Vec<String>,
    /// Least probability, in [0, 1], that the labels must have together among all next tokens; below it the judge has not
    /// answered the question and abstains.
    pub label_mass_min: f64,
    digest: Digest,
    conversation: Conversation,
}

/// How a model answers which of two pictures is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// With one of two labels, read from the likelihoods of the next token where the model shows them.
    #[default]
    Label,
    /// With a JSON object: `reason`, and `rank` with a rank for each picture, 1 the better.
    Json,
}

/// Which picture of a pair a template's "picture 1" is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pictures {
    /// The first candidate is shown first.
    InOrder,
    /// The second candidate is shown first.
    Swapped,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    name: String,
    #[serde(default)]
    answer: AnswerKind,
    #[serde(default)]
    labels: Option<Vec<String>>,
    #[serde(default)]
    label_mass_min: f64,
    messages: Vec<Turn>,
}

impl JudgeTemplate {
    /// Reads a template file and tries it, so that a fault shows before a model is loaded.
    ///
    /// # Errors
    /// [`TemplateError`], which names the file and the key.
    pub fn load(file: &Path) -> Result<Self, TemplateError> {
        Self::parse(&read(file)?, file)
    }

    /// Reads a template's text; `file` is for error messages.
    ///
    /// # Errors
    /// As [`JudgeTemplate::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, TemplateError> {
        let raw: RawTemplate = conversation::parse(text, file)?;
        let fault = |key: &str, problem: &str| TemplateError::Value {
            file: file.to_owned(),
            key: key.to_owned(),
            problem: problem.to_owned(),
        };
        let labels = match (raw.answer, raw.labels) {
            (_, Some(labels)) => labels,
            (AnswerKind::Label, None) => return Err(fault("labels", "must be set: the two answers to choose from")),
            (AnswerKind::Json, None) => ["1", "2"].map(String::from).to_vec(),
        };
        if !(0.0..=1.0).contains(&raw.label_mass_min) {
            return Err(fault("label_mass_min", "must lie in [0, 1]"));
        }
        let conversation = Conversation::new(raw.messages, VARIABLES, file)?;
        let lists = conversation.lists();
        let count = labels.len();
        match lists {
            0 if count != PICTURES => return Err(fault("labels", &format!("has {count} entries, a pair needs 2"))),
            1.. if !(PICTURES..=LIST_MOST).contains(&count) => {
                let problem =
                    format!("has {count} entries, a list needs one for each picture, {PICTURES} to {LIST_MOST}");
                return Err(fault("labels", &problem));
            }
            _ => {}
        }
        let distinct: BTreeSet<&String> = labels.iter().collect();
        if distinct.len() < count || labels.iter().any(String::is_empty) {
            return Err(fault("labels", "must be different texts, and none of them empty"));
        }
        if lists > 0 && raw.answer == AnswerKind::Json {
            return Err(fault(
                "answer",
                "must be `label` where a list is shown: the answer is the best picture's label",
            ));
        }
        let template = Self {
            name: raw.name,
            answer: raw.answer,
            labels,
            label_mass_min: raw.label_mass_min,
            digest: Digest::of(text.as_bytes()),
            conversation,
        };
        let shown = |candidate| {
            let places = template.conversation.places();
            places.filter(|place| *place == Place::Candidate(candidate)).count()
        };
        let times = usize::from(lists == 0);
        if let Some(candidate) = (0..PICTURES).find(|candidate| shown(*candidate) != times) {
            let problem = match lists {
                0 => format!("must show image {} exactly once", candidate + 1),
                _ => "must show either images 1 and 2 or, with `each`, a list".to_owned(),
            };
            return Err(fault("messages", &problem));
        }
        if lists > 1 {
            return Err(fault("messages", "must show the list once"));
        }
        if let Some(trial) = RubricSet::from_text("Trial\n- criterion") {
            match lists {
                0 => template.render("caption", &trial, Pictures::InOrder, 1)?,
                _ => template.render_list("caption", &trial, PICTURES, 1)?,
            };
        }
        Ok(template)
    }

    /// Fingerprint of the template's text.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether the question shows the picture that was edited.
    pub fn shows_base(&self) -> bool {
        self.conversation.places().any(|place| place == Place::Base)
    }

    /// Whether the question shows a list.
    pub fn shows_list(&self) -> bool {
        self.conversation.lists() > 0
    }

    /// Builds the conversation for a list of so many pictures, in the order in which they are shown, with so many pictures that were edited. More
    /// pictures than there are labels are not shown.
    ///
    /// # Errors
    /// [`TemplateError::Render`] when an expression fails on these values.
    pub fn render_list(
        &self,
        caption: &str,
        rubric: &RubricSet,
        pictures: usize,
        sources: usize,
    ) -> Result<Vec<Message>, TemplateError> {
        let list = Some((0..pictures, self.labels.as_slice()));
        self.conversation
            .render_labelled(values(caption, rubric), list, |place| {
                Ok(match place {
                    Place::Candidate(candidate) => candidate..candidate + 1,
                    Place::Base => pictures..pictures + sources,
                })
            })
    }

    /// Builds the conversation for a pair with so many pictures that were edited; all of them stand in the one place for them.
    ///
    /// # Errors
    /// [`TemplateError::Render`] when an expression fails on these values.
    pub fn render(
        &self,
        caption: &str,
        rubric: &RubricSet,
        pictures: Pictures,
        sources: usize,
    ) -> Result<Vec<Message>, TemplateError> {
        self.conversation.render(values(caption, rubric), |place| {
            Ok(match (place, pictures) {
                (Place::Candidate(candidate), Pictures::InOrder) => candidate..candidate + 1,
                (Place::Candidate(candidate), Pictures::Swapped) => PICTURES - 1 - candidate..PICTURES - candidate,
                (Place::Base, _) => PICTURES..PICTURES + sources,
            })
        })
    }
}

/// What a template's words may name.
fn values(caption: &str, rubric: &RubricSet) -> minijinja::Value {
    context! {
        caption,
        rubric => rubric.text(),
        criteria => rubric.criteria().collect::<Vec<_>>(),
        themes => rubric.themes.iter().map(|theme| context! { name => theme.name, criteria => theme.tips }).collect::<Vec<_>>(),
    }
}
