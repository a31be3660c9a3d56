//! A sampled trajectory: everything that a trainer needs of a candidate, so that it needs no text encoder.
//!
//! docs/formats.md describes the file. The sampler writes it, the trainer reads it; both meet here. In a run the conditioning is
//! a file of its own ([`ConditioningFile`](crate::ConditioningFile)), which all candidates of a task share.

mod file;
pub(crate) mod metadata;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use crate::HostTensor;

pub use file::FORMAT;
pub use metadata::TrajectoryMetadata;

/// What a denoiser was conditioned on, by the names that its family gives: kept verbatim, so that a trainer conditions on the
/// same bits as the sampler did.
pub type HostConditioning = BTreeMap<String, HostTensor>;

/// One candidate's way from noise to image. Rows are row-major; `tokens` and `channels` are those of packed latents.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// How it came about.
    pub metadata: TrajectoryMetadata,
    /// Extents of the tensors.
    pub extents: Extents,
    /// x_0 .. x_T, (steps + 1, tokens, channels).
    pub latents: Vec<f32>,
    /// Log-probability of each transition, mean over the latent's dimensions, (steps,); 0 where no noise was added.
    pub log_probs: Vec<f32>,
    /// Noise levels, (steps + 1,), from 1 to 0.
    pub sigmas: Vec<f32>,
    /// The policy's velocity at each state, (steps, tokens, channels).
    pub velocities: Vec<f32>,
    /// What the denoiser was conditioned on; the candidates of a prompt share it. Empty while only its file is named.
    pub conditioning: Arc<HostConditioning>,
}

/// Extents of a trajectory's latents and velocities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents {
    /// Number of sampling steps T.
    pub steps: usize,
    /// Packed latent tokens.
    pub tokens: usize,
    /// Channels per token.
    pub channels: usize,
}

impl Extents {
    /// Values in one latent.
    pub fn latent_size(&self) -> usize {
        self.tokens * self.channels
    }
}

impl Trajectory {
    /// x_i, (tokens, channels); `index` from 0 to `steps`.
    pub fn latent(&self, index: usize) -> &[f32] {
        let size = self.extents.latent_size();
        &self.latents[index * size..(index + 1) * size]
    }

    /// The velocity at x_i, (tokens, channels); `index` below `steps`.
    pub fn velocity(&self, index: usize) -> &[f32] {
        let size = self.extents.latent_size();
        &self.velocities[index * size..(index + 1) * size]
    }

    /// The same with the conditioning that its file only names.
    #[must_use]
    pub fn with_conditioning(self, conditioning: &Arc<HostConditioning>) -> Self {
        Self {
            conditioning: Arc::clone(conditioning),
            ..self
        }
    }

    /// Shape of each conditioning tensor.
    pub fn conditioning_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.conditioning
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
            .collect()
    }
}
