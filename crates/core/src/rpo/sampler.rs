//! The sampler's arithmetic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The stochastic differential equation that the sampler integrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sde {
    /// DanceGRPO's: noise of standard deviation eta sqrt(-d), the same at every sigma.
    #[default]
    Dance,
    /// Flow-GRPO's (arXiv 2505.05470): noise of standard deviation eta sqrt(sigma / (1 - sigma)) sqrt(-d).
    Flow,
}

/// The noise levels of a sample: `steps + 1` values from 1 down to 0.
///
/// sigma_i = shift t_i / (1 + (shift - 1) t_i) with t = linspace(1, 0, steps + 1).
pub fn sigmas(steps: usize, shift: f64) -> Vec<f32> {
    (0..=steps)
        .map(|step| {
            let t = 1.0 - step as f64 / steps as f64;
            (shift * t / (1.0 + (shift - 1.0) * t)) as f32
        })
        .collect()
}

/// One stochastic step as an affine map: x_next = `latents` x + `velocity` v + `std` noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepCoefficients {
    /// Noise level before the step, in (0, 1].
    pub sigma: f64,
    /// Noise level after the step.
    pub sigma_next: f64,
    /// Factor of the latents in the mean.
    pub latents: f64,
    /// Factor of the velocity in the mean.
    pub velocity: f64,
    /// Standard deviation of the noise.
    pub std: f64,
}

impl StepCoefficients {
    /// Coefficients of the step from `sigma` to `sigma_next`.
    ///
    /// With d = sigma_next - sigma, score = -(x + (1 - sigma) v) / sigma and noise rate s, the mean of the reverse-time
    /// equation is x + d v - s^2 score d / 2. `Dance`: s = eta. `Flow`: s = eta sqrt(sigma / (1 - sigma)), where the pole at
    /// sigma = 1 is avoided by putting the next sigma in the denominator.
    pub fn new(sde: Sde, eta: f64, sigma: f32, sigma_next: f32) -> Self {
        let (sigma, sigma_next) = (f64::from(sigma), f64::from(sigma_next));
        let d = sigma_next - sigma;
        let rate = match sde {
            Sde::Dance => eta * eta,
            Sde::Flow => {
                let pole = if sigma >= 1.0 { sigma_next } else { sigma };
                eta * eta * sigma / (1.0 - pole)
            }
        };
        Self {
            sigma,
            sigma_next,
            latents: 1.0 + rate * d / (2.0 * sigma),
            velocity: d * (1.0 + rate * (1.0 - sigma) / (2.0 * sigma)),
            std: (rate * -d).sqrt(),
        }
    }
}

/// Coefficients of every step of a schedule of `sigmas.len() - 1` steps.
pub fn coefficients(sde: Sde, eta: f64, sigmas: &[f32]) -> Vec<StepCoefficients> {
    sigmas
        .windows(2)
        .map(|pair| StepCoefficients::new(sde, eta, pair[0], pair[1]))
        .collect()
}

/// Takes one stochastic step into `out` and returns its log-probability.
///
/// The log-probability is computed from the stored f32 result, exactly as [`log_prob`] does, so that whoever recomputes it
/// from a recorded trajectory and the same velocity gets the same bits.
///
/// # Panics
/// When the slices differ in length.
pub fn sde_step(c: &StepCoefficients, latents: &[f32], velocity: &[f32], noise: &[f32], out: &mut [f32]) -> f64 {
    same_length(&[latents.len(), velocity.len(), noise.len(), out.len()]);
    for (((out, &x), &v), &noise) in out.iter_mut().zip(latents).zip(velocity).zip(noise) {
        *out = (c.mean(x, v) + c.std * f64::from(noise)) as f32;
    }
    log_prob(c, latents, velocity, out)
}

/// Takes one Euler step of the probability-flow equation in place: x += (sigma_next - sigma) v.
///
/// # Panics
/// When the slices differ in length.
pub fn ode_step(sigma: f32, sigma_next: f32, latents: &mut [f32], velocity: &[f32]) {
    same_length(&[latents.len(), velocity.len()]);
    let d = f64::from(sigma_next) - f64::from(sigma);
    for (x, &v) in latents.iter_mut().zip(velocity) {
        *x = (f64::from(*x) + d * f64::from(v)) as f32;
    }
}

/// The clean latents that a velocity points at: x - sigma v.
///
/// # Panics
/// When the slices differ in length.
pub fn predicted_original(sigma: f32, latents: &[f32], velocity: &[f32]) -> Vec<f32> {
    same_length(&[latents.len(), velocity.len()]);
    let sigma = f64::from(sigma);
    latents
        .iter()
        .zip(velocity)
        .map(|(&x, &v)| (f64::from(x) - sigma * f64::from(v)) as f32)
        .collect()
}

