//! Judges that are a server's scores: of two pictures the one with the higher score is preferred.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::back_end::BackEnd;
use super::connection::Connection;
use super::server::ServerSpec;
use crate::bounds;
use crate::spec::problems::Problems;

/// The protocol of a server that scores pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScorerFamily {
    /// A server that gives each picture a number for its prompt.
    #[default]
    Scorer,
}

/// A server that scores pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScorerSpec {
    /// Protocol.
    pub family: ScorerFamily,
    /// The address to which pictures are sent, for example `http://127.0.0.1:8100/score`.
    pub endpoint: String,
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
    /// How far apart two scores are that make a probability of 0.73: it is the logistic of their difference over this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

impl Default for ScorerSpec {
    fn default() -> Self {
        let ServerSpec {
            timeout,
            concurrency,
            attempts,
            ..
        } = ServerSpec::default();
        Self {
            family: ScorerFamily::default(),
            endpoint: String::new(),
            api_key_env: None,
            timeout,
            concurrency,
            attempts,
            temperature: 1.0,
        }
    }
}

impl BackEnd for ScorerSpec {
    const FAMILIES: &'static [&'static str] = &["scorer"];

    fn check(&self, at: &str, problems: &mut Problems) {
        self.connection().check(at, problems);
        problems.positive(self.temperature, &format!("{at}.temperature"));
    }
}

impl ScorerSpec {
    /// How the server is reached.
    pub fn connection(&self) -> Connection<'_> {
        Connection {
            endpoint: &self.endpoint,
            api_key_env: self.api_key_env.as_deref(),
            timeout: self.timeout,
            concurrency: self.concurrency,
            attempts: self.attempts,
        }
    }
}
