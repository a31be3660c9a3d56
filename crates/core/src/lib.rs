//! gavel-core.
