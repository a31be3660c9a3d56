//! `[limits]`: what a run puts up with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// `[limits]`: what a run puts up with before it stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Attempts at one unit, on whichever workers.
    #[schemars(range(min = 1, max = bounds::ATTEMPTS.most))]
    pub attempts: u32,
    /// Workers in a row that may die or fall silent over one unit; then the run stops. More than `attempts`: a worker that dies
    /// is seldom the unit's fault.
    #[schemars(range(min = 1, max = bounds::ATTEMPTS.most))]
    pub lost_leases: u32,
    /// Pairs whose loss or gradient was not finite, over the whole run; one more stops it.
    pub skipped_pairs: u32,
    /// Largest |ratio - 1| before the first update.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub ratio_deviation: f64,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            attempts: 3,
            lost_leases: 10,
            skipped_pairs: 8,
            ratio_deviation: 1e-3,
        }
    }
}

impl Section for LimitsSpec {
    fn check(&self, problems: &mut Problems) {
        problems.count(self.attempts.into(), bounds::ATTEMPTS, "limits.attempts");
        problems.count(self.lost_leases.into(), bounds::ATTEMPTS, "limits.lost_leases");
        problems.positive(self.ratio_deviation, "limits.ratio_deviation");
    }
}
