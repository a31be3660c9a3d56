//! The name of one grant.

use super::Unit;
use crate::ids::{Fence, RunId};

/// Names one grant: run, unit and fence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    /// The run.
    pub run: RunId,
    /// The unit.
    pub unit: Unit,
    /// The grant's number.
    pub fence: Fence,
}
