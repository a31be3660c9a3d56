//! The judges that Gavel can ask which of two pictures is better.
//!
//! Each is a [`gavel_rubric::Judge`]. [`VlmJudge`] is a frozen vision-language model in this process: it reads its verdict from
//! the logits of the two answer labels, not from written text, and judges each pair in both image orders: a candidate is
//! preferred only when both orders say so.

#![forbid(unsafe_code)]

mod answer;
mod vlm;

pub use answer::{Answer, decide};
pub use vlm::{Error, VlmJudge, check_question};
