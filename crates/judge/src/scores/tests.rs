//! Verdicts of scores, and servers that give them or do not.

use std::net::SocketAddr;
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
use gavel_core::ids::PromptIndex;
use gavel_core::spec::{ClipSpec, EvaluatorName, EvaluatorSpec, JudgeSpec, ScorerSpec};
use gavel_models::clip::Clip;
use gavel_models::load::Placement;
use gavel_rubric::RubricSet;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use super::server::ScoreServer;
use super::*;
use crate::open::{BackEnd as _, Models, OpenOptions, Templates};
use crate::openai::{Client, Proxies};

const FIRST: Verdict = Verdict::Preferred { side: Side::First };
const SECOND: Verdict = Verdict::Preferred { side: Side::Second };
const TOO_CLOSE: Verdict = Verdict::Abstain {
    reason: AbstainReason::TooClose,
};

#[test]
fn a_verdict_is_the_logistic_of_two_scores() {
    let (verdict, probability) = decide([3.0, 1.0], 2.0, 0.0).unwrap();
    assert_eq!(verdict, FIRST);
    assert!((probability - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-15);
    assert_eq!(decide([1.0, 1.0], 1.0, 0.0).unwrap(), (TOO_CLOSE, 0.5));
    assert_eq!(decide([1.0, 1.1], 1.0, 0.1).unwrap().0, TOO_CLOSE);
    assert_eq!(decide([1.0, 1.1], 0.1, 0.1).unwrap().0, SECOND);
    assert_eq!(decide([1e12, -1e12], 1e-3, 0.4).unwrap(), (FIRST, 1.0));
    // What the probability does not show is not decided: nobody could check it afterwards.
    assert_eq!(decide([1e-300, 0.0], 1.0, 0.0).unwrap(), (TOO_CLOSE, 0.5));
}

#[test]
fn what_is_no_number_is_no_score() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        assert!(decide([bad, 0.0], 1.0, 0.0).unwrap_err().contains("picture 1"));
        assert!(decide([0.0, bad], 1.0, 0.0).unwrap_err().contains("picture 2"));
    }
}

/// Over scores, temperatures and margins of many sizes, drawn without a library by a sequence that fills the interval evenly.
#[test]
fn swapped_scores_mirror_the_verdict_and_the_record_supports_it() {
    let mut turn = 0.5;
    let mut draw = move || {
        turn = (turn + 0.618_033_988_749_895) % 1.0;
        turn
    };
    let mut decided = 0;
    for _ in 0..4_000 {
        let scores = [draw() * 8.0 - 4.0, draw() * 8.0 - 4.0];
        let temperature = 10.0_f64.powf(draw() * 6.0 - 3.0);
        let margin = draw() * 0.499;
        let (verdict, probability) = decide(scores, temperature, margin).unwrap();
        let (mirrored, swapped) = decide([scores[1], scores[0]], temperature, margin).unwrap();
        assert_eq!(probability, 1.0 - swapped, "{scores:?}");
        match (&verdict, &mirrored) {
            (Verdict::Preferred { side: one }, Verdict::Preferred { side: other }) => {
                assert_ne!(one, other);
                assert_eq!(*one == Side::First, scores[0] > scores[1]);
                assert_eq!(*one == Side::First, probability > 0.5);
                assert!((probability - 0.5).abs() >= margin);
                decided += 1;
            }
            (one, other) => {
                assert_eq!(one, other);
                assert!((probability - 0.5).abs() < margin || probability == 0.5);
            }
        }
    }
    assert!((1_000..3_900).contains(&decided), "both kinds are drawn: {decided}");
}

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
        })
        .collect();
    judge.judge(&pairs)
}

fn failed(record: &VerdictRecord) -> &str {
    match &record.verdict {
        Verdict::Failed { reason } => reason,
        verdict => panic!("no failure: {verdict:?}"),
    }
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
    assert!(matches!(error, AskError::Unanswerable { .. }), "{error:?}");

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

/// The judge of `evaluator`, without a margin.
fn rules(evaluator: EvaluatorName) -> Box<dyn Judge> {
    let template = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/judge/small.toml");
    let template = gavel_rubric::JudgeTemplate::load(&template).unwrap();
    let options = OpenOptions {
        template: &template,
        templates: &Templates::one(template.clone()),
        margin: 0.0,
    };
    let spec = EvaluatorSpec {
        evaluator,
        ..EvaluatorSpec::default()
    };
    spec.judge(&options, &mut Models::default()).unwrap()
}

/// A red square of 24 pixels on white.
fn red_square() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        let is_inside = (20..44).contains(&x) && (20..44).contains(&y);
        Rgb(if is_inside { [220, 40, 40] } else { [255, 255, 255] })
    })
}

