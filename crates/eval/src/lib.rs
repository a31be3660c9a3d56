//! Independent metrics: does a picture hold what its task says, and how far is it from its source?
//!
//! An [`Evaluator`] reads pixels by rules. A model that judges never sees its answers and it never sees the judge's, so a run that
//! pleases its judge without following its prompts is found out. A run may also have an evaluator for its judge, which then measures
//! what it rewards.
//! A [`Difference`] measures pictures against each other, whatever they show, [`Wins`] makes strengths of many comparisons, and a [`PairedDifference`] says what chance could make of a gain.

#![forbid(unsafe_code)]

mod bradley_terry;
mod distance;
mod edits;
mod error;
mod facts;
mod paired;
mod pixels;
mod scenes;
mod vocabulary;

pub use bradley_terry::{PRIOR_COMPARISONS, Strength, Wins};
pub use distance::{CHANGED_LEVELS, Difference, Distance, Region, diversity};
pub use edits::{Edits, Instruction, Place};
pub use error::EvalError;
pub use facts::{Adherence, Fact, Facts};
pub use paired::PairedDifference;
pub use scenes::{Relation, Scene, Scenes};
pub use vocabulary::{Background, Colour, Object, Shape};

use gavel_core::spec::EvaluatorName;
use image::RgbImage;

/// What a picture was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The prompt's words.
    pub words: &'a str,
    /// The pictures that are edited, in the order in which the model takes them; empty where nothing is edited.
    pub sources: &'a [RgbImage],
}

/// What an evaluator finds in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What the task asks for, and whether the picture shows it: whether the prompt is followed or the edit done.
    pub facts: Facts,
    /// How much of what the task leaves alone is as it was in the source, in [0, 1]; `None` where nothing is edited.
    pub preservation: Option<f64>,
}

/// Scores a picture against its task.
pub trait Evaluator: Send + Sync {
    /// The name that configurations give it.
    fn name(&self) -> &'static str;

    /// Width and height in pixels of the pictures that its rules are made for.
    fn side(&self) -> u32;

    /// Says whether the evaluator understands a task, before anything is sampled for it.
    ///
    /// # Errors
    /// [`EvalError::Prompt`] or [`EvalError::Instruction`] with the part that is not understood; one of [`EvalError::Sources`],
    /// [`EvalError::SourceSize`] and [`EvalError::Source`] for source pictures that the rules cannot be applied to.
    fn check(&self, task: &Task<'_>) -> Result<(), EvalError>;

    /// Lists the task's facts and whether each holds in the picture, and measures what is preserved of the source.
    ///
    /// # Errors
    /// As [`Evaluator::check`]; [`EvalError::Size`] for a picture of another size than [`Evaluator::side`].
    fn evaluate(&self, task: &Task<'_>, image: &RgbImage) -> Result<Answer, EvalError>;
}

/// The evaluator of that name in a configuration.
pub fn named(name: EvaluatorName) -> Box<dyn Evaluator> {
    match name {
        EvaluatorName::Scenes => Box::new(Scenes),
        EvaluatorName::Edits => Box::new(Edits),
    }
}

/// The names that [`by_name`] knows.
pub const EVALUATORS: [&str; 2] = [scenes::NAME, edits::NAME];

/// Finds an evaluator by the name in `evaluation.evaluator`.
///
/// # Errors
/// [`EvalError::Unknown`] with the names that exist.
pub fn by_name(name: &str) -> Result<Box<dyn Evaluator>, EvalError> {
    match name {
        scenes::NAME => Ok(Box::new(Scenes)),
        edits::NAME => Ok(Box::new(Edits)),
        _ => Err(EvalError::Unknown { name: name.to_owned() }),
    }
}
