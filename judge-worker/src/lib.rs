//! Judge units of a fleet: any [`gavel_rubric::Judge`] behind the worker's interface.

#![forbid(unsafe_code)]

mod difference;
mod open_judge;
mod questions;
mod rubric_writer;
mod work;

pub use work::JudgeWork;