/// Mean over the latents' elements of the Gaussian log-density of `next`.
///
/// # Panics
/// When the slices differ in length.
pub fn log_prob(c: &StepCoefficients, latents: &[f32], velocity: &[f32], next: &[f32]) -> f64 {
    same_length(&[latents.len(), velocity.len(), next.len()]);
    let mut squares = 0.0;
    for ((&x, &v), &next) in latents.iter().zip(velocity).zip(next) {
        let difference = f64::from(next) - c.mean(x, v);
        squares += difference * difference;
    }
    c.log_density(squares / next.len() as f64)
}

impl StepCoefficients {
    /// The mean of one element.
    pub(super) fn mean(&self, x: f32, v: f32) -> f64 {
        self.latents * f64::from(x) + self.velocity * f64::from(v)
    }

    /// The mean log-density at a mean squared distance from the mean.
    pub(super) fn log_density(&self, mean_square: f64) -> f64 {
        -mean_square / (2.0 * self.std * self.std) - libm::log(self.std) - 0.5 * libm::log(2.0 * std::f64::consts::PI)
    }
}

pub(super) fn same_length(lengths: &[usize]) {
    assert!(
        lengths.windows(2).all(|pair| pair[0] == pair[1]),
        "slices of one step differ in length: {lengths:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_schedule_has_the_published_values() {
        // shift 3, 8 steps: 3 t / (1 + 2 t).
        let expected = [1.0, 21.0 / 22.0, 0.9, 15.0 / 18.0, 0.75, 9.0 / 14.0, 0.5, 0.3, 0.0];
        for (sigma, expected) in sigmas(8, 3.0).into_iter().zip(expected) {
            assert_eq!(sigma, expected as f32);
        }
        assert_eq!(sigmas(4, 1.0), [1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    /// The step as the papers write it, from score and predicted original, against the affine form.
    fn check_mean(sde: Sde, rate: impl Fn(f64, f64) -> f64) {
        let eta = 0.7;
        for pair in sigmas(8, 3.0).windows(2) {
            let c = StepCoefficients::new(sde, eta, pair[0], pair[1]);
            let (sigma, next, x, v) = (f64::from(pair[0]), f64::from(pair[1]), 0.8_f32, -1.3_f32);
            let d = next - sigma;
            let original = f64::from(x) - sigma * f64::from(v);
            let score = -(f64::from(x) - (1.0 - sigma) * original) / (sigma * sigma);
            let rate = eta * rate(sigma, next);
            let mean = f64::from(x) + d * f64::from(v) - 0.5 * rate * rate * score * d;
            assert!(
                (c.mean(x, v) - mean).abs() < 1e-12,
                "{sde:?} at {sigma}: {} and {mean}",
                c.mean(x, v)
            );
            assert!((c.std - rate * (-d).sqrt()).abs() < 1e-12);
        }
    }

    #[test]
    fn dance_step_is_the_published_formula() {
        check_mean(Sde::Dance, |_, _| 1.0);
    }

    #[test]
    fn flow_step_is_the_published_formula_with_the_pole_at_one_avoided() {
        check_mean(Sde::Flow, |sigma, next| {
            (sigma / (1.0 - if sigma == 1.0 { next } else { sigma })).sqrt()
        });
    }

    #[test]
    fn recomputed_log_probability_has_the_sampler_s_bits() {
        let key = crate::noise::NoiseKey::new(1, crate::noise::Use::Step);
        let values = key.normal(300);
        let mut out = [0.0; 100];
        for c in coefficients(Sde::Dance, 0.3, &sigmas(8, 3.0)) {
            let sampled = sde_step(&c, &values[..100], &values[100..200], &values[200..], &mut out);
            assert_eq!(
                sampled.to_bits(),
                log_prob(&c, &values[..100], &values[100..200], &out).to_bits()
            );
        }
    }

    #[test]
    fn log_probability_of_the_mean_is_the_density_s_peak() {
        let c = StepCoefficients::new(Sde::Dance, 0.3, 0.5, 0.25);
        let mean = c.mean(1.0, 2.0) as f32;
        let peak = -libm::log(c.std) - 0.5 * libm::log(2.0 * std::f64::consts::PI);
        assert!((log_prob(&c, &[1.0], &[2.0], &[mean]) - peak).abs() < 1e-6);
    }

    #[test]
    fn plain_step_to_zero_lands_on_the_predicted_original() {
        let (mut x, v) = ([0.5, -1.0], [0.25, 2.0]);
        let original = predicted_original(0.3, &x, &v);
        ode_step(0.3, 0.0, &mut x, &v);
        assert_eq!(original, x);
    }
}
