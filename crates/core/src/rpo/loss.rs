//! The clipped policy-gradient loss with a KL term, and its gradient.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sampler::{StepCoefficients, same_length};
use crate::spec::ObjectiveSpec;

/// How the divergence of the policy from the base is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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

    let (mut new_squares, mut reference_squares, mut shift_squares) = (0.0, 0.0, 0.0);
    for (((&x, &next), &v), &reference) in latents.iter().zip(next).zip(velocity).zip(reference_velocity) {
        let mean = c.mean(x, v);
        let mean_reference = c.mean(x, reference);
        let next = f64::from(next);
        new_squares += (next - mean) * (next - mean);
        reference_squares += (next - mean_reference) * (next - mean_reference);
        shift_squares += (mean - mean_reference) * (mean - mean_reference);
    }
    let sums = TermSums {
        count: latents.len(),
        new_squares,
        reference_squares,
        shift_squares,
    };
    let (term, slopes) = sums.term(objective, c, input.old_log_prob, input.advantage);
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
        *gradient = (slopes.residual * residual + slopes.shift * distance) as f32;
    }
    term
}

/// What a term depends on of its elements, however they were summed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TermSums {
    /// Number of elements.
    pub count: usize,
    /// Sum of (next - mean)^2 with the trained policy's mean.
    pub new_squares: f64,
    /// The same with the base's mean.
    pub reference_squares: f64,
    /// Sum of the squared distances of both means.
    pub shift_squares: f64,
}

/// d loss / d velocity_j = `residual` (next_j - mean_j) + `shift` (mean_j - mean_ref_j).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TermSlopes {
    /// Factor of the distance from the mean to the state that was reached.
    pub residual: f64,
    /// Factor of the distance from the base's mean to the policy's.
    pub shift: f64,
}

impl TermSums {
    /// The term, and how its slope follows from each element.
    ///
    /// With A the clamped advantage: ppo = max(-A ratio, -A clamp(ratio)).
    pub fn term(
        &self,
        objective: &ObjectiveSpec,
        c: &StepCoefficients,
        old_log_prob: f64,
        advantage: f64,
    ) -> (Term, TermSlopes) {
        let count = self.count as f64;
        let new = c.log_density(self.new_squares / count);
        let reference = c.log_density(self.reference_squares / count);
        let variance = c.std * c.std;

        let advantage = advantage.clamp(-objective.advantage_clip, objective.advantage_clip);
        let (low, high) = (1.0 - objective.clip_range, 1.0 + objective.clip_range);
        let ratio = libm::exp(new - old_log_prob);
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
            Kl::Gaussian => (self.shift_squares / count / (2.0 * variance), 0.0, 1.0),
        };

