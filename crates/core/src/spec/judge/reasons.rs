//! `[judge.reasons]`: which pairs are explained to people.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::ids::Digest;
use crate::spec::problems::Problems;
use crate::work::Pair;

/// `[judge.reasons]`: for some pairs the judge says what each theme of the rubric decides, and why in a sentence. Rewards do not
/// depend on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["template"]))]
pub struct ReasonsSpec {
    /// Share of the pairs, in (0, 1]; which ones follows from their pictures.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub fraction: f64,
    /// How the model is asked for a sentence.
    pub template: PathBuf,
    /// Most tokens of a sentence.
    #[schemars(range(min = 1, max = bounds::TOKENS.most))]
    pub max_tokens: u32,
}

impl Default for ReasonsSpec {
    fn default() -> Self {
        Self {
            fraction: 0.1,
            template: PathBuf::new(),
            max_tokens: 96,
        }
    }
}

impl ReasonsSpec {
    /// Whether this pair is one of the share. The same for every worker and every attempt.
    pub fn covers(&self, pair: &Pair) -> bool {
        let share = Digest::of(format!("reasons {} {}", pair.first, pair.second).as_bytes());
        let [a, b, c, d, ..] = share.0;
        f64::from(u32::from_be_bytes([a, b, c, d])) < self.fraction * (f64::from(u32::MAX) + 1.0)
    }

    pub(super) fn check(&self, at: &str, problems: &mut Problems) {
        problems.require(
            self.fraction > 0.0 && self.fraction <= 1.0,
            &format!("{at}.fraction"),
            || {
                format!(
                    "must lie in (0, 1], not {}: leave [{at}] out for no reasons",
                    self.fraction
                )
            },
        );
        problems.require_set(
            &self.template,
            &format!("{at}.template"),
            "a reason template such as configs/rubric/en/reason.toml",
        );
        problems.count(self.max_tokens.into(), bounds::TOKENS, &format!("{at}.max_tokens"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PromptIndex;
    use crate::work::Orders;

    #[test]
    fn as_many_pairs_are_covered_as_asked_for() {
        let pairs: Vec<Pair> = (0..2000_u32)
            .map(|index| Pair {
                prompt_index: PromptIndex(index),
                task: Default::default(),
                first: Digest::of(&index.to_le_bytes()),
                second: Digest::of(b"other"),
                rubric: None,
                orders: Orders::Both,
            })
            .collect();
        let covered = |fraction| {
            let reasons = ReasonsSpec {
                fraction,
                ..ReasonsSpec::default()
            };
            pairs.iter().filter(|pair| reasons.covers(pair)).count()
        };
        assert_eq!(covered(1.0), 2000);
        // Four standard deviations of a binomial count.
        assert!(covered(0.25).abs_diff(500) < 78, "{}", covered(0.25));
        assert!(covered(1e-9) < 2);
    }
}
