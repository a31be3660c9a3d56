//! From x_0 to the clean latents of the last step.

use candle_core::Tensor;
use gavel_core::rpo::{Sde, StepCoefficients};
use gavel_core::work::rules::CandidateNoise;
use gavel_models::{
    ModelError,
    denoiser::{Conditioning, Denoiser, Grid, Input},
    lora::LoraAdapter,
};

use super::states::{States, Stop, Way};
use super::step::Transition;

/// The noise levels of a way and which of its steps are stochastic.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) sigmas: Vec<f32>,
    pub(super) sde: Sde,
    pub(super) eta: f64,
    /// Steps with noise, counted from the first.
    pub(super) noise_steps: usize,
}

impl Schedule {
    fn transitions(&self) -> impl Iterator<Item = Transition> + '_ {
        self.sigmas.windows(2).enumerate().map(|(timestep, pair)| Transition {
            sigma: pair[0],
            sigma_next: pair[1],
            stochastic: (timestep < self.noise_steps)
                .then(|| StepCoefficients::new(self.sde, self.eta, pair[0], pair[1])),
        })
    }
}

/// Rows that run together: the same schedule and grid, conditioning of equal shapes.
pub(super) struct Batch<'a> {
    pub(super) denoiser: &'a dyn Denoiser,
    pub(super) adapter: Option<&'a LoraAdapter>,
    pub(super) schedule: &'a Schedule,
    pub(super) grid: Grid,
    /// The guidance scale, for a denoiser that reads one.
    pub(super) guidance: Option<f32>,
    pub(super) conditioning: Conditioning,
    /// What to steer away from, and how strongly.
    pub(super) negative: Option<(Conditioning, f32)>,
    /// Whom each row's noise is drawn for.
    pub(super) noise: Vec<CandidateNoise>,
}

impl Batch<'_> {
    /// Takes every step from x_0, one of `initial` a row. Returns each row's way and the clean latents that the last
    /// velocities point at, (rows, tokens, channels) f32 on the denoiser's device.
    pub(super) fn integrate(&self, initial: Vec<Vec<f32>>) -> Result<(Vec<Way>, Tensor), Stop> {
        let (tokens, channels) = (self.grid.tokens(), self.denoiser.latent_channels());
        let steps = self.schedule.sigmas.len() - 1;
        let mut states = States::new(initial, tokens, channels, steps, self.denoiser.placement())?;
        for (timestep, transition) in self.schedule.transitions().enumerate() {
            let velocity = self.velocity(&states.latents()?, transition.sigma)?;
            let noise = |row: usize| self.noise[row].step(timestep).normal(tokens * channels);
            states.advance(transition, &velocity, noise)?;
        }
        states.finish()
    }

    /// The velocities at one noise level, steered away from the negative prompt where there is one.
    fn velocity(&self, latents: &Tensor, sigma: f32) -> Result<Tensor, ModelError> {
        let sigma = vec![sigma; self.noise.len()];
        let input = Input {
            latents,
            conditioning: &self.conditioning,
            sigma: &sigma,
            guidance: self.guidance,
            grid: self.grid,
        };
        let velocity = self.denoiser.velocity(self.adapter, &input)?;
        let Some((negative, scale)) = &self.negative else {
            return Ok(velocity);
        };
        let away = self.denoiser.velocity(
            self.adapter,
            &Input {
                conditioning: negative,
                ..input
            },
        )?;
        self.denoiser.guided(&velocity, &away, *scale)
    }
}
