//! One update from rewarded groups: every shard's gradient, their mean, and the optimizer step.

use gavel_core::{
    spec::OptimizerSpec,
    work::{ShardStatistics, SkippedPair},
};

use super::gradient::add_statistics;
use super::{Committed, Deviation, Error, GradientSettings, Group, PolicyState, Trainer, commit, reduce};

/// An update.
#[derive(Debug, Clone)]
pub struct Updated {
    /// The new policy; the one before where no term gave a gradient.
    pub state: PolicyState,
    /// The mean gradient before clipping, in the adapter's flat order; `None` where no term gave one.
    pub gradient: Option<Vec<f32>>,
    /// Sums over the terms.
    pub statistics: ShardStatistics,
    /// Groups whose loss or gradient was not finite.
    pub skipped: Vec<SkippedPair>,
    /// The first term whose ratio is not 1 within the bound.
    pub deviation: Option<Deviation>,
    /// Norm of the mean gradient before clipping; 0 where no term gave one.
    pub grad_norm: f64,
}

/// Performs one update in this process: the gradients of `shard` groups at a time, added in their order as a fleet's commit
/// adds them, then one optimizer step with this learning rate.
///
/// # Errors
/// [`Error`]; the policy is then unchanged.
pub fn update(
    trainer: &Trainer,
    state: &PolicyState,
    groups: &[Group],
    settings: &GradientSettings<'_>,
    shard: usize,
    optimizer: &OptimizerSpec,
    learning_rate: f64,
) -> Result<Updated, Error> {
    let mut sums = Vec::new();
    let mut updated = Updated {
        state: state.clone(),
        gradient: None,
        statistics: ShardStatistics::default(),
        skipped: Vec::new(),
        deviation: None,
        grad_norm: 0.0,
    };
    for groups in groups.chunks(shard.max(1)) {
        let shard = trainer.gradient(&state.adapter, groups, settings)?;
        add_statistics(&mut updated.statistics, &shard.statistics);
        updated.skipped.extend(shard.skipped);
        updated.deviation = updated.deviation.or(shard.deviation);
        sums.extend(shard.gradient);
    }
    if sums.is_empty() {
        return Ok(updated);
    }
    let mean = reduce(state.adapter.parameter_count(), &sums, updated.statistics.terms);
    let Committed { state, grad_norm } = commit(state, &mean, optimizer, learning_rate)?;
    Ok(Updated {
        state,
        gradient: Some(mean),
        grad_norm,
        ..updated
    })
}
