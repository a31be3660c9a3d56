//! gavel-eval.
