//! Why a generation ends without a rubric.

use gavel_core::Hint;

use crate::{AskError, TemplateError};

/// A generation that ended without a rubric.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A model does not answer.
    #[error("the generation stopped: a question got no answer")]
    Ask(#[from] AskError),
    /// A template does not render.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Nothing was verified.
    #[error(
        "no criteria could be verified: {dropped} examples dropped, {unreadable} of them without a readable answer"
    )]
    NothingVerified {
        /// Examples whose criteria were dropped.
        dropped: usize,
        /// Of these, those without readable criteria.
        unreadable: usize,
    },
    /// A setting out of its range.
    #[error("`{name}` {problem}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Hint for GenerateError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Ask(error) => error.hint(),
            Self::Template(error) => error.hint(),
            Self::NothingVerified { dropped, unreadable } if dropped == unreadable => {
                Some("look at the answers in the journal: the model does not keep to the JSON that it is asked for".to_owned())
            }
            Self::NothingVerified { .. } => Some(
                "try the judge on the examples with `gavel rubric check`; it may not follow criteria, or the labels may be wrong"
                    .to_owned(),
            ),
            Self::Setting { .. } => None,
        }
    }
}
