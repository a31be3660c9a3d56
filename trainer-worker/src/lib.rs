//! gavel-trainer-worker.