#[test]
fn an_evaluators_rules_prefer_the_picture_for_which_more_of_the_task_holds() {
    let (right, empty) = (red_square(), RgbImage::from_pixel(64, 64, Rgb([255; 3])));
    let rubric = RubricSet::from_text("Right.").unwrap();
    let pair = |prompt, first, second| JudgedPair {
        prompt_index: PromptIndex(5),
        prompt,
        sources: &[],
        first,
        second,
        rubric: &rubric,
    };
    let judge = rules(EvaluatorName::Scenes);
    let prompt = "a red square on a white background";
    let small = RgbImage::new(32, 64);
    let pairs = [
        pair(prompt, &right, &empty),
        pair(prompt, &empty, &right),
        pair(prompt, &right, &right),
        pair("a cat", &right, &empty),
        pair(prompt, &right, &small),
    ];
    let records = judge.judge(&pairs).unwrap();
    // Of the four facts background, colour, shape and no other colour an empty picture has two.
    let expected = 1.0 / (1.0 + (-0.5_f64).exp());
    assert_eq!(records[0].verdict, FIRST);
    assert!(
        (records[0].probability_first - expected).abs() < 1e-12,
        "{:?}",
        records[0]
    );
    assert_eq!(records[1].verdict, SECOND);
    assert_eq!(records[2].verdict, TOO_CLOSE);
    assert!(failed(&records[3]).contains("is not a scene"));
    assert!(failed(&records[4]).contains("32x64"));
    assert_eq!(records[4].prompt_index, PromptIndex(5));
}

#[test]
fn an_edit_is_scored_by_what_was_done_times_what_was_kept() {
    let source = red_square();
    let blue = |level: u8| {
        let mut edited = source.clone();
        for (_, _, pixel) in edited.enumerate_pixels_mut() {
            *pixel = match *pixel == Rgb([220, 40, 40]) {
                true => Rgb([40, 80, 220]),
                false => Rgb([level; 3]),
            };
        }
        edited
    };
    let (kept, greyed) = (blue(255), blue(225));
    let rubric = RubricSet::from_text("Right.").unwrap();
    let pair = |first, second| JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: "make the red square blue",
        sources: std::slice::from_ref(&source),
        first,
        second,
        rubric: &rubric,
    };
    let records = rules(EvaluatorName::Edits)
        .judge(&[pair(&kept, &greyed), pair(&source, &kept)])
        .unwrap();
    assert_eq!(
        records[0].verdict, FIRST,
        "both are blue, one left the rest alone: {records:?}"
    );
    assert_eq!(records[1].verdict, SECOND, "an edit that changes nothing: {records:?}");
}

/// The server that people copy, where there is a Python to run it.
#[test]
fn the_example_server_is_understood() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let started = std::process::Command::new("python3")
        .args(["examples/scorer/serve.py", "--port", "0"])
        .current_dir(root)
        .env("SCORER_KEY", "sk-secret")
        .stdout(std::process::Stdio::piped())
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
    };
    let judged = judge(Some("sk-secret")).judge(&[pair]);
    let refused = judge(Some("sk-another")).judge(&[pair]);
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(judged.unwrap()[0].verdict, SECOND, "it prefers the plainer picture");
    assert!(matches!(refused, Err(AskError::Unanswerable { .. })), "{refused:?}");
}

#[test]
fn a_clip_prefers_the_picture_that_fits_the_words_better_and_swapped_pictures_mirror_it() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/clip/quick-gelu");
    let spec = |temperature| JudgeSpec {
        margin: 0.05,
        back_end: ClipSpec {
            path: folder.clone(),
            temperature,
            ..ClipSpec::default()
        }
        .into(),
        ..JudgeSpec::default()
    };
    let template = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/judge/small.toml");
    let templates = Templates::one(gavel_rubric::JudgeTemplate::load(&template).unwrap());
    let mut models = Models::default();
    let judge = models.open(&spec(1.0), &templates).unwrap();
    let patient = models.open(&spec(1e6), &templates).unwrap();
    assert_ne!(judge.identity(), patient.identity());
    let (light, dark, line) = (
        RgbImage::from_pixel(30, 24, Rgb([230, 210, 40])),
        red_square(),
        RgbImage::new(1, 400),
    );
    let rubric = RubricSet::from_text("Right.").unwrap();
    let pair = |first, second| JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: "a yellow circle",
        sources: &[],
        first,
        second,
        rubric: &rubric,
    };
    let pairs = [
        pair(&light, &dark),
        pair(&dark, &light),
        pair(&dark, &dark),
        pair(&dark, &line),
    ];
    let records = judge.judge(&pairs).unwrap();
    let sides = [&records[0].verdict, &records[1].verdict];
    assert!(
        sides == [&FIRST, &SECOND] || sides == [&SECOND, &FIRST],
        "swapped: {records:?}"
    );
    assert_eq!(records[0].probability_first, 1.0 - records[1].probability_first);
    assert_eq!(records[2].verdict, TOO_CLOSE);
    assert!(failed(&records[3]).contains("elongated"), "{records:?}");
    assert_eq!(patient.judge(&pairs[..1]).unwrap()[0].verdict, TOO_CLOSE);
    let clip = Clip::load(&folder, &Placement::cpu()).unwrap();
    let logits = clip.logits("a yellow circle", &[&light, &dark]).unwrap();
    assert_eq!(
        decide([logits[0], logits[1]], 1.0, 0.05).unwrap().1,
        records[0].probability_first
    );
    assert!(models.open_chat(&spec(1.0).back_end).is_err(), "it does not write");
}
