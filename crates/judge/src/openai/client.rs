//! Requests to a server, with attempts, pauses and accounts.
//!
//! Plain reqwest instead of a client crate: what is needed beyond one POST is to repeat an answer that was cut off, to wait as
//! long as the server says in either form of Retry-After, and to read answers of servers that leave fields out.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use gavel_core::Diagnostic;
use gavel_core::spec::ServerSpec;
use gavel_rubric::{AskError, Spent};
use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::wire::{Completion, Tokens, error_text};
use crate::Error;

/// The pauses between attempts grow from one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A server that wants to be left alone for longer counts as unavailable at once.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// The name or address is wrong when no connection comes about in this time.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A server. Its calls block and may come from any thread, also from one of tokio's; so may its drop.
pub(super) struct Client {
    shared: Arc<Shared>,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

struct Shared {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    attempts: u32,
    pause_min: Duration,
    places: Semaphore,
    prices: [Option<f64>; 2],
    spent: Mutex<Spent>,
}

/// Why one request brought nothing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// The server's answer; `None` when there was none.
    pub(super) status: Option<StatusCode>,
    retry_after: Option<Duration>,
    passing: bool,
}

impl Client {
    pub(super) fn new(spec: &ServerSpec) -> Result<Self, Error> {
        let key = match &spec.api_key_env {
            None => None,
            Some(name) => {
                Some(
                    std::env::var(name)
                        .ok()
                        .filter(|key| !key.is_empty())
                        .ok_or_else(|| Error::Client {
                            problem: format!("the environment variable {name} holds no key for the judge's server"),
                            hint: format!("set {name} where judges are started, or remove `judge.api_key_env`"),
                        })?,
                )
            }
        };
        let refused = |problem: String| Error::Client {
            problem,
            hint: "check `judge.endpoint`, and the machine's certificates".into(),
        };
        let http = crate::http_client()
            .timeout(spec.timeout)
            .connect_timeout(CONNECT_WITHIN.min(spec.timeout))
            .user_agent(concat!("gavel/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| refused(format!("cannot make an HTTP client: {}", Diagnostic::foreign(&error))))?;
        let base = spec.base().to_owned();
        reqwest::Url::parse(&base).map_err(|error| refused(format!("`{base}` is no address: {error}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("gavel-endpoint")
            .enable_all()
            .build()
            .map_err(|error| refused(format!("cannot start the client's thread: {error}")))?;
        Ok(Self {
            shared: Arc::new(Shared {
                http,
                base,
                key,
                attempts: spec.attempts,
                pause_min: PAUSE_MIN,
                places: Semaphore::new(spec.concurrency as usize),
                prices: [spec.prompt_price, spec.completion_price],
                spent: Mutex::default(),
            }),
            runtime: Some(runtime),
        })
    }

    /// For tests, which have no time for pauses.
    #[cfg(test)]
    pub(super) fn without_pauses(mut self) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.pause_min = Duration::from_millis(1);
        }
        self
    }

    /// For tests, which must not change the environment.
    #[cfg(test)]
    pub(super) fn with_key(mut self, key: &str) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.key = Some(key.to_owned());
        }
        self
    }

    pub(super) fn spent(&self) -> Spent {
        *self.shared.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One answer, after as many requests as it takes and the spec allows.
    pub(super) fn complete(&self, request: &Value) -> Result<Completion, Failure> {
        let body = Bytes::from(request.to_string());
        let bytes = self.call(Method::POST, "/chat/completions", Some(body))?;
        // The bytes were parsed once already, or the request would have been repeated.
        serde_json::from_slice(&bytes).map_err(|error| Failure::lasting(format!("no chat completion: {error}")))
    }

    /// The vectors of texts, in order.
    pub(super) fn embeddings(&self, request: &Value) -> Result<Value, Failure> {
        let bytes = self.call(Method::POST, "/embeddings", Some(Bytes::from(request.to_string())))?;
        serde_json::from_slice(&bytes).map_err(|error| Failure::lasting(format!("no embeddings: {error}")))
    }

    /// The models that the server names; `None` when it does not say.
    pub(super) fn models(&self) -> Result<Option<Vec<String>>, Failure> {
        match self.call(Method::GET, "/models", None) {
            Ok(bytes) => Ok(serde_json::from_slice::<Value>(&bytes).ok().and_then(|value| {
                let ids = value["data"].as_array()?.iter();
                Some(ids.filter_map(|model| Some(model["id"].as_str()?.to_owned())).collect())
            })),
            // Some servers have no such list, and some fail to make one while they answer questions.
            Err(Failure {
                status: Some(status), ..
            }) if ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn call(&self, method: Method, path: &'static str, body: Option<Bytes>) -> Result<Bytes, Failure> {
        let shared = Arc::clone(&self.shared);
        let (sender, receiver) = mpsc::sync_channel(1);
        let Some(runtime) = &self.runtime else {
            return Err(Failure::lasting("the client is closed".into()));
        };
        // Spawned, and waited for outside of tokio: blocking on a runtime is forbidden on the threads of another.
        runtime.spawn(async move {
            // Nobody waits any more only when the caller's thread has ended.
            let _ = sender.send(shared.persist(method, path, body).await);
        });
        receiver
            .recv()
            .unwrap_or_else(|_| Err(Failure::lasting("the client's thread has ended".into())))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    async fn persist(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, Failure> {
        // Held over the pauses: a server that is busy must not meet the next request meanwhile. The semaphore is never closed.
        let _place = self.places.acquire().await;
        let backoff = ExponentialBuilder::default()
            .with_min_delay(self.pause_min)
            .with_max_delay(PAUSE_MAX)
            .with_max_times(self.attempts.saturating_sub(1) as usize)
            .with_jitter();
        (|| self.once(&method, path, body.clone()))
            .retry(backoff)
            .when(|failure: &Failure| failure.passing)
            .adjust(|failure: &Failure, pause| match failure.retry_after {
                Some(wish) if wish > RETRY_AFTER_MAX => None,
                // What the server wishes, and some of the jitter, or all would come back at the same moment.
                Some(wish) => pause.map(|pause| wish + pause.min(PAUSE_MIN)),
                None => pause,
            })
            .notify(|failure: &Failure, pause| {
                tracing::warn!(
                    reason = failure.reason,
                    pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                    "a request to the judge's server is repeated"
                );
            })
            .await
    }

    async fn once(&self, method: &Method, path: &str, body: Option<Bytes>) -> Result<Bytes, Failure> {
        let answered = self.send(method, path, body).await;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.requests += 1;
        match &answered {
            Ok((_, Some(tokens))) => {
                spent.usage.prompt_tokens += tokens.prompt_tokens;
                spent.usage.completion_tokens += tokens.completion_tokens;
                if self.prices.iter().any(Option::is_some) {
                    let counts = [tokens.prompt_tokens, tokens.completion_tokens];
                    let prices = self.prices.map(Option::unwrap_or_default);
                    let cost: f64 = counts
                        .iter()
                        .zip(prices)
                        .map(|(count, price)| *count as f64 * price / 1e6)
                        .sum();
                    spent.cost = Some(spent.cost.unwrap_or_default() + cost);
                }
            }
            Ok((_, None)) => {}
            Err(_) => spent.failures += 1,
        }
        answered.map(|(bytes, _)| bytes)
    }

    async fn send(&self, method: &Method, path: &str, body: Option<Bytes>) -> Result<(Bytes, Option<Tokens>), Failure> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let is_question = body.is_some();
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| Failure::passing(Diagnostic::foreign(&error).to_string()))?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let bytes = response.bytes().await.map_err(|error| Failure {
            status: Some(status),
            ..Failure::passing(format!("the answer broke off: {}", Diagnostic::foreign(&error)))
        })?;
        if !status.is_success() {
            let passing = status.is_server_error()
                || [
                    StatusCode::TOO_MANY_REQUESTS,
                    StatusCode::REQUEST_TIMEOUT,
                    StatusCode::TOO_EARLY,
                ]
                .contains(&status);
            return Err(Failure {
                reason: format!("{status}: {}", self.without_key(error_text(&bytes))),
                status: Some(status),
                retry_after,
                passing,
            });
        }
        if !is_question {
            return Ok((bytes, None));
        }
        let parsed: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::passing(format!("the answer is no JSON ({error}): {}", error_text(&bytes))))?;
        if parsed["choices"].as_array().is_none_or(Vec::is_empty) && parsed["data"].is_null() {
            let said = self.without_key(error_text(&bytes));
            return Err(Failure::passing(format!("the answer has no choices: {said}")));
        }
        let tokens = serde_json::from_value(parsed["usage"].clone()).ok();
        Ok((bytes, tokens))
    }

    /// Servers repeat wrong keys in their errors.
    fn without_key(&self, text: String) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "[key]"),
            None => text,
        }
    }
}

