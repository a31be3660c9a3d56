//! A judge's server that fails every other time, and one that is away altogether. Failures are counted, not timed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use gavel_core::ids::{PromptIndex, RunId, Step};
use gavel_core::spec::{JudgeFamily, JudgeSpec, RunSpec};
use gavel_core::unit::{Assignment, Outcome, Pair, Unit};
use gavel_core::verdict::{Side, Verdict};
use gavel_core::{RubricText, RunAssets};
use gavel_judge_worker::JudgeWork;
use gavel_worker::{Work, WorkContext, WorkError};
use serde_json::{Value, json};

#[derive(Default)]
struct Server {
    calls: AtomicUsize,
    away: AtomicBool,
}

/// Prefers the longer PNG; every other call fails, each time in another way.
async fn answer(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let call = server.calls.fetch_add(1, Ordering::SeqCst);
    if server.away.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if call.is_multiple_of(2) {
        let mut response = match (call / 2) % 3 {
            0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            1 => StatusCode::TOO_MANY_REQUESTS.into_response(),
            _ => Response::new(Body::from("{\"choices\": [{\"message\"")),
        };
        response
            .headers_mut()
            .insert("retry-after", HeaderValue::from_static("0"));
        return response;
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let content = request["messages"].as_array().unwrap().last().unwrap()["content"]
        .as_array()
        .unwrap();
    let urls = content.iter().filter_map(|part| part["image_url"]["url"].as_str());
    let lengths: Vec<usize> = urls.map(str::len).collect();
    let rank = if lengths[0] > lengths[1] { "[1, 2]" } else { "[2, 1]" };
    let text = format!("{{\"reason\": \"more to see\", \"rank\": {rank}}}");
    json!({ "choices": [{ "message": { "content": text } }] })
        .to_string()
        .into_response()
}

fn png(context: &WorkContext, side: u32) -> gavel_core::ids::Digest {
    let image = image::RgbImage::from_fn(side, side, |x, y| {
        image::Rgb([x * 37, y * 91, x * y].map(|value| value as u8))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    context.put(bytes.into_inner())
}

#[test]
fn a_server_that_fails_half_of_its_answers_costs_no_pair_and_one_that_is_away_no_attempt() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = Arc::new(Server::default());
    let router = Router::new()
        .route("/v1/chat/completions", post(answer))
        .with_state(Arc::clone(&server));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, router).await });

    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("configs/quickstart.toml")).unwrap();
    let mut spec = RunSpec::from_value(text.parse().unwrap()).unwrap();
    spec.judge = JudgeSpec {
        family: JudgeFamily::Openai,
        path: std::path::PathBuf::new(),
        endpoint: Some(format!("http://{address}/v1")),
        model: Some("vlm".into()),
        attempts: 2,
        concurrency: 1,
        ..spec.judge
    };
    spec.check().unwrap();
    let assets = RunAssets {
        rubric: RubricText::new("Rich\n- Much to see.\n"),
        template: std::fs::read_to_string(root.join("configs/judge/ranking.toml")).unwrap(),
        ..RunAssets::default()
    };
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), &spec, &assets).unwrap();

    let context = WorkContext::in_memory().unwrap();
    let pair = |place: u32| Pair {
        prompt: PromptIndex(place),
        text: "a pattern".into(),
        first: png(&context, 4 + 40 * (place % 2)),
        second: png(&context, 24),
    };
    let assignment = Assignment::Judge {
        pairs: (0..3).map(pair).collect(),
    };
    let unit = Unit::Judge {
        step: Step(1),
        chunk: 0,
    };
    let Outcome::Judged { verdicts, .. } = work.perform(&unit, &assignment, &context).unwrap() else {
        panic!("a judge gives verdicts")
    };
    let sides: Vec<Verdict> = verdicts.into_iter().map(|record| record.verdict).collect();
    let expected = [Side::Second, Side::First, Side::Second].map(|side| Verdict::Preferred { side });
    assert_eq!(sides, expected);
    assert_eq!(server.calls.load(Ordering::SeqCst), 12, "six answers and six failures");

    server.away.store(true, Ordering::SeqCst);
    let error = work.perform(&unit, &assignment, &context).unwrap_err();
    assert!(
        matches!(&error, WorkError::Unavailable(reason) if reason.contains("503")),
        "{error:?}"
    );
    server.away.store(false, Ordering::SeqCst);
    assert!(work.perform(&unit, &assignment, &context).is_ok());
}
