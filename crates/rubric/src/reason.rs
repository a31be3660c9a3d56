//! Reason templates: the words in which a model is asked why one picture is better.

use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::work::Side;
use minijinja::context;
use serde::Deserialize;

use crate::conversation::{self, Conversation, Message, PICTURES, Place, Turn, read};
use crate::{TemplateError, Theme};

const VARIABLES: &str = "`caption`, `editing`, `theme`, `criteria` and `better`";

/// A prompt for a vision-language model that says in one sentence why a picture is better.
#[derive(Debug, Clone)]
pub struct ReasonTemplate {
    /// What people call it.
    pub name: String,
    digest: Digest,
    conversation: Conversation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    name: String,
    messages: Vec<Turn>,
}

impl ReasonTemplate {
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
    /// As [`ReasonTemplate::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, TemplateError> {
        let raw: RawTemplate = conversation::parse(text, file)?;
        let template = Self {
            name: raw.name,
            digest: Digest::of(text.as_bytes()),
            conversation: Conversation::new(raw.messages, VARIABLES, file)?,
        };
        for (name, sources) in [(None, 0), (Some("Trial".to_owned()), 1)] {
            let trial = Theme {
                name,
                tips: vec!["criterion".to_owned()],
                ..Theme::default()
            };
            template.render("caption", &trial, Side::First, sources)?;
        }
        Ok(template)
    }

    /// Fingerprint of the template's text.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Asks why candidate `better` is the better one under `theme`. So many pictures after the candidates were edited; without
    /// any their place is left out.
    ///
    /// # Errors
    /// [`TemplateError::Render`] when an expression fails on these values.
    pub fn render(
        &self,
        caption: &str,
        theme: &Theme,
        better: Side,
        sources: usize,
    ) -> Result<Vec<Message>, TemplateError> {
        let values = context! {
            caption,
            editing => sources > 0,
            theme => theme.name.as_deref().unwrap_or_default(),
            criteria => theme.tips,
            better => match better { Side::First => 1, Side::Second => 2 },
        };
        self.conversation.render(values, |place| match place {
            Place::Candidate(candidate) => Ok(candidate..candidate + 1),
            Place::Base => Ok(PICTURES..PICTURES + sources),
        })
    }
}
