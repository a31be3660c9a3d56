//! gavel-proto.
