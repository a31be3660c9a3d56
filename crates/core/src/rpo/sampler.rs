//! The sampler's arithmetic.

use serde::{Deserialize, Serialize};

/// The stochastic differential equation that the sampler integrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
