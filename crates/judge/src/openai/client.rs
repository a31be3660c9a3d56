//! Requests to a server, with attempts, pauses and accounts.
//!
//! Plain reqwest instead of a client crate: what is needed beyond one POST is to repeat an answer that was cut off, to wait as
//! long as the server says in either form of Retry-After, and to read answers of servers that leave fields out.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};
use bytes::{Bytes, BytesMut};
use gavel_core::Diagnostic;
use gavel_core::spec::{Connection, ScorerSpec, ServerAddress, ServerSpec};
use gavel_core::work::Spent;
use reqwest::{Method, StatusCode, header, redirect};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::dialect::Parameter;
use super::failure::{Failure, Kind, retry_after};
use super::proxy::{Proxies, Proxy};
use super::wire::Tokens;
use super::words::{Body, Secrets};
use crate::Error;

/// The pauses between attempts grow from one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A server that wants to be left alone for longer counts as unavailable at once.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// The name or address is wrong when no connection comes about in this time.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// More than any answer needs: 64 vectors of many thousand numbers.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// A server. Its calls block and may come from any thread, also from one of tokio's; so may its drop.
pub(crate) struct Client {
    shared: Arc<Shared>,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

struct Shared {
    http: reqwest::Client,
    address: ServerAddress,
    key: Option<header::HeaderValue>,
    secrets: Secrets,
    proxy: Option<Proxy>,
    attempts: u32,
    pause_min: Duration,
    places: Semaphore,
    prices: [Option<f64>; 2],
    spent: Mutex<Spent>,
}

impl Client {
    /// A client for the server that the spec names, with the key that its variable holds.
    pub(super) fn new(spec: &ServerSpec, proxies: &Proxies) -> Result<Self, Error> {
        Self::with_key(spec, proxies, key(spec.connection())?.as_deref())
    }

    pub(super) fn with_key(spec: &ServerSpec, proxies: &Proxies, key: Option<&str>) -> Result<Self, Error> {
        let prices = [spec.prompt_price, spec.completion_price];
        Self::to(spec.connection(), prices, proxies, key)
    }

    /// As [`new`](Self::new), for a server that scores pictures.
    pub(crate) fn of_scorer(spec: &ScorerSpec, proxies: &Proxies) -> Result<Self, Error> {
        Self::of_scorer_with_key(spec, proxies, key(spec.connection())?.as_deref())
    }

    pub(crate) fn of_scorer_with_key(spec: &ScorerSpec, proxies: &Proxies, key: Option<&str>) -> Result<Self, Error> {
        Self::to(spec.connection(), [None; 2], proxies, key)
    }

    fn to(
        server: Connection<'_>,
        prices: [Option<f64>; 2],
        proxies: &Proxies,
        key: Option<&str>,
    ) -> Result<Self, Error> {
        let refused = |problem: String| Error::Client {
            problem,
            hint: "check `judge.endpoint`, and the proxy that the environment names".into(),
        };
        let address = server.address().map_err(|error| Error::Client {
            problem: format!("the address of the judge's server {error}"),
            hint: "correct `judge.endpoint`, or --endpoint".into(),
        })?;
        let proxy = proxies.of(&address);
        let mut http = crate::http_client()
            .timeout(server.timeout)
            .connect_timeout(CONNECT_WITHIN.min(server.timeout))
            // A key must not follow to wherever a server points.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("gavel/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &proxy {
            let built = proxy
                .build()
                .map_err(|_| refused(format!("cannot use the proxy {}", proxy.address)))?;
            http = http.proxy(built);
        }
        let http = http
            .build()
            .map_err(|error| refused(format!("cannot make an HTTP client: {}", Diagnostic::foreign(&error))))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("gavel-endpoint")
            .enable_all()
            .build()
            .map_err(|error| refused(format!("cannot start the client's thread: {error}")))?;
        Ok(Self {
            shared: Arc::new(Shared {
                http,
                address,
                secrets: Secrets::new(key),
                key: key.map(bearer).transpose()?,
                proxy,
                attempts: server.attempts,
                pause_min: PAUSE_MIN,
                places: Semaphore::new(server.concurrency as usize),
                prices,
                spent: Mutex::default(),
            }),
            runtime: Some(runtime),
        })
    }

