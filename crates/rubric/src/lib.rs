//! gavel-rubric.
