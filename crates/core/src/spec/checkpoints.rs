//! `[checkpoints]`: which policies are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::section::Section;

/// `[checkpoints]`: which policies are written to the run's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Steps between two checkpoints; 0 writes only the final adapter.
    pub every: u32,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self { every: 50 }
    }
}

impl Section for CheckpointSpec {}
