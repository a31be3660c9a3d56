//! The models that write and judge, and patience with them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{BlockingRetryable as _, ExponentialBuilder};
use clap::Args;
use gavel_core::ids::Digest;
use gavel_core::spec::{
    EmbeddingServerSpec, EmbeddingSpec, InProcessFamily, InProcessSpec, JudgeBackEnd, JudgeSpec, ServerSpec,
    TextEncoderSpec,
};
use gavel_core::work::{Spent, VerdictRecord};
use gavel_judge::{Models, Templates};
use gavel_rubric::generate::{Embed, HashedNgrams};
use gavel_rubric::{AskError, Chat, ChatReply, ChatRequest, Judge, JudgeTemplate, JudgedPair, RubricSet};

use crate::commands::dtype::DtypeArgument;
use crate::diagnostic::{Context as _, Diagnostic, Result};

/// The model that writes and judges.
#[derive(Debug, Args)]
pub(crate) struct BackendArguments {
    /// Folder of a vision-language model that this process loads.
    #[arg(long, value_name = "DIR", required_unless_present = "endpoint")]
    pub(super) model: Option<PathBuf>,
    /// Number format of that model.
    #[arg(long, default_value = "f32", value_enum)]
    pub(super) dtype: DtypeArgument,
    /// Base address of an OpenAI-compatible server, for example http://127.0.0.1:8000/v1.
    #[arg(long, value_name = "URL", conflicts_with = "model", requires = "model_name")]
    pub(super) endpoint: Option<String>,
    /// The name under which the server knows the model.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(super) model_name: Option<String>,
    /// Environment variable that holds the server's key.
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    pub(super) api_key_env: Option<String>,
    /// Judge template [default: judge_template.toml in the model folder, else the one for large instruction-tuned models].
    #[arg(long, value_name = "FILE")]
    pub(super) template: Option<PathBuf>,
    /// Answers under way at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) concurrency: u32,
    /// Times that a question is asked again when the server is not available, with longer and longer pauses.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) retries: usize,
}

/// What turns texts into vectors, so that near ones are found.
#[derive(Debug, Args)]
pub(crate) struct EmbeddingArguments {
    /// Compare texts by the embeddings of this model of a server (/v1/embeddings) [default: counts of words and letters, without a model].
    #[arg(long, value_name = "NAME")]
    pub(super) embedding_model: Option<String>,
    /// Base address of the server that embeds [default: --endpoint, with its key].
    #[arg(long, value_name = "URL", requires = "embedding_model")]
    pub(super) embedding_endpoint: Option<String>,
    /// Environment variable that holds that server's key.
    #[arg(long, value_name = "VARIABLE", requires = "embedding_endpoint")]
    pub(super) embedding_api_key_env: Option<String>,
    /// Compare texts by the CLIP text encoder of this diffusion model's folder instead.
    #[arg(long, value_name = "DIR", conflicts_with = "embedding_model")]
    pub(super) embedding_folder: Option<PathBuf>,
}

/// A model folder may say which words its model was trained on.
const FOLDER_TEMPLATE: &str = "judge_template.toml";

/// A back end that is asked again when it is not available.
pub(super) struct Patient<T: ?Sized> {
    inner: Box<T>,
    retries: usize,
}

/// Opens the judge; `model` is a folder to take instead of the arguments' model.
///
/// # Errors
/// A folder or template that cannot be used.
pub(super) fn judge(
    models: &mut Models,
    arguments: &BackendArguments,
    model: Option<&Path>,
) -> Result<Patient<dyn Judge>> {
    let spec = JudgeSpec {
        back_end: back_end(arguments, model),
        ..JudgeSpec::default()
    };
    let template = template(&spec.back_end, arguments.template.as_deref())?;
    Ok(Patient {
        inner: models.open(&spec, &Templates::one(template))?,
        retries: arguments.retries,
    })
}

/// Opens the model that writes.
///
/// # Errors
/// A folder that cannot be used, or a model that does not write.
pub(super) fn chat(models: &mut Models, arguments: &BackendArguments) -> Result<Patient<dyn Chat>> {
    Ok(Patient {
        inner: models.open_chat(&back_end(arguments, None))?,
        retries: arguments.retries,
    })
}

