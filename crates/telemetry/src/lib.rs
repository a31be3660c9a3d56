//! What Gavel tells about itself: log lines, the fields that they carry, traces across processes, and metrics.
//!
//! Every process starts its log with [`log::start`]. Whoever works on a unit does so within [`span::unit`], so that each
//! line inside names the unit in the same words, at the worker and at the coordinator. A [`TraceContext`] goes with the unit
//! from the one to the other. [`metric`] lists what is measured.
//!
//! Lines go to stderr, and metrics to whatever recorder the process installs. Spans go to a collector of OpenTelemetry where one is named
//! and the feature `otlp` is on; nothing else is sent anywhere.

#![forbid(unsafe_code)]

#[cfg(feature = "otlp")]
mod export;
pub mod field;
mod line;
pub mod log;
pub mod metric;
pub mod span;
mod trace;

pub use trace::{InvalidTraceparent, TraceContext};
