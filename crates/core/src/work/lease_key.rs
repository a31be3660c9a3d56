//! The name of a lease.

use super::Unit;
use crate::ids::{Fence, RunId};

/// Names one lease of a unit. Another lease of the same unit has another fence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    /// The run.
    pub run: RunId,
    /// The unit.
    pub unit: Unit,
    /// The lease's number within the run.
    pub fence: Fence,
}
