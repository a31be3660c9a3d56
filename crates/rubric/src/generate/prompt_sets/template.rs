//! The words in which a model is asked for the set of a prompt.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::WantedSet;
use crate::conversation::{self, Conversation, Place, Turn};
use crate::data::{Picture, RankedPair};
use crate::generate::Language;
use crate::recorded::number;
use crate::{Message, Part, TemplateError};

/// How a model is asked for the set of a prompt: turns before all else, turns for each labelled example that is shown, and turns that ask.
/// Turns of one role that follow each other become one.
#[derive(Debug, Clone)]
pub struct WriteTemplate {
    before: Conversation,
    example: Conversation,
    ask: Conversation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    #[serde(rename = "name")]
    _name: String,
    #[serde(default)]
    before: Vec<Turn>,
    example: Vec<Turn>,
    ask: Vec<Turn>,
}

const VARIABLES: &str = "`caption`, `editing`, `better`, `count` and `examples`";

/// The values that a template may name.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Values<'a> {
    /// The caption, or the instruction of an edit: of the example, and in `ask` and `before` of the prompt.
    caption: &'a str,
    /// Whether a picture is edited.
    editing: bool,
    /// The example's better picture, 1 or 2; 0 elsewhere.
    better: usize,
    /// How many criteria are wanted at most.
    count: usize,
    /// How many examples are shown.
    examples: usize,
}

impl WriteTemplate {
    /// The template that comes with Gavel.
    ///
    /// # Errors
    /// [`TemplateError`]: a defect of this build.
    pub fn built_in(language: Language) -> Result<Self, TemplateError> {
        let (file, text) = match language {
            Language::English => (
                "configs/rubric/en/write.toml",
                include_str!("../../../../../configs/rubric/en/write.toml"),
            ),
            Language::Chinese => (
                "configs/rubric/zh/write.toml",
                include_str!("../../../../../configs/rubric/zh/write.toml"),
            ),
        };
        Self::parse(text, Path::new(file))
    }

    /// Reads a template file.
    ///
    /// # Errors
    /// [`TemplateError`], which names file and key.
    pub fn load(file: &Path) -> Result<Self, TemplateError> {
        Self::parse(&conversation::read(file)?, file)
    }

    /// Reads a template's text and tries it with and without a picture that is edited; `file` is for error messages.
    ///
    /// # Errors
    /// [`TemplateError`], which names file and key.
    pub fn parse(text: &str, file: &Path) -> Result<Self, TemplateError> {
        let raw: RawTemplate = conversation::parse(text, file)?;
        let part = |name, turns| Conversation::of_part(name, turns, VARIABLES, file);
        let template = Self {
            before: part("before", raw.before)?,
            example: part("example", raw.example)?,
            ask: part("ask", raw.ask)?,
        };
        for editing in [false, true] {
            let values = Values {
                editing,
                ..Values::default()
            };
            template.before.render(values, no_candidates(0))?;
            template.example.render(values, |_| Ok(0..1))?;
            template.ask.render(values, no_candidates(0))?;
        }
        Ok(template)
    }

    /// The question about a prompt, with the pictures that its parts name: of each example the two candidates and what was edited, then what
    /// the prompt edits.
    ///
    /// # Errors
    /// [`TemplateError`]: an expression fails, or a part shows a picture that it has not.
    pub(super) fn render<'a>(
        &self,
        wanted: &WantedSet<'a>,
        shown: &[RankedPair<'a>],
        count: usize,
    ) -> Result<(Vec<Message>, Vec<&'a Picture>), TemplateError> {
        let mut pictures: Vec<&Picture> = Vec::new();
        let values = Values {
            caption: wanted.prompt,
            editing: wanted.source.is_some(),
            better: 0,
            count,
            examples: shown.len(),
        };
        let mut messages = self.before.render(values, no_candidates(0))?;
        for pair in shown {
            let first = pictures.len();
            pictures.extend(pair.pictures);
            pictures.extend(&pair.example.source);
            let of_example = Values {
                caption: &pair.example.prompt,
                editing: pair.example.source.is_some(),
                better: number(pair.preferred),
                ..values
            };
            let last = pictures.len();
            messages.extend(self.example.render(of_example, |place| match place {
                Place::Candidate(candidate) => Ok(first + candidate..first + candidate + 1),
                Place::Base => Ok(first + 2..last),
            })?);
        }
        let first = pictures.len();
        pictures.extend(wanted.source);
        let bases = pictures.len() - first;
        let ask = self.ask.render(values, |place| match place {
            Place::Base => Ok(first..first + bases),
            Place::Candidate(_) => Err(NO_CANDIDATES),
        })?;
        messages.extend(ask);
        Ok((joined(messages), pictures))
    }
}

const NO_CANDIDATES: &str = "names a candidate, and only `example` has candidates";

/// Places of a part that shows no picture but the one that is edited.
fn no_candidates(base: usize) -> impl Fn(Place) -> Result<std::ops::Range<usize>, &'static str> {
    move |place| match place {
        Place::Base => Ok(base..base),
        Place::Candidate(_) => Err(NO_CANDIDATES),
    }
}

/// Turns of one role that follow each other become one, and so do words.
fn joined(messages: Vec<Message>) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::new();
    for Message { role, content } in messages {
        if all.last().is_none_or(|last| last.role != role) {
            all.push(Message {
                role,
                content: Vec::new(),
            });
        }
        let Some(last) = all.last_mut() else { continue };
        for part in content {
            match (last.content.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(words)) => before.push_str(&words),
                (_, part) => last.content.push(part),
            }
        }
    }
    all
}
