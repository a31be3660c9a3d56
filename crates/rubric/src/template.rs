//! Judge templates: the words around a pair, in a file.

use std::path::{Path, PathBuf};

use gavel_core::ids::Digest;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use crate::{RubricSet, TemplateError};

/// How many pictures a judge compares.
const PICTURES: usize = 2;

/// The place of the picture that an edit began with, among the pictures of a question.
const BASE: usize = PICTURES;

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
    messages: Vec<RawMessage>,
    file: PathBuf,
    environment: Environment<'static>,
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

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its parts in order.
    pub content: Vec<Part>,
}

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Words.
    Text(String),
    /// A picture, by its place in the question, counted from 0: the candidates, then the picture that was edited.
    Image(usize),
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
    messages: Vec<RawMessage>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMessage {
    role: String,
    content: Vec<RawPart>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a part is `{ text = \"...\" }`, `{ image = 1 }` or `{ base = true }`"
)]
enum RawPart {
    Text { text: String },
    Image { image: usize },
    Base { base: bool },
}

impl JudgeTemplate {
    /// Reads a template file and tries it, so that a fault shows before a model is loaded.
    ///
    /// # Errors
    /// [`TemplateError`], which names the file and the key.
    pub fn load(file: &Path) -> Result<Self, TemplateError> {
        let text = std::fs::read_to_string(file).map_err(|source| TemplateError::Read {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(&text, file)
    }

    /// Reads a template's text; `file` is for error messages.
    ///
    /// # Errors
    /// As [`JudgeTemplate::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, TemplateError> {
        let raw: RawTemplate = toml::from_str(text).map_err(|source| TemplateError::Syntax {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
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
        check_messages(&raw.messages, &fault)?;
        let mut template = Self {
            name: raw.name,
            answer: raw.answer,
            labels,
            label_mass_min: raw.label_mass_min,
            digest: Digest::of(text.as_bytes()),
            messages: raw.messages,
            file: file.to_owned(),
            environment: environment(),
        };
        template.compile()?;
        if let Some(trial) = RubricSet::from_text("Trial\n- criterion") {
            template.render("caption", &trial, Pictures::InOrder)?;
        }
        Ok(template)
    }

    /// Fingerprint of the template's text.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether the question shows the picture that was edited.
    pub fn shows_base(&self) -> bool {
        let mut parts = self.messages.iter().flat_map(|message| &message.content);
        parts.any(|part| matches!(part, RawPart::Base { .. }))
    }

    /// Builds the conversation for a pair.
    ///
    /// # Errors
    /// [`TemplateError::Render`] when an expression fails on these values.
    pub fn render(&self, caption: &str, rubric: &RubricSet, pictures: Pictures) -> Result<Vec<Message>, TemplateError> {
        let values = context! {
            caption,
            rubric => rubric.text(),
            criteria => rubric.criteria().collect::<Vec<_>>(),
            themes => rubric.themes.iter().map(|theme| context! { name => theme.name, criteria => theme.tips }).collect::<Vec<_>>(),
        };
        let part = |(key, part): (String, &RawPart)| match part {
            RawPart::Text { .. } => self
                .environment
                .get_template(&key)
                .and_then(|template| template.render(&values))
                .map(Part::Text)
                .map_err(|source| TemplateError::Render {
                    file: self.file.clone(),
                    key,
                    source: Box::new(source),
                }),
            RawPart::Image { image } => Ok(Part::Image(match pictures {
                Pictures::InOrder => image - 1,
                Pictures::Swapped => PICTURES - image,
            })),
            RawPart::Base { .. } => Ok(Part::Image(BASE)),
        };
        let message = |(index, message): (usize, &RawMessage)| {
            let content = message.parts(index).map(part).collect::<Result<_, _>>()?;
            Ok(Message {
                role: message.role.clone(),
                content,
            })
        };
        self.messages.iter().enumerate().map(message).collect()
    }

    fn compile(&mut self) -> Result<(), TemplateError> {
        for (index, message) in self.messages.iter().enumerate() {
            for (key, part) in message.parts(index) {
                let RawPart::Text { text } = part else { continue };
                self.environment
                    .add_template_owned(key.clone(), text.clone())
                    .map_err(|source| TemplateError::Render {
                        file: self.file.clone(),
                        key,
                        source: Box::new(source),
                    })?;
            }
        }
        Ok(())
    }
}

impl RawMessage {
    /// The parts with their keys.
    fn parts(&self, message: usize) -> impl Iterator<Item = (String, &RawPart)> {
        self.content.iter().enumerate().map(move |(index, part)| {
            let field = match part {
                RawPart::Text { .. } => "text",
                RawPart::Image { .. } => "image",
                RawPart::Base { .. } => "base",
            };
            (format!("messages[{message}].content[{index}].{field}"), part)
        })
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment
}

fn check_messages(messages: &[RawMessage], fault: &dyn Fn(&str, &str) -> TemplateError) -> Result<(), TemplateError> {
    let mut shown = [0; PICTURES];
    let mut bases = 0;
    for (index, message) in messages.iter().enumerate() {
        if !["system", "user", "assistant"].contains(&message.role.as_str()) {
            return Err(fault(
                &format!("messages[{index}].role"),
                "must be `system`, `user` or `assistant`",
            ));
        }
        for (key, part) in message.parts(index) {
            let image = match part {
                RawPart::Text { .. } => continue,
                RawPart::Image { image } => image,
                RawPart::Base { base } => {
                    bases += 1;
                    if !base || bases > 1 {
                        return Err(fault(&key, "must be `true`, and stand in one place"));
                    }
                    continue;
                }
            };
            match image.checked_sub(1).and_then(|place| shown.get_mut(place)) {
                Some(count) => *count += 1,
                None => return Err(fault(&key, "must be 1 or 2")),
            }
        }
    }
    match shown.iter().position(|count| *count != 1) {
        Some(place) => Err(fault(
            "messages",
            &format!("must show image {} exactly once", place + 1),
        )),
        None => Ok(()),
    }
}
