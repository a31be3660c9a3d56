//! Conversations as template files write them: turns with places for words and pictures.

use std::ops::Range;
use std::path::{Path, PathBuf};

use gavel_core::text;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

use crate::TemplateError;

/// How many pictures are compared.
pub(crate) const PICTURES: usize = 2;

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
    /// A picture, by its place in the question, counted from 0: the candidates, then the pictures that were edited.
    Image(usize),
}

/// The turns of a template file.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    file: PathBuf,
    /// The key of the turns in the file.
    part: &'static str,
    turns: Vec<Turn>,
    variables: &'static str,
    environment: Environment<'static>,
}

/// A place for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A candidate, counted from 0.
    Candidate(usize),
    /// The pictures that were edited.
    Base,
}

/// One turn, as it stands in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    role: String,
    content: Vec<Piece>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a part is `{ text = \"...\" }`, `{ image = 1 }`, `{ base = true }` or `{ each = \"...\" }`"
)]
enum Piece {
    Text {
        text: String,
    },
    Image {
        image: usize,
    },
    Base {
        base: bool,
    },
    /// The words before each candidate.
    Each {
        each: String,
    },
}

impl Conversation {
    /// As [`Conversation::of_part`], of a file whose only part is `messages`.
    ///
    /// # Errors
    /// As [`Conversation::of_part`].
    pub(crate) fn new(turns: Vec<Turn>, variables: &'static str, file: &Path) -> Result<Self, TemplateError> {
        Self::of_part("messages", turns, variables, file)
    }

    /// Checks the turns of a part of a file and compiles their texts; `file` and the names of the `variables` are for error messages.
    ///
    /// # Errors
    /// [`TemplateError`], which names the file and the key.
    pub(crate) fn of_part(
        part: &'static str,
        turns: Vec<Turn>,
        variables: &'static str,
        file: &Path,
    ) -> Result<Self, TemplateError> {
        let mut conversation = Self {
            file: file.to_owned(),
            part,
            turns,
            variables,
            environment: environment(),
        };
        let mut bases = 0;
        for (index, turn) in conversation.turns.iter().enumerate() {
            if !["system", "user", "assistant"].contains(&turn.role.as_str()) {
                return Err(conversation.fault(
                    format!("{part}[{index}].role"),
                    "must be `system`, `user` or `assistant`",
                ));
            }
            for (key, piece) in turn.pieces(part, index) {
                match piece {
                    Piece::Text { text } | Piece::Each { each: text } => conversation
                        .environment
                        .add_template_owned(key.clone(), text.clone())
                        .map_err(|source| conversation.unrendered(key, source))?,
                    Piece::Image { image } if !(1..=PICTURES).contains(image) => {
                        return Err(conversation.fault(key, "must be 1 or 2"));
                    }
                    Piece::Image { .. } => {}
                    Piece::Base { base } => {
                        bases += 1;
                        if !base || bases > 1 {
                            return Err(conversation.fault(key, "must be `true`, and stand in one place"));
                        }
                    }
                }
            }
        }
        Ok(conversation)
    }

    /// The places for pictures, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let pieces = self.turns.iter().flat_map(|turn| &turn.content);
        pieces.filter_map(|piece| match piece {
            Piece::Text { .. } => None,
            Piece::Image { image } => Some(Place::Candidate(image - 1)),
            Piece::Base { .. } => Some(Place::Base),
            Piece::Each { .. } => None,
        })
    }

    /// The places for a list: all candidates, however many there are, each behind its label.
    pub(crate) fn lists(&self) -> usize {
        let pieces = self.turns.iter().flat_map(|turn| &turn.content);
        pieces.filter(|piece| matches!(piece, Piece::Each { .. })).count()
    }

    /// As [`Conversation::render_labelled`], of turns without a list.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn render(
        &self,
        values: impl Serialize,
        pictures: impl Fn(Place) -> Result<Range<usize>, &'static str>,
    ) -> Result<Vec<Message>, TemplateError> {
        self.render_labelled(values, None, pictures)
    }

    /// The turns in words. `pictures` says which pictures of the question belong in a place, none or several; an error says what
    /// is wrong with it. `list` is the pictures of a list with their labels.
    ///
    /// # Errors
    /// [`TemplateError`]: an expression fails on these values, or a picture does not fit.
    pub(crate) fn render_labelled(
        &self,
        values: impl Serialize,
        list: Option<(Range<usize>, &[String])>,
        pictures: impl Fn(Place) -> Result<Range<usize>, &'static str>,
    ) -> Result<Vec<Message>, TemplateError> {
        let values = Value::from_serialize(values);
        let mut messages = Vec::with_capacity(self.turns.len());
        for (index, turn) in self.turns.iter().enumerate() {
            let mut content = Vec::with_capacity(turn.content.len());
            for (key, piece) in turn.pieces(self.part, index) {
                let place = match piece {
                    Piece::Text { .. } => {
                        content.push(Part::Text(self.words(&key, &values)?));
                        continue;
                    }
                    Piece::Each { .. } => {
                        let Some((shown, labels)) = &list else {
                            return Err(self.fault(key, "no list of pictures is shown here"));
                        };
                        for (picture, label) in shown.clone().zip(*labels) {
                            let values = context! { label, ..values.clone() };
                            content.push(Part::Text(self.words(&key, &values)?));
                            content.push(Part::Image(picture));
                        }
                        continue;
                    }
                    Piece::Image { image } => Place::Candidate(image - 1),
                    Piece::Base { .. } => Place::Base,
                };
                let shown = pictures(place).map_err(|problem| self.fault(key, problem))?;
                content.extend(shown.map(Part::Image));
            }
            messages.push(Message {
                role: turn.role.clone(),
                content,
            });
        }
        Ok(messages)
    }

    /// The words of a part.
    fn words(&self, key: &str, values: &Value) -> Result<String, TemplateError> {
        self.environment
            .get_template(key)
            .and_then(|template| template.render(values))
            .map_err(|source| self.unrendered(key.to_owned(), source))
    }

    fn unrendered(&self, key: String, source: minijinja::Error) -> TemplateError {
        TemplateError::Render {
            file: self.file.clone(),
            key,
            variables: self.variables,
            source: Box::new(source),
        }
    }

    fn fault(&self, key: String, problem: &str) -> TemplateError {
        TemplateError::Value {
            file: self.file.clone(),
            key,
            problem: problem.to_owned(),
        }
    }
}

impl Turn {
    /// The pieces with their keys.
    fn pieces(&self, part: &'static str, turn: usize) -> impl Iterator<Item = (String, &Piece)> {
        self.content.iter().enumerate().map(move |(index, piece)| {
            let field = match piece {
                Piece::Text { .. } => "text",
                Piece::Image { .. } => "image",
                Piece::Base { .. } => "base",
                Piece::Each { .. } => "each",
            };
            (format!("{part}[{turn}].content[{index}].{field}"), piece)
        })
    }
}

/// Reads a template file.
///
/// # Errors
/// [`TemplateError::Read`].
pub(crate) fn read(file: &Path) -> Result<String, TemplateError> {
    text::of(std::fs::read(file)).map_err(|source| TemplateError::Read {
        file: file.to_owned(),
        source,
    })
}

/// Parses a template file's text.
///
/// # Errors
/// [`TemplateError::Syntax`].
pub(crate) fn parse<T: serde::de::DeserializeOwned>(text: &str, file: &Path) -> Result<T, TemplateError> {
    toml::from_str(text).map_err(|source| TemplateError::Syntax {
        file: file.to_owned(),
        source: Box::new(source),
    })
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment
}
