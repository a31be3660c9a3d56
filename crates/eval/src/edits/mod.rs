//! The `edits` evaluator: was the instruction carried out on the source picture, and was the rest left alone?
//!
//! A port of `models/train/scenes/edit_check.py`, rule for rule; `tests/golden/edits.py` made the pictures and answers that it is
//! held to. Where that script divides by nothing, because a source leaves nothing to preserve, the source is refused here.

mod fulfilment;
mod instruction;
mod preservation;
mod source;

pub use instruction::{Instruction, Place};

use image::RgbImage;

use crate::pixels::{ColourMap, SIDE};
use crate::{Answer, EvalError, Evaluator, Task};
use source::Asked;

pub(crate) const NAME: &str = "edits";

/// Checks an edit of one source picture of one or two flat shapes on a flat background.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edits;

impl Evaluator for Edits {
    fn name(&self) -> &'static str {
        NAME
    }

    fn side(&self) -> u32 {
        SIDE as u32
    }

    fn check(&self, task: &Task<'_>) -> Result<(), EvalError> {
        Asked::read(task).map(drop)
    }

    fn evaluate(&self, task: &Task<'_>, image: &RgbImage) -> Result<Answer, EvalError> {
        let asked = Asked::read(task)?;
        let shown = ColourMap::read(NAME, image)?;
        Ok(Answer {
            facts: fulfilment::facts(&asked, &shown),
            preservation: Some(preservation::kept(&asked, image)),
        })
    }
}
