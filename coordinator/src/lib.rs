//! gavel-coordinator.
