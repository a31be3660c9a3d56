//! A committed policy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// A committed policy: everything that the next step, or a resumed run, starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// `adapter_model.safetensors`, PEFT layout, f32.
    pub adapter: Digest,
    /// AdamW moments, step count and EMA, as docs/formats.md describes.
    pub optimizer: Digest,
    /// The averaged adapter, where the run keeps one; what evaluation and the final folder use.
    pub averaged: Option<Digest>,
    /// Hash of the adapter's tensor names and shapes: what a worker that binds it must report.
    pub manifest: Digest,
    /// Number of adapter tensors.
    pub tensors: u32,
}
