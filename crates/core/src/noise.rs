//! Random numbers by key, never by state: whoever needs the noise of one candidate at one timestep computes it from their
//! numbers.

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
    /// Which prompts of a step the held-out judge looks at.
    HeldOutDraw,
    /// Which prompts of a step are asked in both image orders although the judge has earned trust.
    RecheckDraw,
    /// In which image order a match is asked that is asked in one.
    OrderDraw,
}

/// What a random number belongs to. Fields that mean nothing to a use are 0: with shared noise, for one, both
/// candidates' initial latents have `candidate` 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// `run.seed`.
    pub seed: u64,
    /// The optimizer step.
    pub step: u32,
    /// The prompt's index in the step.
    pub prompt: u32,
    /// The candidate.
    pub candidate: u8,
    /// The denoising step; of a match its number in the group.
    pub timestep: u32,
    /// What for.
    pub usage: Use,
}

impl NoiseKey {
    /// A key with every number but the seed 0.
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
            Use::HeldOutDraw => 6,
            Use::RecheckDraw => 7,
            Use::OrderDraw => 8,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The format: whoever changes it changes every run's results. The values come from a ChaCha8 and Box-Muller written
    /// independently in Python, with its own libm.
    #[test]
    fn a_key_s_numbers_never_change() {
        let key = NoiseKey {
            seed: 7,
            step: 1,
            prompt: 2,
            candidate: 1,
            timestep: 3,
            usage: Use::Step,
        };
        assert_eq!(hex::encode(key.bytes()), KNOWN_BYTES);
        let bits: Vec<u32> = key.normal(4).into_iter().map(f32::to_bits).collect();
        assert_eq!(bits, KNOWN_NORMAL_BITS);
        assert_eq!(NoiseKey::new(7, Use::PromptDraw).permutation(8), KNOWN_PERMUTATION);
    }

    const KNOWN_BYTES: &str = "9aa146e1c756969c73daccee45fbecba39ee1ae4a91131fd568d336ad08fb8f3";
    const KNOWN_NORMAL_BITS: [u32; 4] = [3216430976, 1069029088, 1055528198, 1059018464];
    const KNOWN_PERMUTATION: [u32; 8] = [2, 6, 1, 7, 0, 3, 5, 4];

    #[test]
    fn every_field_is_part_of_the_key() {
        let key = NoiseKey::new(0, Use::Initial);
        let others = [
            NoiseKey { seed: 1, ..key },
            NoiseKey { step: 1, ..key },
            NoiseKey { prompt: 1, ..key },
            NoiseKey { candidate: 1, ..key },
            NoiseKey { timestep: 1, ..key },
            NoiseKey {
                usage: Use::Step,
                ..key
            },
            NoiseKey {
                usage: Use::EvaluationInitial,
                ..key
            },
            NoiseKey {
                usage: Use::PromptDraw,
                ..key
            },
            NoiseKey {
                usage: Use::TimestepOrder,
                ..key
            },
            NoiseKey {
                usage: Use::AdapterInit,
                ..key
            },
        ];
        let mut seen: Vec<[u8; 32]> = others.iter().map(NoiseKey::bytes).collect();
        seen.push(key.bytes());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), others.len() + 1);
    }

    #[test]
    fn numbers_are_standard_normal() {
        let count = 200_000;
        let values = NoiseKey::new(11, Use::Initial).normal(count);
        let moment = |power: i32| {
            values
                .iter()
                .map(|v| libm::pow(f64::from(*v), f64::from(power)))
                .sum::<f64>()
                / count as f64
        };
        // Five standard errors of each moment of a standard normal.
        let bound = |variance: f64| 5.0 * (variance / count as f64).sqrt();
        assert!(moment(1).abs() < bound(1.0));
        assert!((moment(2) - 1.0).abs() < bound(2.0));
        assert!(moment(3).abs() < bound(15.0));
        assert!((moment(4) - 3.0).abs() < bound(96.0));
        let neighbours = values
            .windows(2)
            .map(|pair| f64::from(pair[0]) * f64::from(pair[1]))
            .sum::<f64>();
        assert!((neighbours / (count - 1) as f64).abs() < bound(1.0));
        let beyond = values.iter().filter(|v| v.abs() > 1.959_964).count() as f64 / count as f64;
        assert!((beyond - 0.05).abs() < bound(0.05 * 0.95));
    }

    #[test]
    fn a_shorter_draw_is_the_beginning_of_a_longer_one() {
        let key = NoiseKey::new(5, Use::Step);
        assert_eq!(key.normal(3), key.normal(10)[..3]);
        assert!(key.normal(0).is_empty());
    }

    #[test]
    fn a_permutation_holds_everything_once_and_is_even() {
        let mut first = [0_u32; 5];
        for seed in 0..5000 {
            let mut order = NoiseKey::new(seed, Use::PromptDraw).permutation(5);
            first[order[0] as usize] += 1;
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4]);
        }
        // 1000 expected each, standard deviation 28.
        assert!(first.iter().all(|count| (860..1140).contains(count)), "{first:?}");
        assert!(NoiseKey::new(0, Use::PromptDraw).permutation(0).is_empty());
    }
}
