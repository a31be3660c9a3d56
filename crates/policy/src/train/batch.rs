//! Rows of a training batch: one (candidate, timestep) each.

use std::{ptr, sync::Arc};

use candle_core::Tensor;
use gavel_core::{
    ids::{Candidate, PromptIndex, Step},
    rpo::{self, StepCoefficients},
    schedule::timestep_order,
};
use gavel_models::{
    ModelError,
    denoiser::{Conditioning, Grid, Input},
};

use super::{Error, Group, Trainer};
use crate::{
    trajectory::{Extents, Trajectory},
    values::on_device,
};

/// One (candidate, timestep).
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) trajectory: &'a Trajectory,
    pub(super) timestep: usize,
    pub(super) reward: f64,
}

impl Row<'_> {
    /// Coefficients of the transition whose log-probability is trained.
    pub(super) fn coefficients(&self) -> StepCoefficients {
        let Trajectory { metadata, sigmas, .. } = self.trajectory;
        let (sigma, sigma_next) = (sigmas[self.timestep], sigmas[self.timestep + 1]);
        StepCoefficients::new(metadata.sde, metadata.eta, sigma, sigma_next)
    }

    /// The state before the transition, (tokens, channels).
    pub(super) fn latents(&self) -> &[f32] {
        self.trajectory.latent(self.timestep)
    }

    /// The state after it.
    pub(super) fn next(&self) -> &[f32] {
        self.trajectory.latent(self.timestep + 1)
    }

    /// Its log-probability under the policy that sampled.
    pub(super) fn old_log_prob(&self) -> f64 {
        f64::from(self.trajectory.log_probs[self.timestep])
    }

    fn fits(&self, other: &Self) -> bool {
        ptr::eq(self.trajectory, other.trajectory)
            || (self.trajectory.metadata.grid == other.trajectory.metadata.grid
                && self.trajectory.conditioning_shapes() == other.trajectory.conditioning_shapes())
    }
}

/// The rows of `groups` in prompt and candidate order. Each candidate's timesteps come in its seeded order, which the
/// published recipe uses; since all of a step's gradients are added before the update, it changes nothing but the order
/// of a sum.
pub(super) fn rows<'a>(groups: &[&'a Group], timesteps: &[usize]) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for group in groups {
        for candidate in &group.candidates {
            let trajectory = &candidate.trajectory;
            let metadata = &trajectory.metadata;
            let order = timestep_order(
                metadata.seed,
                Step(metadata.step),
                PromptIndex(metadata.prompt_index),
                Candidate(metadata.candidate),
                timesteps,
            );
            rows.extend(order.into_iter().map(|timestep| Row {
                trajectory,
                timestep,
                reward: candidate.reward,
            }));
        }
    }
    rows
}

/// Cuts rows into batches of at most `together`, each of conditioning with equal shapes, in order.
pub(super) fn batches<'r, 'a>(rows: &'r [Row<'a>], together: usize) -> impl Iterator<Item = &'r [Row<'a>]> {
    rows.chunk_by(Row::fits).flat_map(move |rows| rows.chunks(together))
}

/// What the denoiser reads for some rows, on its device.
pub(super) struct BatchInput {
    pub(super) latents: Tensor,
    conditioning: Conditioning,
    sigma: Vec<f32>,
    guidance: Option<f32>,
    grid: Grid,
}

impl BatchInput {
    pub(super) fn as_input(&self) -> Input<'_> {
        Input {
            latents: &self.latents,
            conditioning: &self.conditioning,
            sigma: &self.sigma,
            guidance: self.guidance,
            grid: self.grid,
        }
    }
}