/// What turns texts into vectors: a folder's or a server's model, or else none.
///
/// # Errors
/// A folder without a text encoder, a model without a server, or a key that is missing.
pub(super) fn embedding(
    models: &mut Models,
    arguments: &EmbeddingArguments,
    backend: &BackendArguments,
) -> Result<Box<dyn Embed>> {
    Ok(match embedding_spec(arguments, backend)? {
        None => Box::new(HashedNgrams),
        Some(spec) => Box::new(Patient {
            inner: models.open_embedding(&spec)?,
            retries: backend.retries,
        }),
    })
}

fn embedding_spec(arguments: &EmbeddingArguments, backend: &BackendArguments) -> Result<Option<EmbeddingSpec>> {
    if let Some(folder) = &arguments.embedding_folder {
        return Ok(Some(EmbeddingSpec::TextEncoder(TextEncoderSpec {
            path: folder.clone(),
            ..TextEncoderSpec::default()
        })));
    }
    let Some(model) = &arguments.embedding_model else {
        return Ok(None);
    };
    // The key of one server is not shown to another.
    let (endpoint, api_key_env) = match &arguments.embedding_endpoint {
        Some(endpoint) => (Some(endpoint), &arguments.embedding_api_key_env),
        None => (backend.endpoint.as_ref(), &backend.api_key_env),
    };
    let endpoint = endpoint.ok_or_else(|| {
        Diagnostic::new("--embedding-model names a model of a server, and there is none")
            .with_hint("name the server with --embedding-endpoint URL, or leave --embedding-model out")
    })?;
    Ok(Some(EmbeddingSpec::Server(EmbeddingServerSpec {
        endpoint: endpoint.clone(),
        model: model.clone(),
        api_key_env: api_key_env.clone(),
        ..EmbeddingServerSpec::default()
    })))
}

fn back_end(arguments: &BackendArguments, model: Option<&Path>) -> JudgeBackEnd {
    match model.or(arguments.model.as_deref()) {
        Some(path) => JudgeBackEnd::InProcess(InProcessSpec {
            family: InProcessFamily::Auto,
            path: path.to_owned(),
            dtype: arguments.dtype.into(),
            ..InProcessSpec::default()
        }),
        None => JudgeBackEnd::Server(ServerSpec {
            endpoint: arguments.endpoint.clone().unwrap_or_default(),
            model: arguments.model_name.clone().unwrap_or_default(),
            api_key_env: arguments.api_key_env.clone(),
            concurrency: arguments.concurrency,
            ..ServerSpec::default()
        }),
    }
}

fn template(back_end: &JudgeBackEnd, named: Option<&Path>) -> Result<JudgeTemplate> {
    let folder_template = match back_end {
        JudgeBackEnd::InProcess(model) => Some(model.path.join(FOLDER_TEMPLATE)).filter(|file| file.is_file()),
        JudgeBackEnd::Server(_)
        | JudgeBackEnd::Scorer(_)
        | JudgeBackEnd::Evaluator(_)
        | JudgeBackEnd::Clip(_)
        | JudgeBackEnd::Ensemble(_) => None,
    };
    Ok(match named.or(folder_template.as_deref()) {
        Some(file) => JudgeTemplate::load(file)?,
        None => {
            let text = include_str!("../../../../configs/judge/instruct.toml");
            JudgeTemplate::parse(text, Path::new("configs/judge/instruct.toml"))
                .context("the built-in judge template")?
        }
    })
}

impl<T: ?Sized> Patient<T> {
    fn ask<R>(&self, ask: impl Fn(&T) -> Result<R, AskError>) -> Result<R, AskError> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_secs(30))
            .with_max_times(self.retries)
            .with_jitter();
        (|| ask(&self.inner))
            .retry(pauses)
            .when(|error| matches!(error, AskError::Unavailable { .. }))
            .notify(|error, pause| tracing::warn!(%error, ?pause, "no answer, asking again"))
            .call()
    }
}

impl Chat for Patient<dyn Chat> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn identity(&self) -> Digest {
        self.inner.identity()
    }

    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
        self.ask(|chat| chat.reply(request))
    }
}

impl Embed for Patient<dyn Embed> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn identity(&self) -> Option<Digest> {
        self.inner.identity()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>, AskError> {
        self.ask(|embed| embed.embed(texts))
    }
}

impl Judge for Patient<dyn Judge> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn identity(&self) -> Digest {
        self.inner.identity()
    }

    fn identity_under(&self, rubric: &RubricSet) -> Digest {
        self.inner.identity_under(rubric)
    }

    fn sees_lists(&self) -> bool {
        self.inner.sees_lists()
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        self.ask(|judge| judge.judge(pairs))
    }

    fn spent(&self) -> Spent {
        self.inner.spent()
    }
}
