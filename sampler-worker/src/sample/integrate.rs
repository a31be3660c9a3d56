//! From x_0 to the x0 estimate of the last step.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use gavel_core::{
    ids::{Candidate, PromptIndex},
    rpo,
};
use gavel_models::{flux::transformer::TransformerInput, lora::LoraAdapter, trajectory::Trajectory};

use super::{Error, Sampler};
use crate::embeds::Embeds;

impl Sampler {
    /// Extends trajectories that hold only x_0 to all steps, as one batch. Returns the x0 estimates of the last step,
    /// (candidates, tokens, channels). All trajectories have the same extents and settings. A negative prompt comes with its
    /// guidance scale.
    pub(super) fn integrate(
        &self,
        adapter: Option<&LoraAdapter>,
        trajectories: &mut [Trajectory],
        negative: Option<(Arc<Embeds>, f32)>,
    ) -> Result<Vec<f32>, Error> {
        let Some(first) = trajectories.first() else {
            return Ok(Vec::new());
        };
        let (extents, metadata, sigmas) = (first.extents, first.metadata.clone(), first.sigmas.clone());
        let count = trajectories.len();
        let size = extents.latent_size();
        let stack = |values: Vec<f32>, rows: usize, width: usize| -> candle_core::Result<Tensor> {
            Tensor::from_vec(values, (count, rows, width), &self.device)
        };
        let prompt_embeds = stack(
            concatenated(trajectories, |one| &one.prompt_embeds),
            extents.text_tokens,
            extents.joint,
        )?;
        let pooled_prompt_embeds = stack(
            concatenated(trajectories, |one| &one.pooled_prompt_embeds),
            1,
            extents.pooled,
        )?
        .squeeze(1)?;

        let negative = match negative {
            Some((embeds, scale)) => {
                let prompt = stack(embeds.prompt.repeat(count), extents.text_tokens, extents.joint)?;
                let pooled = stack(embeds.pooled.repeat(count), 1, extents.pooled)?.squeeze(1)?;
                Some((prompt, pooled, scale))
            }
            None => None,
        };

        let mut estimates = Vec::with_capacity(count * size);
        for (timestep, sigma) in sigmas.iter().copied().take(extents.steps).enumerate() {
            let latents = stack(
                concatenated(trajectories, |one| one.latent(timestep)),
                extents.tokens,
                extents.channels,
            )?;
            let input = TransformerInput {
                latents,
                prompt_embeds: prompt_embeds.clone(),
                pooled_prompt_embeds: pooled_prompt_embeds.clone(),
                sigma: Tensor::full(sigma, count, &self.device)?,
                guidance: metadata.guidance_scale.map(|scale| scale as f32),
                height_tokens: metadata.height_tokens,
                width_tokens: metadata.width_tokens,
            };
            let velocities = self.pipeline.transformer.velocity(adapter, &input)?;
            let mut velocities: Vec<f32> = velocities.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            if let Some((prompt_embeds, pooled_prompt_embeds, scale)) = &negative {
                let input = TransformerInput {
                    prompt_embeds: prompt_embeds.clone(),
                    pooled_prompt_embeds: pooled_prompt_embeds.clone(),
                    ..input
                };
                let away = self.pipeline.transformer.velocity(adapter, &input)?;
                let away: Vec<f32> = away.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                for (velocity, away) in velocities.iter_mut().zip(away) {
                    *velocity = away + scale * (*velocity - away);
                }
            }
            for (trajectory, velocity) in trajectories.iter_mut().zip(velocities.chunks_exact(size)) {
                if velocity.iter().any(|value| !value.is_finite()) {
                    return Err(Error::NotFinite {
                        prompt: PromptIndex(trajectory.metadata.prompt_index),
                        candidate: Candidate(trajectory.metadata.candidate),
                        timestep,
                    });
                }
                if timestep + 1 == extents.steps {
                    estimates.extend(rpo::predicted_original(
                        sigmas[timestep],
                        trajectory.latent(timestep),
                        velocity,
                    ));
                }
                advance(trajectory, timestep, velocity);
            }
        }
        Ok(estimates)
    }
}

/// One part of each trajectory, one after the other.
fn concatenated<'a>(trajectories: &'a [Trajectory], part: impl Fn(&'a Trajectory) -> &'a [f32]) -> Vec<f32> {
    trajectories
        .iter()
        .flat_map(|trajectory| part(trajectory).iter().copied())
        .collect()
}

/// Appends velocity, next state and log-probability.
fn advance(trajectory: &mut Trajectory, timestep: usize, velocity: &[f32]) {
    let metadata = &trajectory.metadata;
    let mut next = trajectory.latent(timestep).to_vec();
    let log_prob = if timestep < metadata.noise_steps {
        let (sigma, sigma_next) = (trajectory.sigmas[timestep], trajectory.sigmas[timestep + 1]);
        let coefficients = rpo::StepCoefficients::new(metadata.sde, metadata.eta, sigma, sigma_next);
        let noise = super::candidate_noise(metadata).step(timestep).normal(next.len());
        rpo::sde_step(&coefficients, trajectory.latent(timestep), velocity, &noise, &mut next)
    } else {
        rpo::ode_step(
            trajectory.sigmas[timestep],
            trajectory.sigmas[timestep + 1],
            &mut next,
            velocity,
        );
        0.0
    };
    trajectory.velocities.extend_from_slice(velocity);
    trajectory.latents.extend_from_slice(&next);
    trajectory.log_probs.push(log_prob as f32);
}
