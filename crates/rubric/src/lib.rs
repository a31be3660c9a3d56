//! What a judge reads: rubric sets, and the templates that put a rubric, a caption and two pictures before a model.
//!
//! Both are files that people write and version. A run carries their text, so that a judge on another machine reads the same
//! words; fingerprints say which words these were.

#![forbid(unsafe_code)]

mod ask;
pub mod data;
mod error;
mod set;
mod template;

pub use ask::{AskError, Chat, ChatReply, ChatRequest, Judge, JudgedPair, Spent, Usage};
pub use error::{RubricError, TemplateError};
pub use set::{Provenance, RubricSet, Theme};
pub use template::{AnswerKind, JudgeTemplate, Message, Part, Pictures};
