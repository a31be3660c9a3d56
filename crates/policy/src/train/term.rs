//! The terms of a batch, and the slope of their sum at the velocities, in the two forms that they are computed in: on slices
//! of the CPU, and on the tensors of a device.
//!
//! The slices are [`gavel_core::rpo`]'s, summed from the first element to the last. On a device the elements are the same
//! float64 numbers, but a sum is taken in the device's order, so that the figures agree to rounding only. Three numbers a
//! row cross to the host and two go back; velocities and their slopes stay where they are.

use candle_core::{DType, Device, Tensor};
use gavel_core::rpo::{self, StepCoefficients, Term, TermInput, TermSums};
use gavel_core::spec::ObjectiveSpec;
use gavel_models::ModelError;

use super::batch::Row;
use crate::values::with_values;

/// One term a row, and d(sum of the terms' losses) / d(velocity).
pub(super) struct Terms {
    pub(super) terms: Vec<Term>,
    /// (rows, tokens, channels) f32 on the velocity's device.
    pub(super) grad_velocity: Tensor,
}

/// From slices. `velocity` and `reference` are (rows, tokens, channels) f32 of the trained policy and of the base.
pub(super) fn on_slices(
    objective: &ObjectiveSpec,
    rows: &[Row<'_>],
    velocity: &Tensor,
    reference: &Tensor,
) -> Result<Terms, ModelError> {
    let mut grad_velocity = vec![0.0; velocity.elem_count()];
    let size = velocity.elem_count() / rows.len().max(1);
    let mut terms = Vec::with_capacity(rows.len());
    with_values(velocity, |velocity| {
        with_values(reference, |reference| {
            let parts = velocity
                .chunks_exact(size)
                .zip(reference.chunks_exact(size))
                .zip(grad_velocity.chunks_exact_mut(size));
            for (row, ((velocity, reference_velocity), grad_velocity)) in rows.iter().zip(parts) {
                let input = TermInput {
                    coefficients: &row.coefficients(),
                    latents: row.latents(),
                    next: row.next(),
                    old_log_prob: row.old_log_prob(),
                    velocity,
                    reference_velocity,
                    advantage: row.reward,
                };
                terms.push(rpo::term(objective, &input, grad_velocity));
            }
        })
    })??;
    Ok(Terms {
        terms,
        grad_velocity: Tensor::from_vec(grad_velocity, velocity.shape(), &Device::Cpu)?,
    })
}

/// From tensors: the states before and after each row's transition and both velocities, all (rows, tokens, channels) f32.
pub(super) fn on_tensors(
    objective: &ObjectiveSpec,
    rows: &[Row<'_>],
    latents: &Tensor,
    next: &Tensor,
    velocity: &Tensor,
    reference: &Tensor,
) -> Result<Terms, ModelError> {
    let coefficients: Vec<StepCoefficients> = rows.iter().map(Row::coefficients).collect();
    let column = |numbers: Vec<f64>| Tensor::from_vec(numbers, (rows.len(), 1, 1), velocity.device());
    let of_latents = column(coefficients.iter().map(|c| c.latents).collect())?;
    let of_velocity = column(coefficients.iter().map(|c| c.velocity).collect())?;
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);

    let drift = wide(latents)?.broadcast_mul(&of_latents)?;
    let mean = (&drift + wide(velocity)?.broadcast_mul(&of_velocity)?)?;
    let mean_reference = (drift + wide(reference)?.broadcast_mul(&of_velocity)?)?;
    let next = wide(next)?;
    let residual = (&next - &mean)?;
    let residual_reference = (next - &mean_reference)?;
    let shift = (mean - mean_reference)?;

    let squares = |distance: &Tensor| distance.sqr()?.sum((1, 2));
    let sums = Tensor::stack(
        &[squares(&residual)?, squares(&residual_reference)?, squares(&shift)?],
        1,
    )?;
    let count = velocity.elem_count() / rows.len().max(1);
    let (mut terms, mut by_residual, mut by_shift) = (Vec::new(), Vec::new(), Vec::new());
    for ((row, coefficients), sums) in rows.iter().zip(&coefficients).zip(sums.to_vec2::<f64>()?) {
        let sums = TermSums {
            count,
            new_squares: sums[0],
            reference_squares: sums[1],
            shift_squares: sums[2],
        };
        let (term, slopes) = sums.term(objective, coefficients, row.old_log_prob(), row.reward);
        terms.push(term);
        by_residual.push(slopes.residual);
        by_shift.push(slopes.shift);
    }
    let residual = residual.broadcast_mul(&column(by_residual)?)?;
    let grad_velocity = (residual + shift.broadcast_mul(&column(by_shift)?)?)?;
    Ok(Terms {
        terms,
        grad_velocity: grad_velocity.to_dtype(DType::F32)?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gavel_core::ids::Digest;
    use gavel_core::noise::{NoiseKey, Use};
    use gavel_core::rpo::{Kl, Sde};
    use gavel_models::Family;
    use gavel_models::denoiser::Grid;

    use super::*;
    use crate::trajectory::{Extents, HostConditioning, Trajectory, TrajectoryMetadata};

    const TOKENS: usize = 40;
    const CHANNELS: usize = 16;
    const SIZE: usize = TOKENS * CHANNELS;

    fn normal(timestep: u32, count: usize) -> Vec<f32> {
        NoiseKey {
            timestep,
            ..NoiseKey::new(6, Use::Step)
        }
        .normal(count)
    }

    fn trajectory(sde: Sde) -> Trajectory {
        let extents = Extents {
            steps: 3,
            tokens: TOKENS,
            channels: CHANNELS,
        };
        Trajectory {
            metadata: TrajectoryMetadata {
                family: Family::ALL[0],
                model: Digest([0; 32]),
                adapter: None,
                prompt: String::new(),
                sources: Vec::new(),
                conditioning: None,
                seed: 0,
                step: 1,
                prompt_index: 0,
                candidate: 0,
                sde,
                eta: 0.7,
                noise_steps: 2,
                shift: 3.0,
                guidance_scale: None,
                width: 16,
                height: 16,
                grid: Grid {
                    height: 8,
                    width: TOKENS / 8,
                },
            },
            extents,
            latents: normal(0, 4 * SIZE),
            log_probs: vec![-1.5, -1.25, 0.0],
            sigmas: rpo::sigmas(3, 3.0),
            velocities: normal(1, 3 * SIZE),
            conditioning: Arc::new(HostConditioning::new()),
        }
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (values.len() / SIZE, TOKENS, CHANNELS), &Device::Cpu).unwrap()
    }

    fn read(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Relative to the larger one; the sums are of float64 numbers, taken in another order.
    #[track_caller]
    fn assert_close(found: f64, expected: f64, tolerance: f64) {
        let gap = (found - expected).abs();
        assert!(
            gap <= tolerance * expected.abs().max(1.0),
            "{found} and {expected} differ by {gap:e}"
        );
    }

    #[test]
    fn terms_on_tensors_are_those_on_slices_to_rounding() {
        const FIGURES: f64 = 1e-11;
        const SLOPES: f64 = 1e-6;
        for (sde, kl) in [(Sde::Dance, Kl::K1), (Sde::Flow, Kl::K3), (Sde::Dance, Kl::Gaussian)] {
            let objective = ObjectiveSpec {
                kl,
                kl_beta: 0.3,
                clip_range: 100.0,
                ..ObjectiveSpec::default()
            };
            let mut trajectory = trajectory(sde);
            let (velocity, reference) = (normal(2, 2 * SIZE), normal(3, 2 * SIZE));
            // On-policy up to a little, so that ratios are neither 1 nor out of range.
            for timestep in 0..2 {
                let row = Row {
                    trajectory: &trajectory,
                    timestep,
                    reward: 0.0,
                };
                let of_row = &velocity[(1 - timestep) * SIZE..][..SIZE];
                let found = rpo::log_prob(&row.coefficients(), row.latents(), of_row, row.next());
                trajectory.log_probs[timestep] = (found - 0.2) as f32;
            }
            let rows = [(1, 1.0), (0, -0.4)].map(|(timestep, reward)| Row {
                trajectory: &trajectory,
                timestep,
                reward,
            });
            let (velocity, reference) = (tensor(&velocity), tensor(&reference));
            let slices = on_slices(&objective, &rows, &velocity, &reference).unwrap();
            let stack = |state: fn(&Row<'_>) -> Vec<f32>| tensor(&rows.iter().flat_map(state).collect::<Vec<f32>>());
            let latents = stack(|row| row.latents().to_vec());
            let next = stack(|row| row.next().to_vec());
            let tensors = on_tensors(&objective, &rows, &latents, &next, &velocity, &reference).unwrap();
            for (found, expected) in tensors.terms.iter().zip(&slices.terms) {
                assert!((expected.ratio - 1.0).abs() > 0.1, "{expected:?}");
                assert_close(found.loss, expected.loss, FIGURES);
                assert_close(found.kl, expected.kl, FIGURES);
                assert_close(found.ratio, expected.ratio, FIGURES);
                assert_eq!(found.clipped, expected.clipped);
            }
            let expected = read(&slices.grad_velocity);
            let largest = expected.iter().fold(0.0_f32, |largest, slope| largest.max(slope.abs()));
            assert!(largest > 0.0);
            for (found, expected) in read(&tensors.grad_velocity).iter().zip(&expected) {
                let gap = f64::from(found - expected).abs();
                assert!(gap <= SLOPES * f64::from(largest), "{found} and {expected}");
            }
        }
    }
}
