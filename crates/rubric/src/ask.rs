//! The two things that Gavel asks of a vision-language model: words ([`Chat`]) and verdicts ([`Judge`]).
//!
//! Both traits are blocking and are called from several threads at once: whoever has many questions runs as many threads as it
//! wants answers under way. Back ends live in `gavel-judge`.

use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::work::{Orders, Spent, Usage, VerdictRecord};
use gavel_core::{Diagnostic, Hint};
use image::RgbImage;

use crate::{Message, RubricSet};

/// A vision-language model that answers in words.
pub trait Chat: Send + Sync {
    /// The model's name, for people and for records.
    fn name(&self) -> &str;

    /// Fingerprint of what answers: a folder's weights, or an endpoint's address and model. What was asked of one is never
    /// taken for an answer of another.
    fn identity(&self) -> Digest;

    /// Answers one request.
    ///
    /// # Errors
    /// [`AskError`], after the back end's own attempts.
    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError>;

    /// What has been used so far; nothing for a model in this process.
    fn spent(&self) -> Spent {
        Spent::default()
    }
}

/// A conversation to be continued.
#[derive(Debug, Clone)]
pub struct ChatRequest<'a> {
    /// What was said so far; `Part::Image(k)` stands for `images[k]`.
    pub messages: &'a [Message],
    /// The pictures.
    pub images: &'a [&'a RgbImage],
    /// Most tokens that the answer may have.
    pub max_tokens: u32,
    /// 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Of the sampling, where the temperature is above 0.
    pub seed: u64,
    /// A JSON Schema that the answer has to fit. Where a back end cannot enforce it, it says it in words, and the reader parses
    /// tolerantly.
    pub schema: Option<&'a serde_json::Value>,
}

/// An answer in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatReply {
    /// The words.
    pub text: String,
    /// Whether the model ended the answer itself, and was not cut off at `max_tokens`.
    pub complete: bool,
    /// What it took.
    pub usage: Usage,
}

/// A frozen model that says which of two pictures is better by a rubric.
pub trait Judge: Send + Sync {
    /// The model's name, for people and for records.
    fn name(&self) -> &str;

    /// Fingerprint of everything but rubric and pair that a verdict depends on: the model, the template's words, the margin.
    fn identity(&self) -> Digest;

    /// As [`Judge::identity`], of what decides under this rubric: the rule by which criteria with weights are put together is part of it.
    fn identity_under(&self, _rubric: &RubricSet) -> Digest {
        self.identity()
    }

    /// Whether a verdict depends on the pair's list: the judge is shown all its pictures at once.
    fn sees_lists(&self) -> bool {
        false
    }

    /// Judges pairs, each in its image orders and by its own rubric; one record for each, in order, that says the same orders. A pair's verdict does not depend on
    /// the others in the call. An answer that cannot be used is no error but an abstention or a failed verdict of that pair.
    ///
    /// # Errors
    /// [`AskError`] when a pair cannot be judged, after the back end's own attempts.
    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError>;

    /// What has been used so far; nothing for a model in this process.
    fn spent(&self) -> Spent {
        Spent::default()
    }
}

/// Two pictures of one prompt.
#[derive(Debug, Clone, Copy)]
pub struct JudgedPair<'a> {
    /// The prompt's index in the step, the held-out set or the labelled set.
    pub prompt_index: PromptIndex,
    /// The prompt's words: a description, or the instruction of an edit.
    pub prompt: &'a str,
    /// The pictures that were edited; empty for text-to-image.
    pub sources: &'a [RgbImage],
    /// The first candidate.
    pub first: &'a RgbImage,
    /// The second candidate.
    pub second: &'a RgbImage,
    /// What decides about them; it may be empty.
    pub rubric: &'a RubricSet,
    /// In which image orders the judge is asked.
    pub orders: Orders,
    /// All pictures of the prompt that are compared with each other, these two among them by their addresses: for a judge that
    /// [sees lists](Judge::sees_lists). Empty where nobody does, and where there are no more than these two.
    pub list: &'a [&'a RgbImage],
}

/// What a server said, cut short and without secrets: for whoever asked and for its log. Nobody else is shown it, since the
/// server may be one that the others must not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServerWords(String);

impl ServerWords {
    /// Words that are fit to be told.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A question that got no answer. Its text and its remedy may be told to everybody; a server's words are its cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Asking again later, or elsewhere, may work.
    #[error("{reason}")]
    Unavailable {
        /// What happened.
        reason: String,
        /// The remedy, if there is one.
        hint: Option<String>,
        /// A server's words, if there are any.
        #[source]
        said: Option<ServerWords>,
    },
    /// Nobody is answered there, whatever is asked: the configuration is at fault, such as a key or an address.
    #[error("{reason}")]
    Refused {
        /// What happened.
        reason: String,
        /// The remedy, if there is one.
        hint: Option<String>,
        /// A server's words, if there are any.
        #[source]
        said: Option<ServerWords>,
    },
    /// The question itself is at fault: no attempt can work, and others may be answered.
    #[error("{reason}")]
    Unanswerable {
        /// What is wrong.
        reason: String,
        /// The remedy, if there is one.
        hint: Option<String>,
        /// A server's words, if there are any.
        #[source]
        said: Option<ServerWords>,
    },
}

impl AskError {
    /// An [`AskError::Unanswerable`] that carries `error` and its remedy.
    pub fn unanswerable(error: &(impl std::error::Error + Hint)) -> Self {
        let told = Diagnostic::of(error);
        Self::Unanswerable {
            reason: told.to_string(),
            hint: told.hint,
            said: None,
        }
    }

    /// What may be told to everybody: no words of a server are in it.
    pub fn for_everybody(&self) -> Diagnostic {
        Diagnostic {
            hint: self.hint(),
            ..Diagnostic::new(self.to_string())
        }
    }
}

impl Hint for AskError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unavailable { hint, .. } | Self::Refused { hint, .. } | Self::Unanswerable { hint, .. } => {
                hint.clone()
            }
        }
    }
}
