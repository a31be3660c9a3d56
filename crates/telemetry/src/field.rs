//! The names of the fields in spans and log lines. One name for each thing, so that a search for `run=quickstart` or for a
//! trace finds the lines of every process.

/// The run.
pub const RUN: &str = "run";
/// The step, where the work belongs to one.
pub const STEP: &str = "step";
/// The unit of work, in words.
pub const UNIT: &str = "unit";
/// The lease's number within the run.
pub const FENCE: &str = "fence";
/// The worker, by the name that the coordinator gave it.
pub const WORKER: &str = "worker";
/// The trace id, in hexadecimal. A unit's lines share it, whichever process wrote them.
pub const TRACE: &str = "trace";
/// The gRPC method that is being answered.
pub const METHOD: &str = "method";