        // d log p_new / d v_j = (next_j - mean_j) / std^2 * velocity coefficient / count, and likewise for the means' distance.
        let scale = c.velocity / (variance * count);
        let term = Term {
            loss: unclipped.max(clamped) + objective.kl_beta * kl,
            kl,
            ratio,
            clipped,
        };
        let slopes = TermSlopes {
            residual: (ppo_by_new + objective.kl_beta * kl_by_new) * scale,
            shift: objective.kl_beta * kl_by_mean * scale,
        };
        (term, slopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{NoiseKey, Use};
    use crate::rpo::{Sde, log_prob};

    const N: usize = 12;

    fn normal(timestep: u32) -> Vec<f32> {
        NoiseKey {
            timestep,
            ..NoiseKey::new(3, Use::Step)
        }
        .normal(N)
    }

    fn loss(objective: &ObjectiveSpec, input: &TermInput<'_>) -> f64 {
        term(objective, input, &mut [0.0; N]).loss
    }

    /// Compares the gradient with central differences, for a ratio of exp(`log_ratio`).
    fn check(kl: Kl, sde: Sde, sigma: (f32, f32), advantage: f64, log_ratio: f64) {
        let objective = ObjectiveSpec {
            kl,
            kl_beta: 0.7,
            ..ObjectiveSpec::default()
        };
        let c = StepCoefficients::new(sde, 0.8, sigma.0, sigma.1);
        let (latents, velocity, reference) = (normal(0), normal(1), normal(2));
        let next: Vec<f32> = latents
            .iter()
            .zip(normal(3))
            .map(|(x, noise)| x + 0.5 * noise)
            .collect();
        let input = TermInput {
            coefficients: &c,
            latents: &latents,
            next: &next,
            old_log_prob: log_prob(&c, &latents, &velocity, &next) - log_ratio,
            velocity: &velocity,
            reference_velocity: &reference,
            advantage,
        };
        let mut gradient = [0.0; N];
        let term = term(&objective, &input, &mut gradient);
        assert!((term.ratio - libm::exp(log_ratio)).abs() < 1e-9);
        assert_eq!(term.clipped, log_ratio.abs() > 0.2);
        for index in 0..N {
            // The step is what f32 really holds on either side.
            let moved = |by: f32| {
                let mut velocity = velocity.clone();
                velocity[index] += by;
                let value = loss(
                    &objective,
                    &TermInput {
                        velocity: &velocity,
                        ..input
                    },
                );
                (f64::from(velocity[index]), value)
            };
            let ((high, above), (low, below)) = (moved(1e-3), moved(-1e-3));
            let difference = (above - below) / (high - low);
            let found = f64::from(gradient[index]);
            let scale = difference.abs().max(1e-2);
            assert!(
                (found - difference).abs() <= 1e-4 * scale,
                "{kl:?} {sde:?} {sigma:?} A {advantage}: {found} and {difference} at {index}"
            );
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        for kl in [Kl::K1, Kl::K3, Kl::Gaussian] {
            for sde in [Sde::Dance, Sde::Flow] {
                for sigma in [(1.0, 0.95), (0.75, 0.6), (0.3, 0.1)] {
                    for advantage in [1.0, -0.1] {
                        for log_ratio in [0.0, 0.1, 0.5, -0.5] {
                            check(kl, sde, sigma, advantage, log_ratio);
                        }
                    }
                }
            }
        }
    }

    fn at(advantage: f64, log_ratio: f64, kl: Kl, velocity: &[f32], reference: &[f32]) -> (Term, Vec<f32>) {
        let objective = ObjectiveSpec {
            kl,
            kl_beta: 0.0,
            ..ObjectiveSpec::default()
        };
        let c = StepCoefficients::new(Sde::Dance, 0.3, 0.5, 0.4);
        let (latents, next) = (normal(0), normal(3));
        let old_log_prob = log_prob(&c, &latents, velocity, &next) - log_ratio;
        let input = TermInput {
            coefficients: &c,
            latents: &latents,
            next: &next,
            old_log_prob,
            velocity,
            reference_velocity: reference,
            advantage,
        };
        let mut gradient = vec![0.0; N];
        (term(&objective, &input, &mut gradient), gradient)
    }

    #[test]
    fn clipping_stops_the_gradient_only_in_the_direction_of_the_advantage() {
        let v = normal(1);
        let zero = |advantage, log_ratio| at(advantage, log_ratio, Kl::K1, &v, &v).1.iter().all(|g| *g == 0.0);
        assert!(zero(1.0, 0.5));
        assert!(!zero(1.0, -0.5));
        assert!(!zero(-1.0, 0.5));
        assert!(zero(-1.0, -0.5));
    }

    #[test]
    fn advantage_is_clamped() {
        let v = normal(1);
        let (term, _) = at(1e9, 0.0, Kl::K1, &v, &v);
        assert!((term.loss + 5.0).abs() < 1e-12, "{term:?}");
    }

    #[test]
    fn divergence_from_itself_is_zero_and_k3_and_gaussian_are_never_negative() {
        let (v, other) = (normal(1), normal(2));
        for kl in [Kl::K1, Kl::K3, Kl::Gaussian] {
            assert_eq!(at(1.0, 0.0, kl, &v, &v).0.kl, 0.0);
        }
        for kl in [Kl::K3, Kl::Gaussian] {
            assert!(at(1.0, 0.0, kl, &v, &other).0.kl > 0.0);
            assert!(at(1.0, 0.0, kl, &other, &v).0.kl > 0.0);
        }
    }

    #[test]
    fn a_velocity_that_is_not_finite_is_noticed() {
        let mut v = normal(1);
        let reference = v.clone();
        v[3] = f32::NAN;
        assert!(!at(1.0, 0.0, Kl::K1, &v, &reference).0.is_finite());
    }
}
