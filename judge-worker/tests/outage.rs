//! A judge's server that fails every other time, and one that is away altogether. Failures are counted, not timed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use gavel_core::ids::{PromptIndex, RunId, Step};
use gavel_core::spec::{JudgeSpec, ReasonsSpec, RunSpec, ServerSpec};
use gavel_core::work::{Arm, Assignment, Orders, Outcome, Pair, PictureAnswer, Task, Unit};
use gavel_core::work::{Reason, Side, Verdict, VerdictRecord};
use gavel_core::{RubricText, RunAssets};
use gavel_judge_worker::JudgeWork;
use gavel_worker::{Work, WorkContext, WorkError};
use serde_json::{Value, json};

#[derive(Default)]
struct Server {
    calls: AtomicUsize,
    away: AtomicBool,
    /// Says this to every question.
    says: Mutex<Option<(StatusCode, &'static str)>>,
    /// Fails no call.
    steady: AtomicBool,
    /// Refuses to write sentences, which are asked for without a format.
    mute: AtomicBool,
}

/// Prefers the longer PNG, and says of a single one what it is asked to say; unless it is steady, every other call fails, each time in another way.
async fn answer(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let call = server.calls.fetch_add(1, Ordering::SeqCst);
    if let Some(said) = *server.says.lock().unwrap() {
        return said.into_response();
    }
    if server.away.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if call.is_multiple_of(2) && !server.steady.load(Ordering::SeqCst) {
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
    if request.get("response_format").is_none() {
        return match server.mute.load(Ordering::SeqCst) {
            true => StatusCode::FORBIDDEN.into_response(),
            false => {
                json!({ "choices": [{ "message": { "content": "There is more to see." }, "finish_reason": "stop" }] })
                    .to_string()
                    .into_response()
            }
        };
    }
    let content = request["messages"].as_array().unwrap().last().unwrap()["content"]
        .as_array()
        .unwrap();
    let urls = content.iter().filter_map(|part| part["image_url"]["url"].as_str());
    let lengths: Vec<usize> = urls.map(str::len).collect();
    if let [_] = lengths[..] {
        let question = request["messages"].to_string();
        let said = match () {
            () if question.contains("Say yes") => "Yes.",
            () if question.contains("Say no") => "\"no\"",
            () => "Perhaps.",
        };
        return json!({ "choices": [{ "message": { "content": said }, "finish_reason": "stop" }] })
            .to_string()
            .into_response();
    }
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

/// A judge of three pairs, with the server that it asks.
struct Bench {
    server: Arc<Server>,
    work: JudgeWork,
    context: WorkContext,
    assignment: Assignment,
    _runtime: tokio::runtime::Runtime,
}

const UNIT: Unit = Unit::Judge {
    step: Step(1),
    chunk: 0,
};

impl Bench {
    fn verdicts(&mut self) -> Result<Vec<VerdictRecord>, WorkError> {
        match self.work.perform(&UNIT, &self.assignment, &self.context)? {
            Outcome::Judged { verdicts, .. } => Ok(verdicts),
            outcome => panic!("a judge gives verdicts, not {outcome:?}"),
        }
    }
}

fn bench(reasons: Option<ReasonsSpec>) -> Bench {
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
        back_end: ServerSpec {
            endpoint: format!("http://{address}/v1"),
            model: "vlm".into(),
            attempts: 2,
            concurrency: 1,
            ..ServerSpec::default()
        }
        .into(),
        reasons,
        ..spec.judge
    };
    spec.check().unwrap();
    let assets = RunAssets {
        rubric: RubricText::new("Rich\n- Much to see.\n"),
        prompt_rubrics: Default::default(),
        template: std::fs::read_to_string(root.join("configs/judge/ranking.toml")).unwrap(),
        reason_template: Some(std::fs::read_to_string(root.join("configs/rubric/en/reason.toml")).unwrap()),
        held_out_judge: None,
        ..RunAssets::default()
    };
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), &spec, &assets).unwrap();

    let context = WorkContext::in_memory().unwrap();
    let pair = |index: u32| Pair {
        prompt_index: PromptIndex(index),
        task: "a pattern".into(),
        first: png(&context, 4 + 40 * (index % 2) + index),
        second: png(&context, 24),
        rubric: None,
        orders: Orders::Both,
    };
    let assignment = Assignment::Judge {
        pairs: (0..3).map(pair).collect(),
    };
    Bench {
        server,
        work,
        context,
        assignment,
        _runtime: runtime,
    }
}

fn expected() -> [Verdict; 3] {
    [Side::Second, Side::First, Side::Second].map(|side| Verdict::Preferred { side })
}

