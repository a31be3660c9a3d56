//! The program as people run it, each test by the real binary.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod errors;
mod evaluate;
mod files;
mod help;
mod logs;
mod orders;
mod output;
mod paths;
mod questions;
mod rubrics;
mod secrets;
mod served;
mod spans;
mod support;
