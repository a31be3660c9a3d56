//! gavel-worker.
