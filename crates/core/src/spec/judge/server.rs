//! Judges whose model is behind a server.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{ServerAddress, ServerAddressError};
use super::back_end::BackEnd;
use crate::bounds;
use crate::spec::problems::Problems;

/// A judge that takes a day for one answer is not there.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

/// The protocol that a judge's server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerFamily {
    /// OpenAI's chat completions.
    #[default]
    Openai,
}

/// A model behind a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSpec {
    /// Protocol.
    pub family: ServerFamily,
    /// Base address, for example `http://127.0.0.1:8000/v1`.
    pub endpoint: String,
    /// The name under which the server knows the model.
    pub model: String,
    /// The environment variable that holds the server's key. The key itself is in no file and no log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// How long one answer of the server may take.
    #[serde(with = "crate::spec::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Requests under way at a time, for each judge worker.
    #[schemars(range(min = 1, max = bounds::REQUESTS.most))]
    pub concurrency: u32,
    /// Requests for one answer before the server counts as unavailable.
    #[schemars(range(min = 1, max = bounds::ATTEMPTS.most))]
    pub attempts: u32,
    /// Price of a million tokens read, in a currency of one's choice; with it costs are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub prompt_price: Option<f64>,
    /// Price of a million tokens written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub completion_price: Option<f64>,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            family: ServerFamily::default(),
            endpoint: String::new(),
            model: String::new(),
            api_key_env: None,
            timeout: Duration::from_secs(60),
            concurrency: 8,
            attempts: 5,
            prompt_price: None,
            completion_price: None,
        }
    }
}

impl BackEnd for ServerSpec {
    const FAMILIES: &'static [&'static str] = &["openai"];

    fn check(&self, at: &str, problems: &mut Problems) {
        let key = |name: &str| format!("{at}.{name}");
        if let Err(error) = self.address() {
            problems.add(key("endpoint"), error.to_string(), None);
        }
        problems.require(!self.model.is_empty(), &key("model"), || {
            "must be set: the name under which the server knows the model".into()
        });
        problems.require(
            self.api_key_env.as_deref().is_none_or(is_variable),
            &key("api_key_env"),
            || "must be the name of an environment variable, not the key itself".into(),
        );
        problems.length(&self.endpoint, bounds::PATH, &key("endpoint"));
        problems.length(&self.model, bounds::NAME, &key("model"));
        let variable = self.api_key_env.as_deref().unwrap_or_default();
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
        for (name, price) in [
            ("prompt_price", self.prompt_price),
            ("completion_price", self.completion_price),
        ] {
            problems.not_negative(price.unwrap_or(0.0), &key(name));
        }
    }
}

impl ServerSpec {
    /// The address, read.
    ///
    /// # Errors
    /// [`ServerAddressError`] where it is none.
    pub fn address(&self) -> Result<ServerAddress, ServerAddressError> {
        self.endpoint.parse()
    }

    /// The address as it is written, without a slash at its end: the server's name in fingerprints and for people.
    pub fn base(&self) -> &str {
        self.endpoint.trim_end_matches('/')
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
