//! What is asked about a step's pairs: in how many image orders, and about which of them at all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::JudgeSpec;
use crate::bounds;
use crate::spec::problems::Problems;

/// In how many image orders a step's pairs are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrdersRule {
    /// Each in both.
    #[default]
    Both,
    /// In one, once the judge has earned trust; in both again when it has lost it.
    Adaptive,
}

impl OrdersRule {
    /// Whether this is the rule where none is named.
    pub fn is_both(&self) -> bool {
        *self == Self::Both
    }
}

/// By what a judge earns the trust that one image order is enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveOrders {
    /// The greatest flip rate that is trusted: the share of pairs, of those asked in both orders, whose orders disagree.
    pub trust: f64,
    /// Over how many steps it is counted.
    pub window: u32,
    /// Share of a step's prompts that are asked in both orders all the same.
    pub recheck: f64,
}

impl AdaptiveOrders {
    /// How many of so many prompts are asked in both orders; at least one, so that trust can be lost again.
    pub fn rechecked(&self, per_step: u32) -> u32 {
        let share = (self.recheck * f64::from(per_step)).round() as u32;
        share.clamp(1, per_step.max(1))
    }
}

impl Default for AdaptiveOrders {
    fn default() -> Self {
        Self {
            trust: 0.1,
            window: 4,
            recheck: 0.125,
        }
    }
}

impl JudgeSpec {
    /// By what the judge earns trust; `None` where every pair is asked in both image orders.
    pub fn adaptive_orders(&self) -> Option<AdaptiveOrders> {
        let AdaptiveOrders { trust, window, recheck } = AdaptiveOrders::default();
        (self.orders == OrdersRule::Adaptive).then(|| AdaptiveOrders {
            trust: self.orders_trust.unwrap_or(trust),
            window: self.orders_window.unwrap_or(window),
            recheck: self.orders_recheck.unwrap_or(recheck),
        })
    }

    /// Whether it is counted how the matches of each step were asked: not all of them in both orders.
    pub fn counts_questions(&self) -> bool {
        !self.orders.is_both() || self.min_distance.is_some()
    }

    pub(super) fn check_asking(&self, problems: &mut Problems) {
        let numbers = [
            (self.orders_trust.is_some(), "judge.orders_trust"),
            (self.orders_window.is_some(), "judge.orders_window"),
            (self.orders_recheck.is_some(), "judge.orders_recheck"),
        ];
        for (_, key) in numbers.into_iter().filter(|(is_set, _)| *is_set) {
            problems.require(!self.orders.is_both(), key, || {
                "says when one image order is enough: set judge.orders to \"adaptive\" too".into()
            });
        }
        if let Some(AdaptiveOrders { trust, window, recheck }) = self.adaptive_orders() {
            problems.require(self.back_end.writer().is_some(), "judge.orders", || {
                "this judge gives scores alone, and so do all its members: no picture is shown before another".into()
            });
            problems.require((0.0..1.0).contains(&trust), "judge.orders_trust", || {
                format!("must lie in 0 to 1, 1 excluded, not {trust}")
            });
            problems.count(window.into(), bounds::ATTEMPTS, "judge.orders_window");
            problems.require(recheck > 0.0 && recheck <= 1.0, "judge.orders_recheck", || {
                format!("must lie in (0, 1], not {recheck}")
            });
        }
        if let Some(least) = self.min_distance {
            problems.require(least > 0.0 && least <= 1.0, "judge.min_distance", || {
                format!("must lie in (0, 1], not {least}: leave it out to ask about every pair")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_at_least_one_prompt_and_at_most_all() {
        let rechecked = |recheck, per_step| {
            AdaptiveOrders {
                recheck,
                ..AdaptiveOrders::default()
            }
            .rechecked(per_step)
        };
        assert_eq!([rechecked(0.125, 64), rechecked(1.0, 7), rechecked(0.3, 7)], [8, 7, 2]);
        assert_eq!([rechecked(0.01, 8), rechecked(0.5, 1)], [1, 1]);
    }

    #[test]
    fn both_orders_are_the_rule_and_say_nothing_in_a_spec() {
        let judge = JudgeSpec::default();
        assert_eq!(judge.adaptive_orders(), None);
        assert!(!judge.counts_questions());
        let text = serde_json::to_string(&judge).unwrap();
        assert!(!text.contains("orders") && !text.contains("min_distance"), "{text}");
        let adaptive = JudgeSpec {
            orders: OrdersRule::Adaptive,
            orders_trust: Some(0.02),
            ..judge
        };
        let found = adaptive.adaptive_orders().unwrap();
        assert_eq!((found.trust, found.window), (0.02, AdaptiveOrders::default().window));
    }
}
