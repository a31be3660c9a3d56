//! Gradients, updates and whole steps on the shipped small model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod gradient;
mod in_process;
mod replay;
mod shapes;
