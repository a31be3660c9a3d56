//! A server that misbehaves on command.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Ranks the brighter picture first.
    Honest,
    /// Ranks the picture that is shown first.
    Biased,
    Says(&'static str),
    Refuses,
    Filters,
    Status(u16, Option<&'static str>),
    CutBody,
    NoJson,
    Sleeps,
    /// Refuses with these words.
    Objects(u16, &'static str),
    /// Points to another address.
    Moved(String),
    /// Answers with this choice.
    Chooses(Value),
    /// Thinks until the answer is cut off, unless it has room for so many tokens.
    Thinks(u64),
}

#[derive(Debug, Default)]
pub(super) struct Stub {
    pub(super) acts: Mutex<VecDeque<Act>>,
    /// When the script is over.
    pub(super) then: Option<Act>,
    pub(super) refuses_formats: Vec<&'static str>,
    /// Parameters that it takes from nobody.
    pub(super) refuses: Vec<&'static str>,
    pub(super) seen: Mutex<Vec<(Value, HeaderMap)>>,
    pub(super) likelihoods: bool,
    /// Requests under way, and the most that ever were.
    pub(super) under_way: AtomicUsize,
    pub(super) most: AtomicUsize,
}

impl Stub {
    pub(super) fn new(acts: impl IntoIterator<Item = Act>, then: Act) -> Self {
        Self {
            acts: Mutex::new(acts.into_iter().collect()),
            then: Some(then),
            ..Self::default()
        }
    }

    pub(super) fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// A server on a free port, for as long as its value lives.
pub(super) struct Server {
    pub(super) stub: Arc<Stub>,
    pub(super) address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

pub(super) fn serve(stub: Stub) -> Server {
    let stub = Arc::new(stub);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let router = Router::new()
        .route("/v1/chat/completions", post(answer))
        .with_state(Arc::clone(&stub));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, router).await });
    Server {
        stub,
        address,
        _runtime: runtime,
    }
}

async fn answer(State(stub): State<Arc<Stub>>, headers: HeaderMap, body: Bytes) -> Response {
    let under_way = stub.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    stub.most.fetch_max(under_way, Ordering::SeqCst);
    tokio::task::yield_now().await;
    let response = act(&stub, headers, &body).await;
    stub.under_way.fetch_sub(1, Ordering::SeqCst);
    response
}

async fn act(stub: &Stub, headers: HeaderMap, body: &Bytes) -> Response {
    let request: Value = serde_json::from_slice(body).unwrap();
    let format = request["response_format"]["type"].as_str().unwrap_or("").to_owned();
    let wants_likelihoods = request["logprobs"] == true;
    let (brighter, _) = brighter_and_count(&request);
    let limits = ["max_tokens", "max_completion_tokens"].map(|name| request[name].as_u64());
    let limit = limits.into_iter().flatten().next().unwrap_or(u64::MAX);
    let refused = stub.refuses.iter().find(|name| request.get(**name).is_some());
    let refusal = refused
        .map(|name| json!({ "error": { "message": format!("Unsupported parameter: '{name}'"), "param": name } }));
    stub.seen.lock().unwrap().push((request, headers));
    if stub.refuses_formats.contains(&format.as_str()) {
        let body = json!({ "error": { "message": format!("response_format {format} is not supported") } });
        return (StatusCode::BAD_REQUEST, body.to_string()).into_response();
    }
    if let Some(refusal) = refusal {
        return (StatusCode::BAD_REQUEST, refusal.to_string()).into_response();
    }
    let scripted = stub.acts.lock().unwrap().pop_front();
    let act = scripted.or_else(|| stub.then.clone()).unwrap();
    let ranked = |first: bool| {
        let rank = if first { [1, 2] } else { [2, 1] };
        json!({ "reason": "brighter", "rank": rank }).to_string()
    };
    let choice = |text: &str| json!({ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" });
    let choice = match act {
        Act::Honest if wants_likelihoods && stub.likelihoods => {
            let (one, two) = if brighter == 0 {
                (0.7f64, 0.2f64)
            } else {
                (0.1f64, 0.8f64)
            };
            let mut choice = choice("1");
            choice["logprobs"] = json!({ "content": [{ "token": "1", "logprob": 0.0, "top_logprobs": [
                { "token": "1", "logprob": one.ln() },
                { "token": "2", "logprob": two.ln() },
                { "token": "x", "logprob": 0.05f64.ln() },
            ] }] });
            choice
        }
        Act::Honest if wants_likelihoods => choice(["1", "2"][brighter]),
        Act::Honest => choice(&ranked(brighter == 0)),
        Act::Biased => choice(&ranked(true)),
        Act::Says(text) => choice(text),
        Act::Refuses => json!({ "message": { "content": null, "refusal": "I would rather not." } }),
        Act::Filters => json!({ "message": { "content": "" }, "finish_reason": "content_filter" }),
        Act::Status(status, retry_after) => {
            let mut response = Response::new(Body::from(r#"{"error": {"message": "busy, sk-secret"}}"#));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Some(after) = retry_after {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            return response;
        }
        Act::CutBody => {
            let mut response = Response::new(Body::from_stream(futures_cut()));
            response.headers_mut().insert("content-length", "1000".parse().unwrap());
            return response;
        }
        Act::Objects(status, words) => {
            return (StatusCode::from_u16(status).unwrap(), words).into_response();
        }
        Act::Moved(place) => return (StatusCode::FOUND, [("location", place)]).into_response(),
        Act::Chooses(choice) => choice,
        Act::Thinks(tokens) if limit < tokens => {
            json!({ "message": { "content": "", "reasoning_content": "Let me see" }, "finish_reason": "length" })
        }
        Act::Thinks(_) => choice(["<think>1 or 2?</think>1", "<think>1 or 2?</think>2"][brighter]),
        Act::NoJson => return "<html>gateway</html>".into_response(),
        Act::Sleeps => std::future::pending().await,
    };
    let body = json!({ "choices": [choice], "usage": { "prompt_tokens": 100, "completion_tokens": 10 } });
    body.to_string().into_response()
}

/// Some bytes, then an error: the connection breaks.
fn futures_cut() -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::iter([
        Ok(Bytes::from_static(br#"{"choices": ["#)),
        Err(std::io::Error::other("cut")),
    ])
}

/// Which of the request's pictures is brighter, and how many there are.
pub(super) fn brighter_and_count(request: &Value) -> (usize, usize) {
    use base64::Engine as _;
    let mut brightness = Vec::new();
    for message in request["messages"].as_array().into_iter().flatten() {
        for part in message["content"].as_array().into_iter().flatten() {
            let Some(url) = part["image_url"]["url"].as_str() else {
                continue;
            };
            let png = url.strip_prefix("data:image/png;base64,").unwrap();
            let png = base64::engine::general_purpose::STANDARD.decode(png).unwrap();
            let image = image::load_from_memory(&png).unwrap().to_rgb8();
            brightness.push(image.get_pixel(0, 0)[0]);
        }
    }
    let brighter = match brightness.as_slice() {
        [first, second] => usize::from(second > first),
        _ => 0,
    };
    (brighter, brightness.len())
}
