//! Why a judge cannot be had, or cannot judge.

use std::path::PathBuf;

use gavel_core::Hint;
use gavel_core::bounds::Exceeded;
use gavel_models::{LoadError, ModelError};
use gavel_rubric::{AskError, TemplateError};

/// A judge that cannot be had, or cannot judge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template cannot be read, or does not render for this prompt.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model's folder cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A label is not one token, or the model refused its input.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device cannot be used.
    #[error("device {device}")]
    Device {
        /// As the spec names it.
        device: String,
        /// What the system said.
        #[source]
        source: candle_core::Error,
    },
    /// The model gave NaN or infinity.
    #[error("the judge's logits for `{prompt}` are not finite")]
    NotFinite {
        /// The prompt's words.
        prompt: String,
    },
    /// The folder holds a model of another architecture than the spec says, or of one that is not known.
    #[error("{}: the model is a `{found}`, not a {expected}", dir.display())]
    Architecture {
        /// The folder.
        dir: PathBuf,
        /// `model_type` of its `config.json`.
        found: String,
        /// What was looked for.
        expected: &'static str,
    },
    /// The prompt is longer than any judge is asked about.
    #[error(transparent)]
    LongPrompt(#[from] Exceeded),
    /// What is asked of the judge does not go together.
    #[error("{problem}")]
    Unfit {
        /// What.
        problem: String,
        /// The remedy.
        hint: &'static str,
    },
    /// The server's client cannot be made.
    #[error("{problem}")]
    Client {
        /// What is missing or wrong.
        problem: String,
        /// The remedy.
        hint: String,
    },
    /// A server's answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Template(error) => error.hint(),
            Self::Load(error) => error.hint(),
            Self::Ask(error) => error.hint(),
            Self::Model(ModelError::Value { input: "label", .. }) => {
                Some("choose labels in the judge template that the judge's tokenizer knows as one token each".into())
            }
            Self::Model(error) => error.hint(),
            Self::Device { .. } => Some("name another device, or use a build that knows it".into()),
            Self::NotFinite { .. } => {
                Some("the judge's weights are damaged, or its number format overflows: try f32".into())
            }
            Self::Architecture { .. } => Some(
                "set `judge.family` to what the folder holds; a server can host other models (docs/judges.md)".into(),
            ),
            Self::LongPrompt(_) => Some("shorten the prompt".into()),
            Self::Unfit { hint, .. } => Some((*hint).into()),
            Self::Client { hint, .. } => Some(hint.clone()),
        }
    }
}

impl Error {
    /// Whether it is the pair that cannot be judged, and another could be.
    pub(crate) fn is_of_the_pair(&self) -> bool {
        matches!(
            self,
            Self::LongPrompt(_) | Self::Template(_) | Self::Model(ModelError::Value { .. } | ModelError::Tokenize(_))
        )
    }
}
