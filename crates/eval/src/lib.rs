//! Independent metrics: does a picture hold what its prompt says?
//!
//! An [`Evaluator`] reads pixels by rules. The judge never sees its answers and it never sees the judge's, so a run that
//! pleases its judge without following its prompts is found out.

#![forbid(unsafe_code)]

mod error;
mod facts;
mod scenes;

pub use error::EvalError;
pub use facts::{Adherence, Fact, Facts};
pub use scenes::{Background, Colour, Object, Relation, Scene, Scenes, Shape};

/// Scores a picture against its prompt.
pub trait Evaluator: Send + Sync {
    /// The name that `evaluation.evaluator` gives it.
    fn name(&self) -> &'static str;

    /// Says whether the evaluator understands a prompt, before anything is sampled for it.
    ///
    /// # Errors
    /// [`EvalError::Prompt`] with the part that is not understood.
    fn check_prompt(&self, prompt: &str) -> Result<(), EvalError>;

    /// Lists the prompt's facts and whether each holds in the picture.
    ///
    /// # Errors
    /// [`EvalError::Prompt`] as in [`Evaluator::check_prompt`]; [`EvalError::Size`] for a picture of another size than the rules are
    /// made for.
    fn evaluate(&self, prompt: &str, image: &image::RgbImage) -> Result<Facts, EvalError>;
}

/// The names that [`by_name`] knows.
pub const EVALUATORS: [&str; 1] = [scenes::NAME];

/// Finds an evaluator by the name in `evaluation.evaluator`.
///
/// # Errors
/// [`EvalError::Unknown`] with the names that exist.
pub fn by_name(name: &str) -> Result<Box<dyn Evaluator>, EvalError> {
    match name {
        scenes::NAME => Ok(Box::new(Scenes)),
        _ => Err(EvalError::Unknown { name: name.to_owned() }),
    }
}
