//! The arithmetic of a sampling step, in the two forms that it runs in: on slices of the CPU, and on the tensors of a device.
//!
//! The slices are [`gavel_core::rpo`]'s. The tensors do the same operations in the same order, in float64 too, and round to
//! float32 in the same places, so that the states of both forms are equal bit for bit and `gavel audit` can follow a
//! trajectory from the CPU whatever device it came from.

use candle_core::{DType, Tensor};
use gavel_core::rpo::{self, StepCoefficients};
use gavel_models::ModelError;

/// One transition, from the state at `sigma` to the one at `sigma_next`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transition {
    pub(super) sigma: f32,
    pub(super) sigma_next: f32,
    /// Of a stochastic transition; a plain Euler step has none.
    pub(super) stochastic: Option<StepCoefficients>,
}

impl Transition {
    /// Writes the next state of one row and returns its log-probability, 0 for an Euler step. `noise` holds as many numbers
    /// as the state, or none for an Euler step.
    pub(super) fn on_slices(&self, latents: &[f32], velocity: &[f32], noise: &[f32], next: &mut [f32]) -> f64 {
        match &self.stochastic {
            Some(coefficients) => rpo::sde_step(coefficients, latents, velocity, noise, next),
            None => {
                next.copy_from_slice(latents);
                rpo::ode_step(self.sigma, self.sigma_next, next, velocity);
                0.0
            }
        }
    }

    /// The next state of all rows.
    ///
    /// # Shapes
    /// All (batch, tokens, channels) f32, on one device; `noise` only where the transition is stochastic.
    pub(super) fn on_tensors(
        &self,
        latents: &Tensor,
        velocity: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        let next = match (&self.stochastic, noise) {
            (Some(coefficients), Some(noise)) => {
                let mean = (times(latents, coefficients.latents)? + times(velocity, coefficients.velocity)?)?;
                (mean + times(noise, coefficients.std)?)?
            }
            _ => {
                let distance = f64::from(self.sigma_next) - f64::from(self.sigma);
                (latents.to_dtype(DType::F64)? + times(velocity, distance)?)?
            }
        };
        Ok(next.to_dtype(DType::F32)?)
    }

    /// The log-probability of a transition that is known, 0 for an Euler step: the same bits as [`Self::on_slices`] gives.
    pub(super) fn log_prob(&self, latents: &[f32], velocity: &[f32], next: &[f32]) -> f64 {
        match &self.stochastic {
            Some(coefficients) => rpo::log_prob(coefficients, latents, velocity, next),
            None => 0.0,
        }
    }

    /// The clean latents that a row's velocity points at.
    pub(super) fn original_on_slices(&self, latents: &[f32], velocity: &[f32]) -> Vec<f32> {
        rpo::predicted_original(self.sigma, latents, velocity)
    }

    /// The clean latents of all rows.
    ///
    /// # Shapes
    /// All (batch, tokens, channels) f32.
    pub(super) fn original_on_tensors(&self, latents: &Tensor, velocity: &Tensor) -> Result<Tensor, ModelError> {
        let original = (latents.to_dtype(DType::F64)? - times(velocity, f64::from(self.sigma))?)?;
        Ok(original.to_dtype(DType::F32)?)
    }
}

/// `tensor` in float64, times a number. A product of its own, never an `affine`: a kernel that multiplies and adds at once
/// rounds once where the slices round twice.
fn times(tensor: &Tensor, factor: f64) -> Result<Tensor, ModelError> {
    let factor = Tensor::new(factor, tensor.device())?;
    Ok(tensor.to_dtype(DType::F64)?.broadcast_mul(&factor)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use gavel_core::noise::{NoiseKey, Use};
    use gavel_core::rpo::Sde;

    use super::*;

    const ROWS: usize = 2;
    const SIZE: usize = 300;

    fn normal(timestep: u32) -> Vec<f32> {
        NoiseKey {
            timestep,
            ..NoiseKey::new(4, Use::Step)
        }
        .normal(ROWS * SIZE)
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (ROWS, SIZE / 4, 4), &Device::Cpu).unwrap()
    }

    fn read(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// Both forms are IEEE operations in one order, so the tolerance is zero bits.
    #[test]
    fn tensors_step_as_slices_do_bit_for_bit() {
        let (latents, velocity, noise) = (normal(0), normal(1), normal(2));
        let (sigma, sigma_next) = (0.9, 0.75);
        for stochastic in [
            None,
            Some(StepCoefficients::new(Sde::Dance, 0.7, sigma, sigma_next)),
            Some(StepCoefficients::new(Sde::Flow, 0.7, sigma, sigma_next)),
        ] {
            let transition = Transition {
                sigma,
                sigma_next,
                stochastic,
            };
            let mut next = vec![0.0; ROWS * SIZE];
            let mut log_probs = Vec::new();
            for row in 0..ROWS {
                let row = row * SIZE..(row + 1) * SIZE;
                let (x, v, n) = (&latents[row.clone()], &velocity[row.clone()], &noise[row.clone()]);
                log_probs.push(transition.on_slices(x, v, n, &mut next[row]));
            }
            let noise = stochastic.map(|_| tensor(&noise));
            let on_tensors = transition
                .on_tensors(&tensor(&latents), &tensor(&velocity), noise.as_ref())
                .unwrap();
            assert_eq!(bits(&read(&on_tensors)), bits(&next), "{stochastic:?}");
            for (row, log_prob) in log_probs.into_iter().enumerate() {
                let row = row * SIZE..(row + 1) * SIZE;
                let again = transition.log_prob(&latents[row.clone()], &velocity[row.clone()], &next[row]);
                assert_eq!(again.to_bits(), log_prob.to_bits());
            }
            let original = transition
                .original_on_tensors(&tensor(&latents), &tensor(&velocity))
                .unwrap();
            assert_eq!(
                bits(&read(&original)),
                bits(&transition.original_on_slices(&latents, &velocity))
            );
        }
    }
}
