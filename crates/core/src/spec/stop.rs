//! `[stop]`: rules by which a run pauses itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;

/// `[stop]`: what a run pauses at by itself, as `gavel pause` would. A rule that is left out never fires.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopSpec {
    /// Probes in a row that may bring no win rate above the best before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = bounds::ATTEMPTS.most))]
    pub patience: Option<u32>,
    /// The largest KL of a step, as the report has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub kl_max: Option<f64>,
    /// The smallest share of a step's pairs, or larger groups, that the judge decides, in 0 to 1. Below it the policy paints
    /// all candidates alike, or the judge sees no difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub decided_min: Option<f64>,
    /// The smallest diversity of a step, in 0 to 1: the mean absolute difference between the RGB values of the pictures of one
    /// prompt. Below it the policy has forgotten all but one picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub diversity_min: Option<f64>,
    /// The smallest share of pairs, in 0 to 1, on which the held-out judge prefers the same picture as the judge, of those that both
    /// decide. Below it the policy may please the judge and nobody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub agreement_min: Option<f64>,
    /// The latest steps whose pairs `agreement_min` counts together; left out, 8. A single step has few pairs of a held-out judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = bounds::ATTEMPTS.most))]
    pub agreement_steps: Option<u32>,
}

/// Steps that are counted together, where `agreement_steps` says nothing.
const AGREEMENT_STEPS: u32 = 8;

impl StopSpec {
    /// The least agreement, and over how many steps it is counted; `None` without that rule.
    pub fn agreement(&self) -> Option<(f64, u32)> {
        let least = self.agreement_min?;
        Some((least, self.agreement_steps.unwrap_or(AGREEMENT_STEPS)))
    }
}

impl Section for StopSpec {
    fn check(&self, problems: &mut Problems) {
        if let Some(patience) = self.patience {
            problems.count(patience.into(), bounds::ATTEMPTS, "stop.patience");
        }
        if let Some(kl) = self.kl_max {
            problems.positive(kl, "stop.kl_max");
        }
        if let Some(steps) = self.agreement_steps {
            problems.count(steps.into(), bounds::ATTEMPTS, "stop.agreement_steps");
        }
        problems.require(
            self.agreement_steps.is_none() || self.agreement_min.is_some(),
            "stop.agreement_steps",
            || "says over how many steps stop.agreement_min counts: set that too".into(),
        );
        for (share, key) in [
            (self.decided_min, "stop.decided_min"),
            (self.diversity_min, "stop.diversity_min"),
            (self.agreement_min, "stop.agreement_min"),
        ] {
            if let Some(share) = share {
                problems.require((0.0..=1.0).contains(&share), key, || {
                    format!("must lie in 0 to 1, not {share}")
                });
            }
        }
    }
}
