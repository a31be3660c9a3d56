//! `[optimizer]`: what is done with the gradient.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;

/// How the learning rate moves after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decay of the first moment.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta1: f64,
    /// Decay of the second moment.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Decoupled weight decay.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Largest Euclidean norm of the whole gradient; a longer one is scaled down to it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub gradient_clip: f64,
    /// Learning-rate schedule after the warm-up.
    pub schedule: LearningRateSchedule,
    /// Steps over which the learning rate rises on a straight line; step n has n / warmup_steps of it.
    pub warmup_steps: u32,
    /// Decay of the adapter's exponential moving average; 0 keeps none.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
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
}

impl Section for OptimizerSpec {
    fn check(&self, problems: &mut Problems) {
        problems.positive(self.learning_rate, "optimizer.learning_rate");
        problems.decay(self.beta1, "optimizer.beta1");
        problems.decay(self.beta2, "optimizer.beta2");
        problems.positive(self.epsilon, "optimizer.epsilon");
        problems.not_negative(self.weight_decay, "optimizer.weight_decay");
        problems.positive(self.gradient_clip, "optimizer.gradient_clip");
        problems.decay(self.ema_decay, "optimizer.ema_decay");
    }
}
