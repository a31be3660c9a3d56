//! Judge templates: the words around a pair, in a file.

use std::path::Path;

use gavel_core::ids::Digest;
use minijinja::context;
use serde::Deserialize;

use crate::conversation::{self, Conversation, Message, PICTURES, Place, Turn, read};
use crate::{RubricSet, TemplateError};

const VARIABLES: &str = "`caption`, `rubric`, `criteria` and `themes`";

/// A prompt for a vision-language model that compares two pictures.
#[derive(Debug, Clone)]
pub struct JudgeTemplate {
    /// What people call it.
    pub name: String,
    /// How the model is to answer.
    pub answer: AnswerKind,
    /// The answers for "the picture shown first" and "the picture shown second"; each must be one token of the judge. "1" and
    /// "2" where the answer is JSON.
    pub labels: [String; PICTURES],
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
        let labels: [String; PICTURES] = labels
            .try_into()
            .map_err(|labels: Vec<String>| fault("labels", &format!("has {} entries, a pair needs 2", labels.len())))?;
        if labels[0] == labels[1] || labels.iter().any(String::is_empty) {
            return Err(fault("labels", "must be two different texts"));
        }
        if !(0.0..=1.0).contains(&raw.label_mass_min) {
            return Err(fault("label_mass_min", "must lie in [0, 1]"));
        }
        let template = Self {
            name: raw.name,
            answer: raw.answer,
            labels,
            label_mass_min: raw.label_mass_min,
            digest: Digest::of(text.as_bytes()),
            conversation: Conversation::new(raw.messages, VARIABLES, file)?,
        };
        let shown = |candidate| {
            let places = template.conversation.places();
            places.filter(|place| *place == Place::Candidate(candidate)).count()
        };
        if let Some(candidate) = (0..PICTURES).find(|candidate| shown(*candidate) != 1) {
            let problem = format!("must show image {} exactly once", candidate + 1);
            return Err(fault("messages", &problem));
        }
        if let Some(trial) = RubricSet::from_text("Trial\n- criterion") {
            template.render("caption", &trial, Pictures::InOrder, 1)?;
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
        let values = context! {
            caption,
            rubric => rubric.text(),
            criteria => rubric.criteria().collect::<Vec<_>>(),
            themes => rubric.themes.iter().map(|theme| context! { name => theme.name, criteria => theme.tips }).collect::<Vec<_>>(),
        };
        self.conversation.render(values, |place| {
            Ok(match (place, pictures) {
                (Place::Candidate(candidate), Pictures::InOrder) => candidate..candidate + 1,
                (Place::Candidate(candidate), Pictures::Swapped) => PICTURES - 1 - candidate..PICTURES - candidate,
                (Place::Base, _) => PICTURES..PICTURES + sources,
            })
        })
    }
}
