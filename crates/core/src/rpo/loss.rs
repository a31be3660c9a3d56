//! The clipped policy-gradient loss with a KL term, and its gradient.

use serde::{Deserialize, Serialize};

use super::sampler::{StepCoefficients, same_length};
use crate::spec::ObjectiveSpec;

/// How the divergence of the policy from the base is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kl {
    /// log p_new - log p_ref: the published recipe. Its expected gradient on-policy is zero.
    #[default]
    K1,
    /// exp(r) - r - 1 with r = log p_ref - log p_new: never negative.
    K3,
    /// Mean over elements of (mean_new - mean_ref)^2 / (2 std^2): the exact divergence of the two Gaussians.
    Gaussian,
}

/// What one (candidate, timestep) brings to the loss. All slices hold one sample's latents, in the same order.
#[derive(Debug, Clone, Copy)]
pub struct TermInput<'a> {
    /// The step's coefficients.
    pub coefficients: &'a StepCoefficients,
    /// Latents before the step.
    pub latents: &'a [f32],
    /// Latents after the step, as the sampler recorded them.
    pub next: &'a [f32],
    /// The sampler's log-probability.
    pub old_log_prob: f64,
    /// The trained policy's velocity.
    pub velocity: &'a [f32],
    /// The base's velocity.
    pub reference_velocity: &'a [f32],
    /// The candidate's reward; clamped here to `objective.advantage_clip`.
    pub advantage: f64,
}

/// One term of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// ppo + kl_beta kl; not divided by the number of terms.
    pub loss: f64,
    /// The KL estimate.
    pub kl: f64,
    /// exp(log p_new - log p_old).
    pub ratio: f64,
    /// Whether the ratio lies outside 1 - clip_range to 1 + clip_range.
    pub clipped: bool,
}

impl Term {
    /// Whether every figure is finite; a term that is not gives no gradient and is recorded.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.kl.is_finite() && self.ratio.is_finite()
    }
}

/// Computes one term and writes d loss / d velocity to `grad_velocity`. The commit divides by the number of terms.
///
/// With A the clamped advantage: ppo = max(-A ratio, -A clamp(ratio)).
///
/// # Panics
/// When the slices differ in length.
pub fn term(objective: &ObjectiveSpec, input: &TermInput<'_>, grad_velocity: &mut [f32]) -> Term {
    let TermInput {
        coefficients: c,
        latents,
        next,
        velocity,
        reference_velocity,
        ..
    } = *input;
    let lengths = [
        latents.len(),
        next.len(),
        velocity.len(),
        reference_velocity.len(),
        grad_velocity.len(),
    ];
    same_length(&lengths);
    let count = latents.len() as f64;

    let (mut new_squares, mut reference_squares, mut shift_squares) = (0.0, 0.0, 0.0);
    for (((&x, &next), &v), &reference) in latents.iter().zip(next).zip(velocity).zip(reference_velocity) {
        let mean = c.mean(x, v);
        let mean_reference = c.mean(x, reference);
        let next = f64::from(next);
        new_squares += (next - mean) * (next - mean);
        reference_squares += (next - mean_reference) * (next - mean_reference);
        shift_squares += (mean - mean_reference) * (mean - mean_reference);
    }
    let new = c.log_density(new_squares / count);
    let reference = c.log_density(reference_squares / count);
    let variance = c.std * c.std;

    let advantage = input
        .advantage
        .clamp(-objective.advantage_clip, objective.advantage_clip);
    let (low, high) = (1.0 - objective.clip_range, 1.0 + objective.clip_range);
    let ratio = libm::exp(new - input.old_log_prob);
    let unclipped = -advantage * ratio;
    let clamped = -advantage * ratio.clamp(low, high);
    let clipped = !(low..=high).contains(&ratio);
    // The clamped branch is constant in the velocity; where both are equal the ratio is inside and the gradient flows.
    let ppo_by_new = if unclipped >= clamped { unclipped } else { 0.0 };

    // Each estimate with its derivative by log p_new, and (Gaussian only) by the mean itself.
    let (kl, kl_by_new, kl_by_mean) = match objective.kl {
        Kl::K1 => (new - reference, 1.0, 0.0),
        Kl::K3 => {
            let r = reference - new;
            (libm::expm1(r) - r, -libm::expm1(r), 0.0)
        }
        Kl::Gaussian => (shift_squares / count / (2.0 * variance), 0.0, 1.0),
    };

    // d log p_new / d v_j = (next_j - mean_j) / std^2 * velocity coefficient / count, and likewise for the means' distance.
    let scale = c.velocity / (variance * count);
    let by_new = (ppo_by_new + objective.kl_beta * kl_by_new) * scale;
    let by_mean = objective.kl_beta * kl_by_mean * scale;
    for ((((gradient, &x), &next), &v), &reference) in grad_velocity
        .iter_mut()
        .zip(latents)
        .zip(next)
        .zip(velocity)
        .zip(reference_velocity)
    {
        let mean = c.mean(x, v);
        let residual = f64::from(next) - mean;
        let distance = mean - c.mean(x, reference);
        *gradient = (by_new * residual + by_mean * distance) as f32;
    }
    Term {
        loss: unclipped.max(clamped) + objective.kl_beta * kl,
        kl,
        ratio,
        clipped,
    }
}
