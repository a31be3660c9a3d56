//! The client and the judge against a server that misbehaves on command.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use gavel_core::ids::PromptIndex;
use gavel_core::spec::ServerSpec;
use gavel_core::work::{AbstainReason, Side, Verdict, VerdictRecord};
use gavel_rubric::{AskError, Chat as _, ChatRequest, Judge as _, JudgeTemplate, JudgedPair, Message, Part, RubricSet};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use super::{Endpoint, EndpointJudge};

/// What the server does with one request.
#[derive(Debug, Clone)]
enum Act {
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
}

#[derive(Debug, Default)]
struct Stub {
    acts: Mutex<VecDeque<Act>>,
    /// When the script is over.
    then: Option<Act>,
    refuses_formats: Vec<&'static str>,
    seen: Mutex<Vec<(Value, HeaderMap)>>,
    likelihoods: bool,
    /// Requests under way, and the most that ever were.
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Stub {
    fn new(acts: impl IntoIterator<Item = Act>, then: Act) -> Self {
        Self {
            acts: Mutex::new(acts.into_iter().collect()),
            then: Some(then),
            ..Self::default()
        }
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// A server on a free port, for as long as its value lives.
struct Server {
    stub: Arc<Stub>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

fn serve(stub: Stub) -> Server {
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
    stub.seen.lock().unwrap().push((request, headers));
    if stub.refuses_formats.contains(&format.as_str()) {
        let body = json!({ "error": { "message": format!("response_format {format} is not supported") } });
        return (StatusCode::BAD_REQUEST, body.to_string()).into_response();
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
fn brighter_and_count(request: &Value) -> (usize, usize) {
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

fn spec(server: &Server) -> ServerSpec {
    ServerSpec {
        endpoint: format!("http://{}/v1", server.address),
        model: "vlm".into(),
        attempts: 3,
        concurrency: 1,
        prompt_price: Some(2.0),
        completion_price: Some(10.0),
        ..ServerSpec::default()
    }
}

fn endpoint(spec: &ServerSpec) -> Arc<Endpoint> {
    let mut endpoint = Endpoint::new(spec).unwrap();
    endpoint.client = endpoint.client.without_pauses();
    Arc::new(endpoint)
}

fn template(name: &str) -> JudgeTemplate {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/judge");
    JudgeTemplate::load(&folder.join(format!("{name}.toml"))).unwrap()
}

/// A server that judges as told, by template, over `pairs` pairs of which the first picture is brighter.
fn judge(server: &Server, template_name: &str, pairs: u32) -> Result<Vec<VerdictRecord>, AskError> {
    judge_as(&spec(server), template_name, pairs)
}

fn judge_as(spec: &ServerSpec, template_name: &str, pairs: u32) -> Result<Vec<VerdictRecord>, AskError> {
    let judge = EndpointJudge::new(endpoint(spec), template(template_name), 0.0, spec.concurrency);
    let bright = RgbImage::from_pixel(4, 4, Rgb([200, 200, 200]));
    let dark = RgbImage::from_pixel(4, 4, Rgb([20, 20, 20]));
    let pairs: Vec<JudgedPair<'_>> = (0..pairs)
        .map(|index| JudgedPair {
            prompt_index: PromptIndex(index),
            prompt: "a light",
            sources: &[],
            first: &bright,
            second: &dark,
        })
        .collect();
    judge.judge(&RubricSet::from_text("Bright.").unwrap(), &pairs)
}

fn only(records: Result<Vec<VerdictRecord>, AskError>) -> VerdictRecord {
    let mut records = records.unwrap();
    assert_eq!(records.len(), 1);
    records.swap_remove(0)
}

const FIRST: Verdict = Verdict::Preferred { side: Side::First };

#[test]
fn both_orders_are_asked_and_must_agree() {
    let server = serve(Stub::new([], Act::Honest));
    let record = only(judge(&server, "ranking", 1));
    assert_eq!(record.verdict, FIRST);
    assert_eq!(record.order_probabilities, [1.0, 1.0]);
    assert_eq!(server.stub.calls(), 2);
    let seen = server.stub.seen.lock().unwrap();
    let mut brighter: Vec<usize> = seen.iter().map(|(request, _)| brighter_and_count(request).0).collect();
    brighter.sort_unstable();
    assert_eq!(brighter, [0, 1], "the pictures change places");
    assert_eq!(seen[0].0["response_format"]["type"], "json_schema");

    let server = serve(Stub::new([], Act::Biased));
    assert_eq!(
        only(judge(&server, "ranking", 1)).verdict,
        Verdict::Abstain {
            reason: AbstainReason::OrdersDisagree
        }
    );
}

#[test]
fn likelihoods_become_probabilities_and_words_become_certainties() {
    let server = serve(Stub {
        likelihoods: true,
        ..Stub::new([], Act::Honest)
    });
    let record = only(judge(&server, "instruct", 1));
    assert_eq!(record.verdict, FIRST);
    let [straight, swapped] = record.order_probabilities;
    assert!((straight - 7.0 / 9.0).abs() < 1e-9, "{straight}");
    assert!((swapped - 8.0 / 9.0).abs() < 1e-9, "{swapped}");

    let server = serve(Stub::new([], Act::Honest));
    let record = only(judge(&server, "instruct", 1));
    assert_eq!((record.verdict, record.order_probabilities), (FIRST, [1.0, 1.0]));

    let server = serve(Stub::new([], Act::Says("Both are lovely.")));
    assert_eq!(
        only(judge(&server, "instruct", 1)).verdict,
        Verdict::Abstain {
            reason: AbstainReason::OutsideLabels
        }
    );
}

#[test]
fn passing_failures_are_repeated_and_counted() {
    for fault in [
        Act::Status(429, Some("0")),
        Act::Status(429, None),
        Act::Status(500, None),
        Act::Status(503, Some("Sun, 06 Nov 1994 08:49:37 GMT")),
        Act::CutBody,
        Act::NoJson,
    ] {
        let server = serve(Stub::new([fault.clone(), fault.clone()], Act::Honest));
        let record = only(judge(&server, "ranking", 1));
        assert_eq!(record.verdict, FIRST, "{fault:?}");
        assert_eq!(server.stub.calls(), 4, "{fault:?}: two faults, two answers");
    }
}

#[test]
fn a_server_waits_as_long_as_it_is_told_to() {
    let server = serve(Stub::new([Act::Status(429, Some("1"))], Act::Honest));
    let began = Instant::now();
    assert_eq!(only(judge(&server, "ranking", 1)).verdict, FIRST);
    assert!(began.elapsed() >= Duration::from_secs(1));

    // Longer than anybody waits: unavailable at once, after one call.
    let server = serve(Stub::new([], Act::Status(429, Some("86400"))));
    assert!(matches!(
        judge(&server, "ranking", 1),
        Err(AskError::Unavailable { .. })
    ));
    assert_eq!(server.stub.calls(), 1);
}

#[test]
fn a_server_that_stays_away_is_unavailable_and_gives_no_verdict() {
    let server = serve(Stub::new([], Act::Status(500, None)));
    let error = judge(&server, "ranking", 1).unwrap_err();
    assert!(
        matches!(&error, AskError::Unavailable { reason, .. } if reason.contains("500")),
        "{error:?}"
    );
    assert_eq!(server.stub.calls(), 3, "as many as judge.attempts");

    let nobody = ServerSpec {
        endpoint: "http://127.0.0.1:1/v1".into(),
        ..spec(&server)
    };
    assert!(matches!(
        judge_as(&nobody, "ranking", 1),
        Err(AskError::Unavailable { .. })
    ));
}

#[test]
fn a_slow_server_is_given_up_after_the_timeout() {
    let server = serve(Stub::new([], Act::Sleeps));
    let hasty = ServerSpec {
        timeout: Duration::from_millis(50),
        ..spec(&server)
    };
    assert!(matches!(
        judge_as(&hasty, "ranking", 1),
        Err(AskError::Unavailable { .. })
    ));
    assert_eq!(server.stub.calls(), 3);
}

#[test]
fn a_refused_key_is_told_without_the_key_and_not_tried_again() {
    let server = serve(Stub::new([], Act::Status(401, None)));
    let mut endpoint = Endpoint::new(&spec(&server)).unwrap();
    endpoint.client = endpoint.client.without_pauses().with_key("sk-secret");
    let messages = [Message {
        role: "user".into(),
        content: vec![Part::Text("hello".into())],
    }];
    let request = ChatRequest {
        messages: &messages,
        images: &[],
        max_tokens: 8,
        temperature: 0.0,
        seed: 0,
        schema: None,
    };
    let error = endpoint.reply(&request).unwrap_err();
    assert!(
        matches!(&error, AskError::Unanswerable { hint: Some(hint), .. } if hint.contains("api_key_env")),
        "{error:?}"
    );
    assert!(error.to_string().contains("[key]") && !error.to_string().contains("sk-secret"));
    let seen = server.stub.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].1["authorization"], "Bearer sk-secret");
}

#[test]
fn an_answer_that_says_nothing_is_asked_for_again_and_then_fails_the_pair() {
    let server = serve(Stub::new([Act::Says("{\"rank\": [1,"), Act::Says("Hm.")], Act::Honest));
    assert_eq!(only(judge(&server, "ranking", 1)).verdict, FIRST);
    assert_eq!(server.stub.calls(), 4);

    let server = serve(Stub::new([], Act::Says(r#"{"reason": "?", "rank": [1, 1]}"#)));
    let record = only(judge(&server, "ranking", 1));
    assert!(
        matches!(&record.verdict, Verdict::Failed { reason } if reason.contains("[1,1]")),
        "{record:?}"
    );
    assert_eq!((record.probability_first, server.stub.calls()), (0.5, 6));
}

#[test]
fn a_refusal_fails_its_own_pair_and_no_other() {
    for act in [Act::Refuses, Act::Filters] {
        let server = serve(Stub::new([act], Act::Honest));
        let records = judge(&server, "ranking", 2).unwrap();
        assert!(
            matches!(&records[0].verdict, Verdict::Failed { reason } if reason.contains("refused")),
            "{records:?}"
        );
        assert_eq!(records[1].verdict, FIRST);
        assert_eq!(server.stub.calls(), 4, "a refusal is not asked again");
    }
}

#[test]
fn a_server_without_schemas_is_asked_in_simpler_ways_and_that_is_remembered() {
    let server = serve(Stub {
        refuses_formats: vec!["json_schema", "json_object"],
        ..Stub::new([], Act::Honest)
    });
    let records = judge(&server, "ranking", 3).unwrap();
    assert!(records.iter().all(|record| record.verdict == FIRST));
    assert_eq!(server.stub.calls(), 2 + 6, "each refused way is tried once");
}

#[test]
fn tokens_and_their_price_are_counted() {
    let server = serve(Stub::new([Act::Status(500, None)], Act::Honest));
    let spec = spec(&server);
    let endpoint = endpoint(&spec);
    let messages = [Message {
        role: "user".into(),
        content: vec![Part::Text("hello".into())],
    }];
    let schema = json!({ "type": "object" });
    let request = ChatRequest {
        messages: &messages,
        images: &[],
        max_tokens: 8,
        temperature: 0.5,
        seed: 3,
        schema: Some(&schema),
    };
    let reply = endpoint.reply(&request).unwrap();
    assert!(reply.complete && reply.text.contains("rank"));
    assert_eq!((reply.usage.prompt_tokens, reply.usage.completion_tokens), (100, 10));
    let spent = endpoint.spent();
    assert_eq!((spent.requests, spent.failures), (2, 1));
    assert!((spent.cost.unwrap() - (100.0 * 2.0 + 10.0 * 10.0) / 1e6).abs() < 1e-12);
    let seen = server.stub.seen.lock().unwrap();
    let request = &seen[1].0;
    assert_eq!((&request["seed"], &request["temperature"]), (&json!(3), &json!(0.5)));
    assert!(request["messages"][0]["content"].as_str().unwrap().contains("schema"));
}

#[test]
fn no_more_requests_are_under_way_than_allowed_and_the_answers_keep_their_places() {
    let server = serve(Stub::new([Act::Refuses], Act::Honest));
    let parallel = ServerSpec {
        concurrency: 4,
        ..spec(&server)
    };
    let records = judge_as(&parallel, "ranking", 16).unwrap();
    let places: Vec<u32> = records.iter().map(|record| record.prompt_index.0).collect();
    assert!(places.iter().copied().eq(0..16));
    let most = server.stub.most.load(Ordering::SeqCst);
    assert!((1..=4).contains(&most), "{most} at a time");
    assert_eq!(records.iter().filter(|record| record.verdict == FIRST).count(), 15);
}

#[test]
fn an_endpoint_may_be_used_and_dropped_within_tokio() {
    let server = serve(Stub::new([], Act::Honest));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let spec = spec(&server);
    let record = runtime.block_on(async move {
        tokio::spawn(async move { only(judge_as(&spec, "ranking", 1)) })
            .await
            .unwrap()
    });
    assert_eq!(record.verdict, FIRST);
}
