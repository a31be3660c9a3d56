//! Rows of a training batch: one (candidate, timestep) each.

use candle_core::Tensor;
use gavel_core::{
    ids::{Candidate, PromptIndex, Step},
    rpo,
    schedule::timestep_order,
};
use gavel_models::{
    flux::transformer::TransformerInput,
    trajectory::{Extents, Trajectory},
};

use crate::{Error, Group, Trainer};

/// One (candidate, timestep).
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) trajectory: &'a Trajectory,
    pub(crate) timestep: usize,
    pub(crate) reward: f64,
}

/// The rows of `groups` in prompt and candidate order. Each candidate's timesteps come in its seeded order, which the
/// published recipe uses; since all of a step's gradients are added before the update, it changes nothing but the order
/// of a sum.
pub(crate) fn rows<'a>(groups: &[&'a Group], timesteps: &[usize]) -> Vec<Row<'a>> {
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

impl Trainer {
    /// Stacks rows that [`Trainer::check`] has passed, all of the same extents.
    pub(crate) fn input(&self, rows: &[Row<'_>], extents: &Extents) -> Result<TransformerInput, Error> {
        let count = rows.len();
        let stack = |part: fn(&Row<'_>) -> Vec<f32>, height: usize, width: usize| {
            let values: Vec<f32> = rows.iter().flat_map(part).collect();
            Tensor::from_vec(values, (count, height, width), &self.device)
        };
        let sigmas = rows.iter().map(|row| row.trajectory.sigmas[row.timestep]).collect();
        let metadata = &rows[0].trajectory.metadata;
        Ok(TransformerInput {
            latents: stack(
                |row| row.trajectory.latent(row.timestep).to_vec(),
                extents.tokens,
                extents.channels,
            )?,
            prompt_embeds: stack(
                |row| row.trajectory.prompt_embeds.clone(),
                extents.text_tokens,
                extents.joint,
            )?,
            pooled_prompt_embeds: stack(|row| row.trajectory.pooled_prompt_embeds.clone(), 1, extents.pooled)?
                .squeeze(1)?,
            sigma: Tensor::from_vec::<_, f32>(sigmas, count, &self.device)?,
            guidance: metadata.guidance_scale.map(|scale| scale as f32),
            height_tokens: metadata.height_tokens,
            width_tokens: metadata.width_tokens,
        })
    }

    /// Refuses trajectories that this transformer did not sample, that do not fit together, or that carry no noise where a
    /// gradient is asked for. Returns their common extents, `None` for no trajectory at all.
    pub(crate) fn check(&self, groups: &[Group], timesteps: &[usize]) -> Result<Option<Extents>, Error> {
        let trajectories = groups
            .iter()
            .flat_map(|group| &group.candidates)
            .map(|candidate| &candidate.trajectory);
        let mut common: Option<&Trajectory> = None;
        for trajectory in trajectories {
            self.check_one(trajectory, timesteps)?;
            let first = *common.get_or_insert(trajectory);
            let shape = |one: &Trajectory| {
                (
                    one.extents,
                    one.metadata.height_tokens,
                    one.metadata.guidance_scale.map(f64::to_bits),
                )
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
        }
        Ok(common.map(|trajectory| trajectory.extents))
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
        let extents = trajectory.extents;
        let config = self.transformer.config();
        let widths = [
            ("latents", extents.channels, config.in_channels),
            ("prompt_embeds", extents.joint, config.joint_attention_dim),
            ("pooled_prompt_embeds", extents.pooled, config.pooled_projection_dim),
        ];
        for (tensor, found, expected) in widths {
            if found != expected {
                return Err(Error::Trajectory {
                    trajectory: in_words(trajectory),
                    tensor,
                    found: format!("{found} channels"),
                    expected: format!("{expected}"),
                });
            }
        }
        if trajectory.sigmas != rpo::sigmas(extents.steps, metadata.shift) {
            return Err(Error::Trajectory {
                trajectory: in_words(trajectory),
                tensor: "sigmas",
                found: format!("{:?}", trajectory.sigmas),
                expected: format!("the schedule of {} steps with shift {}", extents.steps, metadata.shift),
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

/// Names a trajectory for people.
pub(crate) fn in_words(trajectory: &Trajectory) -> String {
    let metadata = &trajectory.metadata;
    format!(
        "the trajectory of step {}, prompt {}, candidate {}",
        metadata.step, metadata.prompt_index, metadata.candidate
    )
}
