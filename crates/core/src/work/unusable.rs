//! Inputs that a worker could not use.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// An input that a worker could not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// The blob.
    pub blob: Digest,
    /// Who is to blame.
    pub fault: Fault,
}

/// Why an input cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The store no longer has the bytes, or has others than were stored.
    Storage,
    /// The bytes are those that were stored, and not what the unit asks for: the worker that made them is not to be trusted.
    Producer,
}
