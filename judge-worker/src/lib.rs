//! gavel-judge-worker.
