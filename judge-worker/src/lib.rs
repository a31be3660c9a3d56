//! Judges pairs of images with a frozen vision-language model, by a rubric.
//!
//! The verdict is read from the logits of the two answer labels, not from written text, and each pair is judged in both
//! image orders: a candidate is preferred only when both orders say so. [`Judge`] is synchronous and knows nothing of the
//! fleet; `gavel judge` calls it directly. [`JudgeWork`] wraps it for a worker.

#![forbid(unsafe_code)]

mod answer;
mod judge;
mod work;

pub use answer::{Answer, decide};
pub use judge::{Error, Judge, JudgedPair, check_question};
pub use work::JudgeWork;
