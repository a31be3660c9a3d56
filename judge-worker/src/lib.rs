//! Judge units of a fleet: any [`gavel_rubric::Judge`] behind the worker's interface.

#![forbid(unsafe_code)]

mod bench;
mod difference;
mod work;

pub use work::JudgeWork;
