//! What a worker uses of its machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::Device;

/// What a worker computes on, and how full it is: told with each heartbeat, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUse {
    /// The device of the run that it worked for last.
    pub device: Device,
    /// Its memory, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The share of the time since the heartbeat before in which it worked on a unit, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<u8>,
}

/// Memory in bytes: of a GPU, whoever uses it; on a CPU, this process's among that of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// In use.
    pub used_bytes: u64,
    /// All there is.
    pub total_bytes: u64,
}
