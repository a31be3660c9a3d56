//! The blobs of a unit, each with what it is in words.

use gavel_core::ids::Digest;
use gavel_core::work::{Assignment, Outcome};

/// A blob, with what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) what: String,
    pub(super) digest: Digest,
}

/// The blobs that a worker needs for an assignment.
pub(super) fn inputs(assignment: &Assignment) -> impl Iterator<Item = Named> {
    assignment.inputs().map(|(digest, part)| {
        let whose = if part.is_of_policy() { "policy's " } else { "" };
        let what = format!("the {whose}{part}");
        Named { what, digest }
    })
}

/// The blobs that an outcome names.
pub(super) fn outputs(outcome: &Outcome) -> impl Iterator<Item = Named> {
    outcome.outputs().map(|(digest, part)| {
        let new = if part.is_of_policy() { "new " } else { "" };
        let what = format!("the {new}{part}");
        Named { what, digest }
    })
}
