//! A worker, as people see it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Memory, Role};
use crate::ids::{RunId, WorkerId};

/// One row of the worker table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerStatus {
    /// Its name.
    pub id: WorkerId,
    /// What it does.
    pub role: Role,
    /// Where it runs.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// What it computes on.
    pub device: String,
    /// The memory of that, where the worker can tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The share of the time between its latest two heartbeats in which it worked on a unit, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<u8>,
    /// Its Gavel version.
    pub version: String,
    /// Since when it is known.
    pub registered_unix_ms: u64,
    /// When it was last heard of.
    pub seen_unix_ms: u64,
    /// Results accepted from it.
    pub completed: u64,
    /// Attempts that it reported as failed.
    pub failed: u64,
    /// Whether it was told to leave: it finishes what it holds.
    pub leaves: bool,
    /// What it holds: run and unit.
    pub leases: Vec<HeldLease>,
}

/// A lease in the worker table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeldLease {
    /// The run.
    pub run: RunId,
    /// The unit, in words.
    pub unit: String,
    /// Since when.
    pub granted_unix_ms: u64,
}
