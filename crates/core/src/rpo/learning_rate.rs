//! The learning rate of each step.

use crate::ids::Step;
use crate::spec::{LearningRateSchedule, OptimizerSpec};

/// The learning rate of `step` (counted from 1) in a run of `total` steps.
///
/// Warm-up: step n has n / warmup_steps of the peak, so that no step is wasted on a rate of 0 and step warmup_steps has all of it.
/// After it the schedule runs over the remaining steps, beginning at the peak; the last step is above 0.
pub fn learning_rate(optimizer: &OptimizerSpec, step: Step, total: u32) -> f64 {
    let warmup = optimizer.warmup_steps;
    if step.0 <= warmup {
        return optimizer.learning_rate * f64::from(step.0) / f64::from(warmup);
    }
    let remaining = f64::from(total.saturating_sub(warmup).max(1));
    let progress = (f64::from(step.0 - warmup - 1) / remaining).min(1.0);
    let factor = match optimizer.schedule {
        LearningRateSchedule::Constant => 1.0,
        LearningRateSchedule::Linear => 1.0 - progress,
        LearningRateSchedule::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress)),
    };
    optimizer.learning_rate * factor
}
