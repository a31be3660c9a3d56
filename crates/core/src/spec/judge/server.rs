//! Judges whose model is behind a server.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::back_end::BackEnd;
use super::connection::Connection;
use crate::bounds;
use crate::spec::problems::Problems;

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
        self.check_reached(at, problems);
        for (name, price) in [
            ("prompt_price", self.prompt_price),
            ("completion_price", self.completion_price),
        ] {
            problems.not_negative(price.unwrap_or(0.0), &key(name));
        }
    }
}

impl ServerSpec {
    /// Adds what is wrong with how the server and its model are found.
    pub(super) fn check_reached(&self, at: &str, problems: &mut Problems) {
        let model = format!("{at}.model");
        self.connection().check(at, problems);
        problems.require(!self.model.is_empty(), &model, || {
            "must be set: the name under which the server knows the model".into()
        });
        problems.length(&self.model, bounds::NAME, &model);
    }

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
