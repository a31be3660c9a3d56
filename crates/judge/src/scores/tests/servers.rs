//! Servers that give scores, or do not.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use base64::Engine as _;
use gavel_core::Diagnostic;
use gavel_core::spec::ScorerSpec;
use gavel_core::work::Orders;
use serde_json::{Value, json};

use super::*;
use crate::openai::{Client, Proxies};
use crate::scores::server::ScoreServer;

/// What a server does with a request.
type Handler = Arc<dyn Fn(usize, &Value) -> Response + Send + Sync>;

struct Shared {
    handler: Handler,
    seen: Mutex<Vec<(Value, HeaderMap)>>,
}

/// A server on a free port, for as long as its value lives.
struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// `handler` is given how many requests there were before, and the request.
    fn start(handler: impl Fn(usize, &Value) -> Response + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            handler: Arc::new(handler),
            seen: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let router = Router::new()
            .route("/score", post(answer))
            .with_state(Arc::clone(&shared));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            shared,
            address,
            _runtime: runtime,
        }
    }

    fn says(text: &'static str) -> Self {
        Self::start(move |_, _| text.into_response())
    }

    fn calls(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    fn spec(&self) -> ScorerSpec {
        ScorerSpec {
            endpoint: format!("http://{}/score", self.address),
            attempts: 2,
            concurrency: 1,
            ..ScorerSpec::default()
        }
    }

    fn judge(&self, key: Option<&str>) -> ScoreJudge<ScoreServer> {
        self.judge_as(&self.spec(), key)
    }

    fn judge_as(&self, spec: &ScorerSpec, key: Option<&str>) -> ScoreJudge<ScoreServer> {
        let client = Client::of_scorer_with_key(spec, &Proxies::from_env(), key).unwrap();
        let server = ScoreServer::with_client(spec, client.without_pauses()).unwrap();
        ScoreJudge::new(server, spec.temperature, 0.0)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let before = {
        let mut seen = shared.seen.lock().unwrap();
        seen.push((request.clone(), headers));
        seen.len() - 1
    };
    if request["prompt"] == "slow" {
        return std::future::pending().await;
    }
    (shared.handler)(before, &request)
}

/// Scores a picture by the brightness of its first pixel.
fn bright(_: usize, request: &Value) -> Response {
    let scores: Vec<f64> = request["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|png| {
            let png = base64::engine::general_purpose::STANDARD.decode(png.as_str().unwrap());
            let picture = image::load_from_memory(&png.unwrap()).unwrap().to_rgb8();
            f64::from(picture.get_pixel(0, 0)[0]) / 100.0
        })
        .collect();
    json!({ "scores": scores }).to_string().into_response()
}

/// Judges so many pairs of which the first picture is brighter, 200 to 20.
fn judge_pairs(judge: &dyn Judge, prompt: &str, pairs: u32) -> Result<Vec<VerdictRecord>, AskError> {
    let [light, dark] = [200, 20].map(|level| RgbImage::from_pixel(4, 4, Rgb([level; 3])));
    let rubric = RubricSet::from_text("Bright.").unwrap();
    let pairs: Vec<JudgedPair<'_>> = (0..pairs)
        .map(|index| JudgedPair {
            prompt_index: PromptIndex(index),
            prompt,
            sources: &[],
            first: &light,
            second: &dark,
            rubric: &rubric,
            orders: Orders::Both,
            list: &[],
        })
        .collect();
    judge.judge(&pairs)
}

