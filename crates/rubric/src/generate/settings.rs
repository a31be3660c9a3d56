//! What steers a generation.

use serde::{Deserialize, Serialize};

/// What steers a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Criteria that are asked for at a time.
    pub criteria: usize,
    /// Most revisions of an example's criteria.
    pub rounds: usize,
    /// Most themes.
    pub themes: usize,
    /// Examples beyond which they are taken in batches, and criteria are selected.
    pub select_above: usize,
    /// Examples in a batch.
    pub batch: usize,
    /// Distance below which two criteria count as the same in the coding rate, eps.
    pub epsilon: f64,
    /// Least gain in coding rate, in nats, of a batch or of a criterion.
    pub gain_min: f64,
    /// Gains below it, one after another, that are enough.
    pub patience: usize,
    /// Most criteria that are selected.
    pub criteria_max: usize,
    /// Greatest difference between scores that counts as recovered.
    pub score_tolerance: i64,
    /// Of the writing; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Times that an unreadable answer is asked for.
    pub attempts: usize,
    /// Of the order of the examples, where not all may be used, and of the writing.
    pub seed: u32,
}

impl Default for Settings {
    /// The published numbers.
    fn default() -> Self {
        Self {
            criteria: 5,
            rounds: 5,
            themes: 5,
            select_above: 100,
            batch: 10,
            epsilon: 0.1,
            gain_min: 0.002,
            patience: 2,
            criteria_max: 200,
            score_tolerance: 0,
            temperature: 0.0,
            max_tokens: 1024,
            attempts: 3,
            seed: 0,
        }
    }
}

impl Settings {
    /// An answer that was of no use is not asked for again in the very same way.
    pub(super) fn temperature_of(&self, attempt: usize) -> f64 {
        if attempt == 0 {
            self.temperature
        } else {
            self.temperature.max(0.7)
        }
    }
}
