//! The pure domain of Gavel: run specification, RPO arithmetic, noise keys, and the run's state machine.
//!
//! Nothing here does IO, reads a clock, spawns a task or draws from a generator that has state: time and randomness are
//! arguments. Every other crate depends on this one; it depends on none of them.

#![forbid(unsafe_code)]

pub mod assets;
pub mod blob_store;
pub mod bounds;
pub mod forecast;
pub mod hint;
pub mod ids;
pub mod measure;
pub mod noise;
pub mod panics;
pub mod rpo;
pub mod run;
pub mod schedule;
pub mod spec;
pub mod text;
pub mod token;
pub mod work;

pub use assets::{
    Annotation, Annotations, HeldOutJudgeAssets, LabelledPair, ModelFingerprints, PromptRubric, PromptRubrics,
    RubricText, RunAssets, UnreadableAssets,
};
pub use hint::{Diagnostic, Hint};
