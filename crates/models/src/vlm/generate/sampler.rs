//! Choosing the next token.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::Generation;
use crate::ModelError;

/// Chooses tokens by their logits, reproducibly.
pub(super) struct Sampler {
    temperature: f64,
    top_p: f64,
    random: ChaCha8Rng,
}

impl Sampler {
    pub(super) fn new(generation: &Generation) -> Result<Self, ModelError> {
        let (temperature, top_p) = (generation.temperature, generation.top_p);
        let refused = |input: &'static str, problem: String| Err(ModelError::Value { input, problem });
        if !(temperature.is_finite() && temperature >= 0.0) {
            return refused(
                "temperature",
                format!("must be 0 or a positive number, not {temperature}"),
            );
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refused("top_p", format!("must lie above 0 and at most at 1, not {top_p}"));
        }
        Ok(Self {
            temperature,
            top_p,
            random: ChaCha8Rng::seed_from_u64(generation.seed),
        })
    }

    /// The next token; among equals the one with the lower id comes first.
    pub(super) fn choose(&mut self, logits: &[f32]) -> Result<u32, ModelError> {
        let mut ranked: Vec<(u32, f32)> = (0..)
            .zip(logits.iter().copied())
            .filter(|(_, logit)| logit.is_finite())
            .collect();
        let best = ranked
            .iter()
            .copied()
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        let Some((likeliest, largest)) = best else {
            return Err(ModelError::Value {
                input: "logits",
                problem: "hold no finite number".to_owned(),
            });
        };
        if self.temperature == 0.0 {
            return Ok(likeliest);
        }
        if self.top_p < 1.0 {
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        let weight = |logit: f32| ((f64::from(logit) - f64::from(largest)) / self.temperature).exp();
        let total: f64 = ranked.iter().map(|(_, logit)| weight(*logit)).sum();
        let mut kept = 0.0;
        let mut count = 0;
        for (_, logit) in &ranked {
            kept += weight(*logit);
            count += 1;
            if self.top_p < 1.0 && kept >= self.top_p * total {
                break;
            }
        }
        // 53 random bits, the precision of a double.
        let unit = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut rest = unit * kept;
        for (token, logit) in &ranked[..count] {
            rest -= weight(*logit);
            if rest < 0.0 {
                return Ok(*token);
            }
        }
        Ok(likeliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64, seed: u64) -> Sampler {
        Sampler::new(&Generation {
            temperature,
            top_p,
            seed,
            ..Generation::default()
        })
        .unwrap()
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let probabilities = [0.5_f32, 0.2, 0.0, 0.3];
        let logits = probabilities.map(f32::ln);
        let mut sampler = sampler(1.0, 1.0, 7);
        let mut counts = [0_u32; 4];
        for _ in 0..20_000 {
            counts[sampler.choose(&logits).unwrap() as usize] += 1;
        }
        for (count, probability) in counts.iter().zip(probabilities) {
            // Five standard deviations of a binomial count are at most 0.018.
            assert!((*count as f32 / 20_000.0 - probability).abs() < 0.018, "{counts:?}");
        }
    }

    #[test]
    fn temperature_flattens_and_sharpens() {
        let logits = [0.8_f32.ln(), 0.2_f32.ln()];
        // Odds of 4 become 4^2 at temperature 0.5 and 4^0.5 at temperature 2.
        for (temperature, expected) in [(0.5, 16.0 / 17.0), (2.0, 2.0 / 3.0)] {
            let mut sampler = sampler(temperature, 1.0, 1);
            let first = (0..20_000).filter(|_| sampler.choose(&logits).unwrap() == 0).count();
            assert!(
                (first as f64 / 20_000.0 - expected).abs() < 0.018,
                "{temperature}: {first}"
            );
        }
    }

    #[test]
    fn the_nucleus_is_the_fewest_tokens_that_reach_top_p() {
        let logits = [0.1_f32, 0.45, 0.05, 0.4].map(f32::ln);
        for (top_p, allowed) in [
            (0.4, vec![1]),
            (0.5, vec![1, 3]),
            (0.9, vec![0, 1, 3]),
            (1.0, vec![0, 1, 2, 3]),
        ] {
            let mut sampler = sampler(1.0, top_p, 3);
            let mut drawn: Vec<u32> = (0..2000).map(|_| sampler.choose(&logits).unwrap()).collect();
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn, allowed, "{top_p}");
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_never_a_masked_token() {
        let logits = [f32::NEG_INFINITY, 1.0, 2.0, 2.0, f32::NAN];
        assert_eq!(sampler(0.0, 1.0, 0).choose(&logits).unwrap(), 2);
        assert_eq!(sampler(1e-6, 0.9, 0).choose(&[1.0, 2.0, 0.0]).unwrap(), 1);
        assert!(sampler(0.0, 1.0, 0).choose(&[f32::NAN, f32::NEG_INFINITY]).is_err());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (temperature, top_p) in [
            (-1.0, 1.0),
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
            (1.0, 0.0),
            (1.0, 1.1),
        ] {
            let generation = Generation {
                temperature,
                top_p,
                ..Generation::default()
            };
            assert!(Sampler::new(&generation).is_err(), "{temperature} {top_p}");
        }
    }
}
