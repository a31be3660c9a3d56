//! What a judge reads: rubric sets, and the templates that put a rubric, a caption and two pictures before a model.
//!
//! Both are files that people write and version. A run carries their text, so that a judge on another machine reads the same
//! words; fingerprints say which words these were. [`generate`] writes a rubric set from labelled examples ([`data`]), and [`weigh`] learns from them how much
//! each criterion counts.

#![forbid(unsafe_code)]

mod ask;
mod conversation;
pub mod data;
mod error;
pub mod generate;
mod journal;
mod provenance;
mod reason;
mod recorded;
mod rubrics;
mod set;
mod template;
pub mod threads;
pub mod weigh;
mod weight;
mod yes_no;

pub use ask::{AskError, Chat, ChatReply, ChatRequest, Judge, JudgedPair, ServerWords};
pub use conversation::{Message, Part};
pub use error::{RubricError, TemplateError};
pub use journal::{Journal, JournalError};
pub use provenance::{DroppedCriterion, Generation, Provenance, Structuring, Verification, Weighing, WhyDropped};
pub use reason::ReasonTemplate;
pub use recorded::{Recorded, RecordedPair};
pub use rubrics::{Combine, PromptSet, RubricFile, Rubrics};
pub use set::{RubricSet, Theme};
pub use template::{AnswerKind, JudgeTemplate, Pictures};
pub use yes_no::yes_or_no_key;
