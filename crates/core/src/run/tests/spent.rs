//! What the run's judges cost.

use super::*;
use crate::work::{Spent, Usage};

#[test]
fn what_judges_spend_adds_up_over_the_run() {
    let mut fleet = fleet();
    let asked = Spent {
        requests: 3,
        failures: 1,
        usage: Usage {
            prompt_tokens: 700,
            completion_tokens: 6,
        },
        cost: Some(0.25),
    };
    let mut units = 0;
    fleet.finish_with(|_, outcome| {
        if let Outcome::Judged { spent, .. } = outcome {
            *spent = Some(asked);
            units += 1;
        }
    });
    let spent = fleet.run.status(fleet.now).spent;
    assert_eq!(spent.requests, 3 * units);
    assert_eq!(spent.usage.prompt_tokens, 700 * units);
    assert_eq!(spent.cost, Some(0.25 * units as f64));
}
