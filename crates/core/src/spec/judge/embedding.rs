//! `[judge.writer.embedding]`: what says how near one prompt is to another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::connection::Connection;
use super::table::{self, Leftovers};
use super::{ServerFamily, ServerSpec};
use crate::bounds;
use crate::spec::problems::Problems;

/// What turns prompts into vectors that lie close where prompts mean much the same. `family` says which kind it is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EmbeddingSpec {
    /// The text encoder of a diffusion model's folder.
    TextEncoder(TextEncoderSpec),
    /// A model behind a server.
    Server(EmbeddingServerSpec),
}

/// The one kind of text encoder that embeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextEncoderFamily {
    /// CLIP's text encoder, in the judge worker's own memory.
    #[default]
    ClipText,
}

/// The CLIP text encoder that a diffusion model has, on the judge worker's CPU in float32.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct TextEncoderSpec {
    /// The one kind.
    pub family: TextEncoderFamily,
    /// Folder of a diffusion model, such as FLUX.1-dev's: `text_encoder` and `tokenizer` in it are read.
    pub path: PathBuf,
}

/// A model behind a server that speaks OpenAI's `/v1/embeddings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["family", "endpoint", "model"]))]
pub struct EmbeddingServerSpec {
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
    /// Requests for one answer before the server counts as unavailable.
    #[schemars(range(min = 1, max = bounds::ATTEMPTS.most))]
    pub attempts: u32,
}

impl Default for EmbeddingServerSpec {
    fn default() -> Self {
        let ServerSpec { timeout, attempts, .. } = ServerSpec::default();
        Self {
            family: ServerFamily::default(),
            endpoint: String::new(),
            model: String::new(),
            api_key_env: None,
            timeout,
            attempts,
        }
    }
}

impl TextEncoderSpec {
    /// The folder of the encoder's own weights.
    pub fn encoder(&self) -> PathBuf {
        self.path.join("text_encoder")
    }

    /// The folder of its tokenizer.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer")
    }
}

impl EmbeddingServerSpec {
    /// The same as a server of words, for whoever opens it: requests follow each other.
    pub fn server(&self) -> ServerSpec {
        ServerSpec {
            family: self.family,
            endpoint: self.endpoint.clone(),
            model: self.model.clone(),
            api_key_env: self.api_key_env.clone(),
            timeout: self.timeout,
            concurrency: 1,
            attempts: self.attempts,
            ..ServerSpec::default()
        }
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            endpoint: &self.endpoint,
            api_key_env: self.api_key_env.as_deref(),
            timeout: self.timeout,
            concurrency: 1,
            attempts: self.attempts,
        }
    }
}

impl<'de> Deserialize<'de> for EmbeddingSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        table::deserialize(deserializer, |table, problems| {
            table::embedding(table, "judge.writer.embedding", problems, Leftovers::Dropped)
        })
    }
}

impl EmbeddingSpec {
    /// The folder of the diffusion model whose text encoder it is; `None` of a server.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::TextEncoder(spec) => Some(&spec.path),
            Self::Server(_) => None,
        }
    }

    /// How its server is reached; `None` where it asks none.
    pub fn connection(&self) -> Option<Connection<'_>> {
        match self {
            Self::TextEncoder(_) => None,
            Self::Server(spec) => Some(spec.connection()),
        }
    }

    pub(super) fn check(&self, at: &str, problems: &mut Problems) {
        match self {
            Self::TextEncoder(spec) => problems.require_set(
                &spec.path,
                &format!("{at}.path"),
                "the folder of a diffusion model that has a CLIP text encoder",
            ),
            Self::Server(spec) => spec.server().check_reached(at, problems),
        }
    }
}
