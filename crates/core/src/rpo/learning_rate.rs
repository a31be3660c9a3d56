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

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: LearningRateSchedule, warmup_steps: u32, total: u32) -> Vec<f64> {
        let optimizer = OptimizerSpec {
            learning_rate: 8.0,
            schedule,
            warmup_steps,
            ..OptimizerSpec::default()
        };
        (1..=total)
            .map(|step| (learning_rate(&optimizer, Step(step), total) * 1e6).round() / 1e6)
            .collect()
    }

    #[test]
    fn warm_up_rises_and_the_schedule_takes_over() {
        assert_eq!(rates(LearningRateSchedule::Constant, 0, 3), [8.0, 8.0, 8.0]);
        assert_eq!(
            rates(LearningRateSchedule::Constant, 4, 6),
            [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]
        );
        assert_eq!(rates(LearningRateSchedule::Linear, 0, 4), [8.0, 6.0, 4.0, 2.0]);
        assert_eq!(rates(LearningRateSchedule::Linear, 2, 4), [4.0, 8.0, 8.0, 4.0]);
        assert_eq!(
            rates(LearningRateSchedule::Cosine, 0, 4),
            [8.0, 6.828427, 4.0, 1.171573]
        );
    }

    #[test]
    fn warm_up_longer_than_the_run_only_rises() {
        assert_eq!(rates(LearningRateSchedule::Cosine, 8, 3), [1.0, 2.0, 3.0]);
    }
}