    /// For tests, which have no time for pauses.
    #[cfg(test)]
    pub(crate) fn without_pauses(mut self) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.pause_min = Duration::from_millis(1);
        }
        self
    }

    pub(crate) fn spent(&self) -> Spent {
        *self.shared.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server answers to a completion, after as many requests as it takes and the spec allows.
    pub(super) fn complete(&self, request: &Value) -> Result<Value, Failure> {
        self.ask("/chat/completions", "choices", request)
    }

    /// What a server that scores pictures answers, be it what it should or not.
    pub(crate) fn scores(&self, request: &Value) -> Result<Body, Failure> {
        let body = Bytes::from(request.to_string());
        self.call(Method::POST, "", Some(body), None)
    }

    /// The vectors of texts.
    pub(super) fn embeddings(&self, request: &Value) -> Result<Value, Failure> {
        self.ask("/embeddings", "data", request)
    }

    /// The models that the server names; `None` when it does not say.
    pub(super) fn models(&self) -> Result<Option<Vec<String>>, Failure> {
        let refuses = |status| {
            let not_for_us = [
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            ];
            not_for_us.contains(&status) || status.is_redirection()
        };
        match self.call(Method::GET, "/models", None, None) {
            Ok(Body::Json(value)) => Ok(value["data"].as_array().map(|models| {
                let ids = models.iter().filter_map(|model| model["id"].as_str());
                ids.map(str::to_owned).collect()
            })),
            Ok(Body::Text(_)) => Ok(None),
            // Some servers have no such list, and some fail to make one while they answer questions.
            Err(failure) => match failure.kind {
                Kind::Status(status) if !refuses(status) => Ok(None),
                _ => Err(failure),
            },
        }
    }

    /// Waits before a question is asked for the `attempt`-th time, longer each time.
    pub(crate) fn pause(&self, attempt: u32) {
        let mut pauses = self.shared.pauses().build();
        if let Some(pause) = pauses.nth(attempt.saturating_sub(1) as usize) {
            std::thread::sleep(pause);
        }
    }

    /// An answer counts as one when it has this list.
    fn ask(&self, path: &'static str, list: &'static str, request: &Value) -> Result<Value, Failure> {
        let body = Bytes::from(request.to_string());
        match self.call(Method::POST, path, Some(body), Some(list))? {
            Body::Json(value) => Ok(value),
            text => Err(Failure::new(Kind::Unreadable, text.words())),
        }
    }

    fn call(
        &self,
        method: Method,
        path: &'static str,
        body: Option<Bytes>,
        list: Option<&'static str>,
    ) -> Result<Body, Failure> {
        let shared = Arc::clone(&self.shared);
        let unsent = |words| Failure::new(Kind::Unsent, self.shared.secrets.words(words));
        let (sender, receiver) = mpsc::sync_channel(1);
        let Some(runtime) = &self.runtime else {
            return Err(unsent("the client is closed"));
        };
        // Spawned, and waited for outside of tokio: blocking on a runtime is forbidden on the threads of another.
        runtime.spawn(async move {
            // Nobody waits any more only when the caller's thread has ended.
            let _ = sender.send(shared.persist(method, path, body, list).await);
        });
        receiver
            .recv()
            .unwrap_or_else(|_| Err(unsent("the client's thread has ended")))
    }
}

/// The key that the server's variable holds; `None` where it names none.
fn key(server: Connection<'_>) -> Result<Option<String>, Error> {
    let Some(name) = server.api_key_env else {
        return Ok(None);
    };
    let key = std::env::var(name).ok().map(|key| key.trim().to_owned());
    let key = key.filter(|key| !key.is_empty()).ok_or_else(|| Error::Client {
        problem: format!("the environment variable {name} holds no key for the judge's server"),
        hint: format!("set {name} where judges are started, or remove `judge.api_key_env`"),
    })?;
    Ok(Some(key))
}

