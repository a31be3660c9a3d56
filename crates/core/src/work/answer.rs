//! What is answered to a question about a picture.

use serde::{Deserialize, Serialize};

/// The answer to a question about one picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum PictureAnswer {
    /// Yes.
    Yes,
    /// No.
    No,
    /// The model said neither yes nor no.
    Neither,
    /// There is no answer at all.
    Unanswered {
        /// Why.
        reason: String,
    },
}

impl PictureAnswer {
    /// What a model said: `None` for neither yes nor no.
    pub fn said(yes: Option<bool>) -> Self {
        match yes {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Neither,
        }
    }

    /// Whether a model has spoken, so that nobody need be asked again.
    pub fn is_answered(&self) -> bool {
        !matches!(self, Self::Unanswered { .. })
    }
}
