//! gavel-sampler-worker.
