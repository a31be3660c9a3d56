//! Whoever reaches a coordinator's ports may send anything. Here somebody does: each test starts a real coordinator with a good
//! run, does its worst, and then asks that the coordinator has lived on within its memory, finishes the good run, and starts
//! again on what it has written. `coordinator` is the other way round.
//!
//! `cargo test -p gavel --test hostile`

#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod connections;
mod coordinator;
mod messages;
mod results;
mod stranger;
mod streams;
mod target;
mod web;
