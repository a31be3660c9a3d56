//! The pure domain of Gavel: run specification, RPO arithmetic, noise keys, and the run's state machine.
//!
//! Nothing here does IO, reads a clock, spawns a task or draws from a generator that has state: time and randomness are
//! arguments. Every other crate depends on this one; it depends on none of them.

pub mod hint;
pub mod ids;
pub mod unit;
pub mod verdict;

pub use hint::Hint;