#[test]
fn a_server_is_sent_prompt_and_pictures_once_for_each_pair_and_the_higher_score_wins() {
    let server = Server::start(bright);
    let judge = server.judge(Some("sk-secret"));
    let records = judge_pairs(&judge, "a light", 3).unwrap();
    let expected = 1.0 / (1.0 + (-1.8_f64).exp());
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.verdict, FIRST);
        assert_eq!(record.prompt_index, PromptIndex(index as u32));
        assert!((record.probability_first - expected).abs() < 1e-12);
        assert_eq!(record.order_probabilities, [record.probability_first; 2]);
    }
    let seen = server.shared.seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    let (request, headers) = &seen[0];
    assert_eq!(
        (&request["version"], &request["prompt"]),
        (&json!(1), &json!("a light"))
    );
    assert_eq!(request["images"].as_array().unwrap().len(), 2);
    assert_eq!(request["sources"], json!([]));
    assert_eq!(headers["authorization"], "Bearer sk-secret");
    assert_eq!(judge.spent().requests, 3);
}

#[test]
fn an_answer_without_usable_scores_is_asked_for_again_and_then_the_pair_has_failed() {
    for (said, words) in [
        (r#"{"scores": [NaN, 1.0]}"#, "no JSON"),
        (r#"{"scores": [1e999, 1.0]}"#, "no JSON"),
        (r#"{"scores": [Infinity, 1.0]}"#, "no JSON"),
        (r#"{"scores": [1e308, 1.0]}"#, "picture 1"),
        (r#"{"scores": ["1", "2"]}"#, "no number"),
        (r#"{"scores": [null, 2]}"#, "no number"),
        (r#"{"scores": [[1], 2]}"#, "no number"),
        (r#"{"scores": [1]}"#, "1 scores for 2 pictures"),
        (r#"{"scores": [1, 2, 3]}"#, "3 scores for 2 pictures"),
        (r#"{"scores": []}"#, "0 scores for 2 pictures"),
        (r#"{"scores": 1}"#, "no list `scores`"),
        (r#"{"score": [1, 2]}"#, "no list `scores`"),
        ("[1, 2]", "no list `scores`"),
        ("null", "no list `scores`"),
        ("<h1>admin of the intranet</h1>", "no JSON"),
        ("", "no JSON"),
    ] {
        let server = Server::says(said);
        let records = judge_pairs(&server.judge(None), "a light", 1).unwrap();
        let reason = failed(&records[0]);
        assert!(reason.contains(words), "{said}: {reason}");
        assert!(!reason.contains("intranet"), "a server's words do not travel: {reason}");
        assert_eq!(records[0].probability_first, 0.5);
        let calls = if words == "picture 1" { 1 } else { 3 };
        assert_eq!(server.calls(), calls, "{said}");
    }
    let server = Server::start(|before, request| match before {
        0 => "busy".into_response(),
        _ => bright(before, request),
    });
    assert_eq!(
        judge_pairs(&server.judge(None), "a light", 1).unwrap()[0].verdict,
        FIRST
    );
}

#[test]
fn a_pair_that_the_server_does_not_take_fails_alone() {
    for status in [
        StatusCode::BAD_REQUEST,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::PAYLOAD_TOO_LARGE,
    ] {
        let server = Server::start(move |before, request| match before {
            0 => (status, "the prompt of the intranet").into_response(),
            _ => bright(before, request),
        });
        let records = judge_pairs(&server.judge(None), "a light", 2).unwrap();
        assert!(!failed(&records[0]).contains("intranet"), "{records:?}");
        assert_eq!(records[1].verdict, FIRST);
        assert_eq!(server.calls(), 2);
    }
    let server = Server::start(bright);
    let records = judge_pairs(&server.judge(None), &"word ".repeat(10_000), 1).unwrap();
    assert!(failed(&records[0]).contains("50000 bytes"), "{records:?}");
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_server_that_is_away_or_wants_another_key_gives_no_verdict_at_all() {
    let server = Server::start(|_, _| (StatusCode::SERVICE_UNAVAILABLE, "sk-secret-key is tired").into_response());
    let error = judge_pairs(&server.judge(Some("sk-secret-key")), "a light", 1).unwrap_err();
    assert!(matches!(error, AskError::Unavailable { .. }), "{error:?}");
    assert!(!Diagnostic::of(&error).in_full().contains("sk-secret"), "{error:?}");
    assert_eq!(server.calls(), 2, "`attempts` times");

    let server = Server::start(|_, _| StatusCode::UNAUTHORIZED.into_response());
    let error = judge_pairs(&server.judge(None), "a light", 1).unwrap_err();
    assert!(matches!(error, AskError::Refused { .. }), "{error:?}");

    let server = Server::start(bright);
    let spec = ScorerSpec {
        timeout: Duration::from_millis(50),
        attempts: 1,
        ..server.spec()
    };
    let error = judge_pairs(&server.judge_as(&spec, None), "slow", 1).unwrap_err();
    assert!(matches!(error, AskError::Unavailable { .. }), "{error:?}");
}

#[test]
fn a_server_is_tried_with_two_pictures_before_anything_starts() {
    let server = Server::start(bright);
    assert!(
        ScoreServer::new(&server.spec())
            .unwrap()
            .check()
            .unwrap()
            .ends_with("scores pictures")
    );
    let server = Server::says(r#"{"detail": "no such model"}"#);
    let error = ScoreServer::new(&server.spec()).unwrap().check().unwrap_err();
    let told = Diagnostic::of(&error);
    assert!(told.error.contains("no list `scores`"), "{told:?}");
    assert_eq!(told.causes, ["no such model"], "whoever asks reads the server's words");
    assert!(told.hint.unwrap().contains("docs/judges.md"));
}

#[test]
fn whatever_a_verdict_depends_on_is_in_its_judges_identity() {
    let identity = |endpoint: &str, temperature, margin| {
        let spec = ScorerSpec {
            endpoint: endpoint.into(),
            temperature,
            ..ScorerSpec::default()
        };
        ScoreJudge::new(ScoreServer::new(&spec).unwrap(), spec.temperature, margin).identity()
    };
    let one = identity("http://127.0.0.1:1/a", 1.0, 0.0);
    assert_eq!(one, identity("http://127.0.0.1:1/a/", 1.0, 0.0));
    assert_ne!(one, identity("http://127.0.0.1:1/b", 1.0, 0.0));
    assert_ne!(one, identity("http://127.0.0.1:1/a", 2.0, 0.0));
    assert_ne!(one, identity("http://127.0.0.1:1/a", 1.0, 0.1));
}

/// The server that people copy, where there is a Python to run it.
#[test]
fn the_example_server_is_understood() {
    let started = Command::new("python3")
        .args(["examples/scorer/serve.py", "--port", "0"])
        .current_dir(root())
        .env("SCORER_KEY", "sk-secret")
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut process) = started else {
        eprintln!("\nSKIPPED the_example_server_is_understood: python3 is not installed\n");
        return;
    };
    let mut address = String::new();
    let stdout = process.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut address).unwrap();
    let spec = ScorerSpec {
        endpoint: address.trim().to_owned(),
        attempts: 1,
        ..ScorerSpec::default()
    };
    let judge = |key| {
        let client = Client::of_scorer_with_key(&spec, &Proxies::from_env(), key).unwrap();
        ScoreJudge::new(
            ScoreServer::with_client(&spec, client.without_pauses()).unwrap(),
            1.0,
            0.0,
        )
    };
    let noisy = RgbImage::from_fn(32, 32, |x, y| {
        Rgb([(x * 37 + y * 101) as u8, (x * y) as u8, (x ^ y) as u8])
    });
    let plain = RgbImage::new(32, 32);
    let rubric = RubricSet::from_text("Plain.").unwrap();
    let pair = JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: "nothing",
        sources: std::slice::from_ref(&plain),
        first: &noisy,
        second: &plain,
        rubric: &rubric,
        orders: Orders::Both,
        list: &[],
    };
    let judged = judge(Some("sk-secret")).judge(&[pair]);
    let refused = judge(Some("sk-another")).judge(&[pair]);
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(judged.unwrap()[0].verdict, SECOND, "it prefers the plainer picture");
    assert!(matches!(refused, Err(AskError::Refused { .. })), "{refused:?}");
}
