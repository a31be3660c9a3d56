//! `[objective]`: the loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::{NUMBER_MAX, Problems};
use super::section::Section;
use crate::rpo::Kl;

/// `[objective]`: the clipped policy-gradient loss with a KL term against the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveSpec {
    /// Half-width of the ratio clip, in (0, 1).
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub clip_range: f64,
    /// KL estimator.
    pub kl: Kl,
    /// Weight of the KL term.
    #[schemars(range(min = 0))]
    pub kl_beta: f64,
    /// Reward of the preferred candidate.
    pub reward_preferred: f64,
    /// Reward of the other candidate.
    pub reward_dispreferred: f64,
    /// Rewards are clamped to plus or minus this before they become advantages.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub advantage_clip: f64,
    /// Leave the last denoising step out of training.
    pub ignore_last: bool,
}

impl Default for ObjectiveSpec {
    fn default() -> Self {
        Self {
            clip_range: 0.2,
            kl: Kl::K1,
            kl_beta: 0.01,
            reward_preferred: 1.0,
            reward_dispreferred: -0.1,
            advantage_clip: 5.0,
            ignore_last: true,
        }
    }
}

impl Section for ObjectiveSpec {
    fn check(&self, problems: &mut Problems) {
        problems.require(
            self.clip_range > 0.0 && self.clip_range < 1.0,
            "objective.clip_range",
            || format!("must lie between 0 and 1, both excluded, not {}", self.clip_range),
        );
        problems.not_negative(self.kl_beta, "objective.kl_beta");
        problems.require(
            self.reward_dispreferred.abs() <= NUMBER_MAX,
            "objective.reward_dispreferred",
            || {
                format!(
                    "must lie in -{NUMBER_MAX:e} to {NUMBER_MAX:e}, not {:e}",
                    self.reward_dispreferred
                )
            },
        );
        problems.require(
            self.reward_preferred <= NUMBER_MAX && self.reward_preferred > self.reward_dispreferred,
            "objective.reward_preferred",
            || {
                format!(
                    "must be above objective.reward_dispreferred ({}) and at most {NUMBER_MAX:e}, not {}",
                    self.reward_dispreferred, self.reward_preferred
                )
            },
        );
        problems.positive(self.advantage_clip, "objective.advantage_clip");
    }
}