#[test]
fn a_server_that_fails_half_of_its_answers_costs_no_pair_and_one_that_is_away_no_attempt() {
    let mut bench = bench(None);
    let verdicts = bench.verdicts().unwrap();
    let sides: Vec<Verdict> = verdicts.into_iter().map(|record| record.verdict).collect();
    assert_eq!(sides, expected());
    assert_eq!(
        bench.server.calls.load(Ordering::SeqCst),
        12,
        "six answers and six failures"
    );

    bench.server.away.store(true, Ordering::SeqCst);
    let error = bench.verdicts().unwrap_err();
    assert!(
        matches!(&error, WorkError::Unavailable(reason) if reason.contains("503")),
        "{error:?}"
    );
    bench.server.away.store(false, Ordering::SeqCst);
    assert!(bench.verdicts().is_ok());
}

#[test]
fn a_servers_words_stay_with_the_judge_that_asked() {
    let mut bench = bench(None);
    for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::NOT_FOUND] {
        *bench.server.says.lock().unwrap() = Some((status, "admin of the intranet"));
        let (WorkError::Unavailable(told) | WorkError::Retry(told)) = bench.verdicts().unwrap_err() else {
            panic!("the server answers no question")
        };
        assert!(told.contains(status.as_str()) && !told.contains("intranet"), "{told}");
    }
}

#[test]
fn pairs_are_explained_and_a_server_that_writes_nothing_costs_no_verdict() {
    let mut bench = bench(Some(ReasonsSpec {
        fraction: 1.0,
        template: "configs/rubric/en/reason.toml".into(),
        ..ReasonsSpec::default()
    }));
    bench.server.steady.store(true, Ordering::SeqCst);
    let told = bench.verdicts().unwrap();
    for (record, verdict) in told.iter().zip(expected()) {
        assert_eq!(record.verdict, verdict);
        let reason = Reason {
            theme: Some("Rich".into()),
            verdict,
            probability_first: record.probability_first,
            sentence: Some("There is more to see.".into()),
        };
        assert_eq!(record.reasons, [reason]);
    }

    bench.server.mute.store(true, Ordering::SeqCst);
    let silent = bench.verdicts().unwrap();
    for (record, verdict) in silent.iter().zip(expected()) {
        assert_eq!(record.verdict, verdict);
        assert_eq!(record.reasons, []);
    }

    let labelled = Unit::CalibrateJudge { chunk: 0 };
    bench.server.mute.store(false, Ordering::SeqCst);
    let outcome = bench
        .work
        .perform(&labelled, &bench.assignment, &bench.context)
        .unwrap();
    let Outcome::Judged { verdicts, .. } = outcome else {
        panic!("a judge gives verdicts")
    };
    assert!(verdicts.iter().all(|record| record.reasons.is_empty()));
}

/// The answers to questions about a picture, and how many requests they took.
fn answers(bench: &mut Bench, assignment: &Assignment) -> Result<(Vec<PictureAnswer>, u64), WorkError> {
    let unit = Unit::AnswerQuestions {
        arm: Arm::Base,
        prompt_index: PromptIndex(3),
    };
    match bench.work.perform(&unit, assignment, &bench.context)? {
        Outcome::QuestionsAnswered { answers, spent, .. } => Ok((answers, spent.map_or(0, |spent| spent.requests))),
        outcome => panic!("questions are answered, not {outcome:?}"),
    }
}

#[test]
fn each_question_is_asked_once_and_what_a_server_does_not_answer_is_told_apart() {
    let mut bench = bench(None);
    bench.server.steady.store(true, Ordering::SeqCst);
    let questions = ["Say yes", "Say no", "Say yes", "Say something"];
    let assignment = Assignment::AnswerQuestions {
        prompt_index: PromptIndex(3),
        task: Task::new("a pattern"),
        image: png(&bench.context, 24),
        questions: questions.map(str::to_owned).to_vec(),
    };
    let (answered, requests) = answers(&mut bench, &assignment).unwrap();
    let (yes, no, neither) = (PictureAnswer::Yes, PictureAnswer::No, PictureAnswer::Neither);
    assert_eq!(answered, [yes.clone(), no, yes, neither]);
    assert_eq!((bench.server.calls.load(Ordering::SeqCst), requests), (3, 3));

    let mut told = |status| {
        *bench.server.says.lock().unwrap() = Some((status, "admin of the intranet"));
        answers(&mut bench, &assignment)
    };
    let away = told(StatusCode::SERVICE_UNAVAILABLE);
    assert!(matches!(away, Err(WorkError::Unavailable(_))), "{away:?}");
    let refused = told(StatusCode::UNAUTHORIZED);
    assert!(
        matches!(&refused, Err(WorkError::Retry(reason)) if reason.contains("401")),
        "{refused:?}"
    );
    let (answered, _) = told(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS).unwrap();
    assert_eq!(answered.len(), 4);
    for answer in answered {
        let PictureAnswer::Unanswered { reason } = answer else {
            panic!("{answer:?} is an answer")
        };
        assert!(reason.contains("451") && !reason.contains("intranet"), "{reason}");
    }
}
