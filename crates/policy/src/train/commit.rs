//! The optimizer step.

use gavel_core::{
    rpo::adamw::{clip_by_norm, ema},
    spec::OptimizerSpec,
};

use super::{Error, PolicyState};

/// A committed step.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The new policy.
    pub state: PolicyState,
    /// Euclidean norm of the mean gradient before clipping.
    pub grad_norm: f64,
}

/// The mean of a step's terms from its shards' sums, taken one after the other in shard order: added in f64, rounded once.
/// However the sums come here, this is the whole reduction.
#[derive(Debug, Clone)]
pub struct Reduction {
    sum: Vec<f64>,
}

impl Reduction {
    /// Nothing yet, of so many parameters.
    pub fn new(parameters: usize) -> Self {
        Self {
            sum: vec![0.0; parameters],
        }
    }

    /// Adds the next shard's sum.
    pub fn add(&mut self, shard: &[f32]) {
        for (sum, value) in self.sum.iter_mut().zip(shard) {
            *sum += f64::from(*value);
        }
    }

    /// Divides by the number of terms.
    pub fn mean(self, terms: u64) -> Vec<f32> {
        let terms = terms.max(1) as f64;
        self.sum.into_iter().map(|sum| (sum / terms) as f32).collect()
    }
}

/// [`Reduction`] of shards that are all at hand.
pub fn reduce(parameters: usize, shards: &[Vec<f32>], terms: u64) -> Vec<f32> {
    let mut reduction = Reduction::new(parameters);
    for shard in shards {
        reduction.add(shard);
    }
    reduction.mean(terms)
}

/// Takes one optimizer step with a mean gradient in the adapter's flat order: clip, AdamW with this learning rate, average.
///
/// The average follows the early updates faster than `ema_decay` alone would let it: after n updates its decay is
/// min(ema_decay, n / (n + 9)), so that a short run is not ruled by the initial adapter.
///
/// # Errors
/// [`Error::OptimizerSize`], [`Error::Average`], or [`Error::GradientNotFinite`]; the policy is then unchanged.
pub fn commit(
    state: &PolicyState,
    mean: &[f32],
    optimizer: &OptimizerSpec,
    learning_rate: f64,
) -> Result<Committed, Error> {
    const WARM_UP: f64 = 9.0;

    state.optimizer.check(&state.adapter, optimizer.ema_decay)?;
    let mut mean = mean.to_vec();
    let grad_norm = clip_by_norm(&mut mean, optimizer.gradient_clip);
    if !grad_norm.is_finite() {
        return Err(Error::GradientNotFinite { norm: grad_norm });
    }

    let mut state = state.clone();
    let mut parameters = state.adapter.flatten();
    state
        .optimizer
        .adamw
        .update(optimizer, learning_rate, &mut parameters, &mean);
    state.adapter.unflatten(&parameters)?;
    if let Some(average) = &mut state.optimizer.average {
        let updates = state.optimizer.adamw.step as f64;
        ema(
            average,
            &parameters,
            optimizer.ema_decay.min(updates / (updates + WARM_UP)),
        );
    }
    Ok(Committed { state, grad_norm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reduction_is_the_mean_of_all_terms() {
        let shards = vec![vec![1.0, -2.0], vec![0.5, 4.0], vec![0.0, 1.0]];
        assert_eq!(reduce(2, &shards, 6), [0.25, 0.5]);
        assert_eq!(reduce(2, &[], 0), [0.0, 0.0]);
    }
}
