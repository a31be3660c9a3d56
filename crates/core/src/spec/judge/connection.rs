//! How a judge's server is reached, whatever it speaks.

use std::time::Duration;

use super::address::{ServerAddress, ServerAddressError};
use crate::bounds;
use crate::spec::problems::Problems;

/// A judge that takes a day for one answer is not there.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

/// The keys of a judge that say how its server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection<'a> {
    /// The server's address, as it is written.
    pub endpoint: &'a str,
    /// The environment variable that holds the server's key.
    pub api_key_env: Option<&'a str>,
    /// How long one answer may take.
    pub timeout: Duration,
    /// Requests under way at a time.
    pub concurrency: u32,
    /// Requests for one answer before the server counts as unavailable.
    pub attempts: u32,
}

impl<'a> Connection<'a> {
    /// The address, read.
    ///
    /// # Errors
    /// [`ServerAddressError`] where it is none.
    pub fn address(&self) -> Result<ServerAddress, ServerAddressError> {
        self.endpoint.parse()
    }

    /// The address as it is written, without a slash at its end: the server's name in fingerprints and for people.
    pub fn base(&self) -> &'a str {
        self.endpoint.trim_end_matches('/')
    }

    pub(super) fn check(&self, at: &str, problems: &mut Problems) {
        let key = |name: &str| format!("{at}.{name}");
        if let Err(error) = self.address() {
            problems.add(key("endpoint"), error.to_string(), None);
        }
        problems.require(self.api_key_env.is_none_or(is_variable), &key("api_key_env"), || {
            "must be the name of an environment variable, not the key itself".into()
        });
        problems.length(self.endpoint, bounds::PATH, &key("endpoint"));
        let variable = self.api_key_env.unwrap_or_default();
        problems.length(variable, bounds::NAME, &key("api_key_env"));
        let timeout = self.timeout;
        problems.require(!timeout.is_zero() && timeout <= TIMEOUT_MAX, &key("timeout"), || {
            format!(
                "must be above 0 and at most {}, not {}",
                humantime::format_duration(TIMEOUT_MAX),
                humantime::format_duration(timeout)
            )
        });
        problems.count(self.concurrency.into(), bounds::REQUESTS, &key("concurrency"));
        problems.count(self.attempts.into(), bounds::ATTEMPTS, &key("attempts"));
    }
}

/// Names of variables are written in capitals; keys are not.
fn is_variable(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_uppercase() || first == '_')
        && letters.all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_')
}