/// The header that carries a key.
fn bearer(key: &str) -> Result<header::HeaderValue, Error> {
    let mut value = header::HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| Error::Client {
        problem: "the key for the judge's server holds letters that no header can carry".into(),
        hint: "set the variable that `judge.api_key_env` names to the key alone".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn pauses(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_min_delay(self.pause_min)
            .with_max_delay(PAUSE_MAX)
            .without_max_times()
            .with_jitter()
    }

    async fn persist(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        list: Option<&str>,
    ) -> Result<Body, Failure> {
        // Held over the pauses: a server that is busy must not meet the next request meanwhile. The semaphore is never closed.
        let _place = self.places.acquire().await;
        let retries = self.attempts.saturating_sub(1) as usize;
        (|| self.once(&method, path, body.clone(), list))
            .retry(self.pauses().with_max_times(retries))
            .when(Failure::passes)
            .adjust(|failure: &Failure, pause| match failure.retry_after {
                Some(wish) if wish > RETRY_AFTER_MAX => None,
                // What the server wishes, and some of the jitter, or all would come back at the same moment.
                Some(wish) => pause.map(|pause| wish + pause.min(PAUSE_MIN)),
                None => pause,
            })
            .notify(|failure: &Failure, pause| {
                tracing::warn!(
                    reason = failure.told(),
                    said = %failure.said,
                    pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                    "a request to the judge's server is repeated"
                );
            })
            .await
    }

    async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
        list: Option<&str>,
    ) -> Result<Body, Failure> {
        let answered = self.send(method, path, body, list).await;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.requests += 1;
        match &answered {
            Ok(Body::Json(value)) if list.is_some() => {
                if let Ok(tokens) = serde_json::from_value(value["usage"].clone()) {
                    self.count(&mut spent, tokens);
                }
            }
            Ok(_) => {}
            Err(_) => spent.failures += 1,
        }
        answered
    }

    fn count(&self, spent: &mut Spent, tokens: Tokens) {
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

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
        list: Option<&str>,
    ) -> Result<Body, Failure> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.address));
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key.clone());
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(|error| self.unanswered(&error))?;
        let status = response.status();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unanswered(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                let said = self
                    .secrets
                    .words(&format!("the answer has more than {ANSWER_BYTES_MAX} bytes"));
                return Err(self.failure(Kind::Unreadable, said));
            }
        }
        let body = self.secrets.read(&bytes);
        if !status.is_success() {
            let elsewhere = response
                .headers()
                .get(header::LOCATION)
                .and_then(|place| place.to_str().ok());
            let said = match elsewhere {
                Some(place) if status.is_redirection() => self.secrets.words(&format!("it points to {place}")),
                _ => body.words(),
            };
            return Err(Failure {
                retry_after: retry_after(response.headers(), SystemTime::now()),
                named: Parameter::named_in(&body),
                ..self.failure(Kind::of(status, &body), said)
            });
        }
        let is_whole = list.is_none_or(|list| match &body {
            Body::Json(value) => value[list].as_array().is_some_and(|list| !list.is_empty()),
            Body::Text(_) => false,
        });
        match is_whole {
            true => Ok(body),
            false => Err(self.failure(Kind::Unreadable, body.words())),
        }
    }

    /// A request without an answer, or without the whole of it.
    fn unanswered(&self, error: &reqwest::Error) -> Failure {
        let kind = if error.is_connect() {
            Kind::NoConnection
        } else if error.is_timeout() {
            Kind::NoAnswerInTime
        } else if error.is_builder() {
            Kind::Unsent
        } else {
            Kind::BrokenOff
        };
        self.failure(kind, self.secrets.words(&Diagnostic::foreign(error).to_string()))
    }

    fn failure(&self, kind: Kind, said: gavel_rubric::ServerWords) -> Failure {
        let said = match &self.proxy {
            Some(proxy) => self
                .secrets
                .words(&format!("by way of the proxy {}: {said}", proxy.address)),
            None => said,
        };
        Failure {
            by_proxy: self.proxy.is_some(),
            ..Failure::new(kind, said)
        }
    }
}
