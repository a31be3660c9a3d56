//! `[sampling]`: how pictures are painted.

use std::ops::Not;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::Problems;
use super::section::Section;
use crate::bounds;
use crate::rpo::Sde;

/// `[sampling]`: the stochastic sampler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingSpec {
    /// Denoising steps T.
    #[schemars(range(min = 1, max = 1000))]
    pub steps: usize,
    /// Time shift of the sigma schedule; 1 leaves it linear.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub shift: f64,
    /// The stochastic differential equation.
    pub sde: Sde,
    /// Noise level.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eta: f64,
    /// Noise in the first k steps only, plain ODE steps after them. Left out: every step that is trained.
    #[schemars(range(min = 1))]
    pub noise_steps: usize,
    /// Guidance embedding's input, for models that have one; others ignore it.
    #[schemars(range(min = 0))]
    pub guidance_scale: f64,
    /// Picture width in pixels.
    #[schemars(range(min = 16, max = 8192), extend("multipleOf" = 16))]
    pub width: usize,
    /// Picture height in pixels.
    #[schemars(range(min = 16, max = 8192), extend("multipleOf" = 16))]
    pub height: usize,
    /// Edits take the aspect ratio of their last source picture, at about `width` x `height` pixels, as the model's own pipeline
    /// does.
    #[serde(skip_serializing_if = "Not::not")]
    pub source_aspect: bool,
    /// Pictures of each prompt. The judge compares each with each other: 2 have one match, 4 have six.
    #[schemars(range(min = 2, max = 16))]
    pub candidates: u8,
    /// All candidates of a prompt start from the same noise.
    pub shared_noise: bool,
    /// Prompts that a sampler leases at a time; all candidates of each.
    #[schemars(range(min = 1, max = bounds::PER_STEP.most))]
    pub batch: u32,
    /// Steps by which the policy that samples is behind the one that is trained. 0: exactly on-policy; more lets samplers
    /// work while trainers do, and the ratio corrects for it. Part of the result.
    #[schemars(range(max = 16))]
    pub max_policy_lag: u32,
}

impl Default for SamplingSpec {
    fn default() -> Self {
        Self {
            steps: 8,
            shift: 3.0,
            sde: Sde::Dance,
            eta: 0.3,
            noise_steps: 7,
            guidance_scale: 3.5,
            width: 512,
            height: 512,
            source_aspect: false,
            candidates: 2,
            shared_noise: true,
            batch: 1,
            max_policy_lag: 0,
        }
    }
}

impl Section for SamplingSpec {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.steps >= 1 && self.steps <= 1000, "sampling.steps", || {
            format!("must lie in 1 to 1000, not {}", self.steps)
        });
        problems.positive(self.shift, "sampling.shift");
        problems.positive(self.eta, "sampling.eta");
        problems.require(
            self.noise_steps >= 1 && self.noise_steps <= self.steps,
            "sampling.noise_steps",
            || {
                format!(
                    "must lie in 1 to sampling.steps ({}), not {}",
                    self.steps, self.noise_steps
                )
            },
        );
        problems.not_negative(self.guidance_scale, "sampling.guidance_scale");
        for (size, key) in [(self.width, "sampling.width"), (self.height, "sampling.height")] {
            problems.require(size >= 16 && size % 16 == 0 && size <= 8192, key, || {
                format!("must be a multiple of 16 in 16 to 8192, not {size}")
            });
        }
        problems.require((2..=16).contains(&self.candidates), "sampling.candidates", || {
            format!("must lie in 2 to 16, not {}", self.candidates)
        });
        problems.count(self.batch.into(), bounds::PER_STEP, "sampling.batch");
        problems.require(self.max_policy_lag <= 16, "sampling.max_policy_lag", || {
            format!("must lie in 0 to 16, not {}", self.max_policy_lag)
        });
    }
}
