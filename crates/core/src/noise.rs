//! Random numbers by key, never by state: whoever needs the noise of one place computes it from that place's name.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::Digest as _;

/// What a random number is for; a part of its key, so that no two uses share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// A sample's initial latents.
    Initial,
    /// The noise of one stochastic step.
    Step,
    /// Initial latents of an evaluation sample; the same for both arms and at every step (`step` 0).
    EvaluationInitial,
    /// The order in which an epoch visits the prompts.
    PromptDraw,
    /// The order in which the trainer visits a candidate's timesteps.
    TimestepOrder,
    /// The adapter's initial A matrices.
    AdapterInit,
}

/// The place that a random number belongs to. Fields that mean nothing to a use are 0: with shared noise, for one, both
/// candidates' initial latents have `candidate` 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// `run.seed`.
    pub seed: u64,
    /// The optimizer step.
    pub step: u32,
    /// The prompt's place in the step.
    pub prompt: u32,
    /// The candidate.
    pub candidate: u8,
    /// The denoising step.
    pub timestep: u32,
    /// What for.
    pub usage: Use,
}

impl NoiseKey {
    /// A key with every place 0.
    pub fn new(seed: u64, usage: Use) -> Self {
        Self {
            seed,
            step: 0,
            prompt: 0,
            candidate: 0,
            timestep: 0,
            usage,
        }
    }

    /// SHA-256 of the key's fields, little-endian, after a tag that names this format; the seed of a ChaCha8 stream.
    pub fn bytes(&self) -> [u8; 32] {
        let usage: u8 = match self.usage {
            Use::Initial => 0,
            Use::Step => 1,
            Use::EvaluationInitial => 2,
            Use::PromptDraw => 3,
            Use::TimestepOrder => 4,
            Use::AdapterInit => 5,
        };
        let mut hash = sha2::Sha256::new();
        hash.update(b"gavel.noise.v1");
        hash.update(self.seed.to_le_bytes());
        hash.update(self.step.to_le_bytes());
        hash.update(self.prompt.to_le_bytes());
        hash.update([self.candidate]);
        hash.update(self.timestep.to_le_bytes());
        hash.update([usage]);
        hash.finalize().into()
    }

    /// `count` standard normal numbers: Box-Muller on pairs of 53-bit uniforms, with libm's functions, so that every machine
    /// gets the same bits.
    pub fn normal(&self, count: usize) -> Vec<f32> {
        let mut stream = ChaCha8Rng::from_seed(self.bytes());
        let mut normal = Vec::with_capacity(count + 1);
        while normal.len() < count {
            // In (0, 1], so that the logarithm is finite.
            let radius = (-2.0 * libm::log(uniform(stream.next_u64()) + f64::EPSILON / 2.0)).sqrt();
            let angle = 2.0 * std::f64::consts::PI * uniform(stream.next_u64());
            normal.push((radius * libm::cos(angle)) as f32);
            normal.push((radius * libm::sin(angle)) as f32);
        }
        normal.truncate(count);
        normal
    }

    /// A permutation of 0 to `count` - 1 (Fisher-Yates, unbiased).
    pub fn permutation(&self, count: u32) -> Vec<u32> {
        let mut stream = ChaCha8Rng::from_seed(self.bytes());
        let mut order: Vec<u32> = (0..count).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, below(&mut stream, last as u64 + 1) as usize);
        }
        order
    }
}

/// The upper 53 bits as a number in [0, 1).
fn uniform(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// A number in 0 to `bound` - 1, by rejection of the incomplete last interval.
fn below(stream: &mut ChaCha8Rng, bound: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let bits = stream.next_u64();
        if bits < limit {
            return bits % bound;
        }
    }
}