impl Trainer {
    /// Stacks the rows of one batch, all passed by [`Trainer::check`]. A conditioning goes to the device once, however many
    /// timesteps of candidates that share it are rows.
    pub(super) fn input(&self, rows: &[Row<'_>]) -> Result<BatchInput, Error> {
        let mut uploaded = Vec::new();
        let conditioning_of = |row: &Row<'_>| Arc::as_ptr(&row.trajectory.conditioning);
        for rows in rows.chunk_by(|one, next| conditioning_of(one) == conditioning_of(next)) {
            let conditioning = on_device(&rows[0].trajectory.conditioning, self.denoiser.device())?;
            uploaded.extend(vec![conditioning; rows.len()]);
        }
        let conditioning: Vec<&Conditioning> = uploaded.iter().collect();
        let metadata = &rows[0].trajectory.metadata;
        Ok(BatchInput {
            latents: self.stack(rows, Row::latents)?,
            conditioning: Conditioning::stack(&conditioning)?,
            sigma: rows.iter().map(|row| row.trajectory.sigmas[row.timestep]).collect(),
            guidance: metadata.guidance_scale.map(|scale| scale as f32),
            grid: metadata.grid,
        })
    }

    /// One state of each row, (rows, tokens, channels) f32 on the denoiser's device.
    pub(super) fn stack<'a>(
        &self,
        rows: &'a [Row<'a>],
        state: impl Fn(&'a Row<'a>) -> &'a [f32],
    ) -> Result<Tensor, ModelError> {
        let Extents { tokens, channels, .. } = rows[0].trajectory.extents;
        let mut values = Vec::with_capacity(rows.len() * tokens * channels);
        rows.iter().for_each(|row| values.extend_from_slice(state(row)));
        let shape = (rows.len(), tokens, channels);
        Ok(Tensor::from_vec(values, shape, self.denoiser.device())?)
    }

    /// Refuses trajectories that this denoiser did not sample, that do not fit together, or that carry no noise where a
    /// gradient is asked for. Returns the token rows that one (candidate, timestep) takes at most, `None` for no trajectory.
    pub(super) fn check(&self, groups: &[Group], timesteps: &[usize]) -> Result<Option<usize>, Error> {
        let trajectories = groups
            .iter()
            .flat_map(|group| &group.candidates)
            .map(|candidate| &candidate.trajectory);
        let mut common: Option<&Trajectory> = None;
        let mut tokens = None;
        for trajectory in trajectories {
            self.check_one(trajectory, timesteps)?;
            let first = *common.get_or_insert(trajectory);
            let shape = |one: &Trajectory| {
                let guidance = one.metadata.guidance_scale.map(f64::to_bits);
                (one.extents, one.metadata.grid, guidance)
            };
            if shape(trajectory) != shape(first) {
                return Err(Error::Trajectory {
                    trajectory: in_words(trajectory),
                    tensor: "latents",
                    found: format!("extents {:?}", trajectory.extents),
                    expected: format!(
                        "those of {}: {:?}, with the same guidance",
                        in_words(first),
                        first.extents
                    ),
                });
            }
            tokens = tokens.max(Some(token_rows(trajectory)));
        }
        Ok(tokens)
    }

    fn check_one(&self, trajectory: &Trajectory, timesteps: &[usize]) -> Result<(), Error> {
        let metadata = &trajectory.metadata;
        if metadata.model != self.model() {
            return Err(Error::OtherModel {
                trajectory: in_words(trajectory),
                expected: self.model(),
                found: metadata.model,
            });
        }
        let Extents { steps, channels, .. } = trajectory.extents;
        let expected = self.denoiser.latent_channels();
        if channels != expected {
            return Err(Error::Trajectory {
                trajectory: in_words(trajectory),
                tensor: "latents",
                found: format!("{channels} channels"),
                expected: expected.to_string(),
            });
        }
        self.denoiser
            .check_conditioning(&trajectory.conditioning_shapes())
            .map_err(|source| Error::Conditioning {
                trajectory: in_words(trajectory),
                source: Box::new(source),
            })?;
        if trajectory.sigmas != rpo::sigmas(steps, metadata.shift) {
            return Err(Error::Trajectory {
                trajectory: in_words(trajectory),
                tensor: "sigmas",
                found: format!("{:?}", trajectory.sigmas),
                expected: format!("the schedule of {steps} steps with shift {}", metadata.shift),
            });
        }
        match timesteps.iter().find(|timestep| **timestep >= metadata.noise_steps) {
            Some(timestep) => Err(Error::NoNoise {
                trajectory: in_words(trajectory),
                noise_steps: metadata.noise_steps,
                timestep: *timestep,
            }),
            None => Ok(()),
        }
    }
}

/// Tokens that the denoiser attends over for one row: the latents', and those of every conditioning tensor that is a
/// sequence of them. A vector, such as a pooled embedding, is none.
fn token_rows(trajectory: &Trajectory) -> usize {
    let sequences = trajectory.conditioning.values().filter(|tensor| tensor.shape.len() > 1);
    trajectory.extents.tokens + sequences.map(|tensor| tensor.shape[0]).sum::<usize>()
}

/// Names a trajectory for people.
pub(super) fn in_words(trajectory: &Trajectory) -> String {
    let metadata = &trajectory.metadata;
    format!(
        "the trajectory of step {}, prompt {}, candidate {}",
        metadata.step, metadata.prompt_index, metadata.candidate
    )
}