impl Failure {
    fn passing(reason: String) -> Self {
        Self {
            reason,
            status: None,
            retry_after: None,
            passing: true,
        }
    }

    pub(super) fn lasting(reason: String) -> Self {
        Self {
            passing: false,
            ..Self::passing(reason)
        }
    }

    /// Whether the server understood the request and does not want some part of it.
    pub(super) fn is_objection(&self) -> bool {
        let statuses = [
            StatusCode::BAD_REQUEST,
            StatusCode::UNPROCESSABLE_ENTITY,
            StatusCode::NOT_IMPLEMENTED,
        ];
        self.status.is_some_and(|status| statuses.contains(&status))
    }

    pub(super) fn into_error(self, base: &str) -> AskError {
        let reason = format!("the judge's server at {base}: {}", self.reason);
        if self.passing {
            return AskError::Unavailable {
                reason,
                hint: Some("check that the server runs and is not overloaded; `judge.timeout`, `judge.attempts` and `judge.concurrency` say how much it is asked and how long it is waited for".into()),
            };
        }
        let hint = match self.status.map(|status| status.as_u16()) {
            Some(401 | 403) => "check the key: `judge.api_key_env` names the environment variable that holds it",
            Some(404) => "check `judge.endpoint` (up to and with /v1) and `judge.model`",
            Some(413) => "the pictures are too large for this server",
            _ => "the server does not take the question: it must host a vision-language model with a chat template",
        };
        AskError::Unanswerable {
            reason,
            hint: Some(hint.into()),
        }
    }
}

/// Both forms: seconds, and a date.
fn retry_after(headers: &header::HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date that has passed means: now.
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |text: &str| {
            let mut headers = header::HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-3"), None);
    }
}
