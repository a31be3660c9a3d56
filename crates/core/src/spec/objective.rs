//! `[objective]` and `[optimizer]`: the loss, and what is done with its gradient.

use serde::{Deserialize, Serialize};

use super::problems::Problems;
use crate::rpo::Kl;

/// `[objective]`: the clipped policy-gradient loss with a KL term against the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveSpec {
    /// Half-width of the ratio clip, in (0, 1).
    pub clip_range: f64,
    /// KL estimator.
    pub kl: Kl,
    /// Weight of the KL term.
    pub kl_beta: f64,
    /// Reward of the preferred candidate.
    pub reward_preferred: f64,
    /// Reward of the other candidate.
    pub reward_dispreferred: f64,
    /// Rewards are clamped to plus or minus this before they become advantages.
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

impl ObjectiveSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require(
            self.clip_range > 0.0 && self.clip_range < 1.0,
            "objective.clip_range",
            || format!("must lie between 0 and 1, both excluded, not {}", self.clip_range),
        );
        problems.not_negative(self.kl_beta, "objective.kl_beta");
        problems.require(
            self.reward_dispreferred.is_finite(),
            "objective.reward_dispreferred",
            || format!("must be a finite number, not {}", self.reward_dispreferred),
        );
        problems.require(
            self.reward_preferred.is_finite() && self.reward_preferred > self.reward_dispreferred,
            "objective.reward_preferred",
            || {
                format!(
                    "must be finite and above objective.reward_dispreferred ({}), not {}",
                    self.reward_dispreferred, self.reward_preferred
                )
            },
        );
        problems.positive(self.advantage_clip, "objective.advantage_clip");
    }
}

/// How the learning rate moves after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateSchedule {
    /// Stays.
    #[default]
    Constant,
    /// Falls on a straight line towards 0, which it would reach one step after the last.
    Linear,
    /// Falls on half a cosine towards 0, which it would reach one step after the last.
    Cosine,
}

/// `[optimizer]`: AdamW with decoupled weight decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest Euclidean norm of the whole gradient; a longer one is scaled down to it.
    pub gradient_clip: f64,
    /// Learning-rate schedule after the warm-up.
    pub schedule: LearningRateSchedule,
    /// Steps over which the learning rate rises on a straight line; step n has n / warmup_steps of it.
    pub warmup_steps: u32,
    /// Decay of the adapter's exponential moving average; 0 keeps none.
    pub ema_decay: f64,
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            learning_rate: 5e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 1e-4,
            gradient_clip: 1.0,
            schedule: LearningRateSchedule::Constant,
            warmup_steps: 0,
            ema_decay: 0.0,
        }
    }
}

impl OptimizerSpec {
    /// Whether the run keeps an averaged adapter.
    pub fn averages(&self) -> bool {
        self.ema_decay > 0.0
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        problems.positive(self.learning_rate, "optimizer.learning_rate");
        problems.decay(self.beta1, "optimizer.beta1");
        problems.decay(self.beta2, "optimizer.beta2");
        problems.positive(self.epsilon, "optimizer.epsilon");
        problems.not_negative(self.weight_decay, "optimizer.weight_decay");
        problems.positive(self.gradient_clip, "optimizer.gradient_clip");
        problems.decay(self.ema_decay, "optimizer.ema_decay");
    }
}
