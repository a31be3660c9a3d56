//! What judging costs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens that requests took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens read, pictures included.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
}

/// What a back end has used since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Spent {
    /// Requests that were sent, repeated ones included.
    pub requests: u64,
    /// Requests that brought no answer.
    pub failures: u64,
    /// Tokens read and written.
    pub usage: Usage,
    /// Their price, where the configuration says what a token costs; in its currency.
    pub cost: Option<f64>,
}

impl Spent {
    /// Adds what another back end has used.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.usage.prompt_tokens += other.usage.prompt_tokens;
        self.usage.completion_tokens += other.usage.completion_tokens;
        self.cost = match (self.cost, other.cost) {
            (Some(own), Some(others)) => Some(own + others),
            (own, others) => own.or(others),
        };
    }

    /// What of this was used after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
            usage: Usage {
                prompt_tokens: self.usage.prompt_tokens.saturating_sub(earlier.usage.prompt_tokens),
                completion_tokens: self
                    .usage
                    .completion_tokens
                    .saturating_sub(earlier.usage.completion_tokens),
            },
            cost: self.cost.map(|cost| (cost - earlier.cost.unwrap_or(0.0)).max(0.0)),
        }
    }

    /// Whether nothing was asked of any server.
    pub fn is_nothing(&self) -> bool {
        self.requests == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(requests: u64, cost: Option<f64>) -> Spent {
        Spent {
            requests,
            failures: 1,
            usage: Usage {
                prompt_tokens: 100 * requests,
                completion_tokens: requests,
            },
            cost,
        }
    }

    #[test]
    fn what_was_spent_since_is_what_was_not_spent_before() {
        let before = spent(2, Some(0.5));
        let mut after = before;
        after.add(&spent(3, Some(0.25)));
        assert_eq!(
            (after.requests, after.usage.prompt_tokens, after.cost),
            (5, 500, Some(0.75))
        );
        assert_eq!(after.since(&before), spent(3, Some(0.25)));
        assert!(after.since(&after).is_nothing());
        // A back end that is opened again counts from nothing.
        assert_eq!(before.since(&after).requests, 0);
        assert_eq!(spent(1, None).since(&Spent::default()).cost, None);
    }
}
