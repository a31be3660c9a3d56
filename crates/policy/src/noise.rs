//! Which key gives a candidate's noise: the sampler draws with it, the trainer proves a trajectory with it.

use gavel_core::{
    ids::{Candidate, PromptIndex, Step},
    noise::{NoiseKey, Use},
};

/// The candidate that noise is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CandidateNoise {
    /// `run.seed`.
    pub(crate) seed: u64,
    pub(crate) step: Step,
    pub(crate) prompt_index: PromptIndex,
    pub(crate) candidate: Candidate,
}

impl CandidateNoise {
    /// The key of x_0. Candidates that share their initial noise are drawn with candidate 0's key.
    pub(crate) fn initial(&self, usage: Use, shared: bool) -> NoiseKey {
        let key = self.key(0, usage);
        match shared {
            true => NoiseKey { candidate: 0, ..key },
            false => key,
        }
    }

    /// The key of the noise that the transition from x_`timestep` adds.
    pub(crate) fn step(&self, timestep: usize) -> NoiseKey {
        self.key(timestep as u32, Use::Step)
    }

    fn key(&self, timestep: u32, usage: Use) -> NoiseKey {
        NoiseKey {
            seed: self.seed,
            step: self.step.0,
            prompt: self.prompt_index.0,
            candidate: self.candidate.0,
            timestep,
            usage,
        }
    }
}
