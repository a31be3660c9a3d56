//! `[coordinator]`: where it listens, and what it keeps.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::section::Section;

/// `[coordinator]`: where it listens, and what it keeps. No part of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorSpec {
    /// gRPC address; port 0 takes a free one.
    pub grpc: SocketAddr,
    /// HTTP address; port 0 takes a free one.
    pub http: SocketAddr,
    /// Committed steps whose trajectories, pictures and gradients are kept; checkpoints and held-out pictures always are.
    pub keep_steps: u32,
}

impl Default for CoordinatorSpec {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            grpc: any,
            http: any,
            keep_steps: 8,
        }
    }
}

impl Section for CoordinatorSpec {}
