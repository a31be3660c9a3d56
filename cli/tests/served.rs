//! What people do with a run that a coordinator serves: read it from anywhere, hold it, take it back, change how far it goes.
//!
//! The run is the one of `tests/compatibility`: four steps, of which two are committed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const RUN: &str = "compatibility";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn gavel(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.current_dir(root()).args(arguments).output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = gavel(arguments);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}\n{out}\n{err}");
    format!("{out}{err}")
}

fn fails(arguments: &[&str]) -> String {
    let output = gavel(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The run in a folder that the test may change.
fn run_folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    copy(&root().join("tests/compatibility/run"), &run);
    (folder, run)
}

/// A coordinator that ends with the test.
struct Coordinator {
    process: Child,
    address: String,
    http: String,
}

impl Coordinator {
    /// Serves the runs of a data folder.
    fn start(data: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
        command
            .args([
                "coordinator",
                "--grpc",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self {
            process,
            address: addresses["grpc"].as_str().unwrap().to_owned(),
            http: addresses["http"].as_str().unwrap().to_owned(),
        }
    }

    fn asked(&self, arguments: &[&str]) -> String {
        succeeds(&[arguments, &["--connect", &self.address]].concat())
    }

    /// The status line, the headers, and the body of a page.
    fn page(&self, path: &str) -> (String, Vec<u8>) {
        self.http("GET", path, "", "")
    }

    fn posts(&self, path: &str, body: &str) -> (String, String) {
        let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let (head, body) = self.http("POST", path, &headers, body);
        (head, String::from_utf8(body).unwrap())
    }

    fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> (String, Vec<u8>) {
        let address = self.http.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head.to_lowercase(), answer[end + 4..].to_vec())
    }

    /// A worker, which ends with its coordinator's test.
    fn worker(&self, role: &str) -> Worker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
        command.current_dir(root()).args([role, "--connect", &self.address]);
        Worker(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn refuses(&self, arguments: &[&str]) -> String {
        fails(&[arguments, &["--connect", &self.address]].concat())
    }
}

/// A process that ends with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn bytes(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_run_is_the_same_in_its_folder_in_its_stores_and_behind_its_coordinator() {
    let (folder, run) = run_folder();
    let state = run.join("state");
    let (ledger, blobs) = (state.join("ledger.sqlite"), state.join("blobs"));
    let stores = ["--ledger", text(&ledger), "--blobs", text(&blobs)];
    let stored = |arguments: &[&str]| succeeds(&[arguments, &stores].concat());
    let out = |name: &str| folder.path().join(name);

    let audited = stored(&["audit", RUN]);
    assert!(
        audited.contains("2 steps committed") && audited.contains("no findings"),
        "{audited}"
    );
    stored(&["export", RUN, "--step", "1", "--out", text(&out("stored"))]);
    assert!(stored(&["verify", RUN, "--part", "commit"]).contains("confirmed: the same bytes"));
    succeeds(&["export", text(&run), "--step", "1", "--out", text(&out("folder"))]);
    let expected = bytes(&out("folder"));
    assert_eq!(bytes(&out("stored")), expected);

    let coordinator = Coordinator::start(&state);
    // That it was taken over is an event more.
    let served = coordinator.asked(&["audit", RUN]);
    assert!(
        served.contains("2 steps committed") && served.contains("no findings"),
        "{served}"
    );
    coordinator.asked(&["export", RUN, "--step", "1", "--out", text(&out("served"))]);
    assert_eq!(bytes(&out("served")), expected);
    assert!(
        coordinator
            .asked(&["verify", RUN, "--part", "commit"])
            .contains("confirmed: the same bytes")
    );
    coordinator.asked(&["report", RUN, "--out", text(&out("report"))]);
    assert!(out("report").join("report.html").is_file());
    assert!(out("report").join("adapter/adapter_model.safetensors").is_file());
}

#[test]
fn a_run_goes_on_from_a_step_of_another_under_other_settings() {
    let (_folder, run) = run_folder();
    let coordinator = Coordinator::start(&run.join("state"));
    fn fork<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["fork", RUN, "--name", "fork", "--step", "1"], more].concat()
    }
    let told = coordinator.refuses(&fork(&["--set", "lora.rank=16"]));
    assert!(told.contains("lora.rank: must stay as it is"), "{told}");
    let told = coordinator.refuses(&["fork", RUN, "--name", "fork", "--step", "7"]);
    assert!(told.contains("no policy of step 7"), "{told}");
    let told = coordinator.refuses(&fork(&["--set", "run.name=compatibility"]));
    assert!(told.contains("exists with another"), "{told}");

    let told = coordinator.asked(&fork(&[
        "--set",
        "run.steps=9",
        "--set",
        "optimizer.learning_rate=1e-5",
    ]));
    assert!(told.contains("starts from step 1 of run compatibility"), "{told}");
    let status = coordinator.asked(&["status", "fork"]);
    assert!(
        status.contains("preparing") && status.contains("step 0 of 9"),
        "{status}"
    );
    assert!(coordinator.asked(&["audit", "fork"]).contains("no findings"));
}

#[test]
fn figures_and_adapters_are_served_as_files() {
    let (folder, run) = run_folder();
    let out = folder.path().join("out");
    succeeds(&["export", text(&run), "--step", "1", "--out", text(&out)]);
    let coordinator = Coordinator::start(&run.join("state"));
    let (head, body) = coordinator.page("/api/v1/runs/compatibility/adapter?step=1");
    assert!(head.starts_with("http/1.0 200"), "{head}");
    assert!(head.contains("filename=\"compatibility-step-1.safetensors\""), "{head}");
    assert!(body == bytes(&out), "{} bytes came", body.len());
    let (head, _) = coordinator.page("/api/v1/runs/compatibility/adapter?step=9");
    assert!(head.starts_with("http/1.0 404"), "{head}");

    let steps = |query: &str| {
        let (head, body) = coordinator.page(&format!("/api/v1/runs/compatibility/steps{query}"));
        assert!(head.starts_with("http/1.0 200"), "{head}");
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["step"], 2);
        let steps = answer["steps"].as_array().unwrap();
        steps
            .iter()
            .map(|step| step["step"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(""), [1, 2]);
    assert_eq!(steps("?since_step=1"), [2]);
    assert_eq!(steps("?limit=1"), [1]);
    assert!(steps("?since_step=2").is_empty());
}

#[test]
fn a_run_is_steered_over_http_by_whoever_can_send_json() {
    let (_folder, run) = run_folder();
    let coordinator = Coordinator::start(&run.join("state"));
    let at = |what: &str| format!("/api/v1/runs/compatibility/{what}");
    let (head, body) = coordinator.posts(&at("pause"), r#"{"reason": "lunch"}"#);
    assert!(
        head.starts_with("http/1.0 200") && body.contains("lunch"),
        "{head}\n{body}"
    );
    let (head, body) = coordinator.posts(&at("pause"), r#"{"reason": "lunch"}"#);
    assert!(head.starts_with("http/1.0 409"), "{head}");
    assert!(
        body.contains("the run is paused") && body.contains("gavel resume"),
        "{body}"
    );
    let (head, body) = coordinator.posts(&at("extend"), r#"{"steps": 8}"#);
    assert!(
        head.starts_with("http/1.0 200") && body.contains(r#""steps_total":8"#),
        "{head}\n{body}"
    );
    let (head, _) = coordinator.posts(&at("rollback"), r#"{"step": 1}"#);
    assert!(head.starts_with("http/1.0 200"), "{head}");
    let (head, _) = coordinator.posts(&at("resume"), "{}");
    assert!(head.starts_with("http/1.0 200"), "{head}");
    let (head, body) = coordinator.posts(&at("extend"), r#"{"step": 8}"#);
    assert!(
        head.starts_with("http/1.0 400") && body.contains("unknown field"),
        "{head}\n{body}"
    );
    // What a form of another site could send.
    let (head, _) = coordinator.http("POST", &at("cancel"), "Content-Length: 15\r\n", r#"{"reason": "x"}"#);
    assert!(head.starts_with("http/1.0 415"), "{head}");
    let (head, _) = coordinator.page(&at("cancel"));
    assert!(head.starts_with("http/1.0 405"), "{head}");
    let status = coordinator.asked(&["status", RUN]);
    assert!(
        status.contains("training") && status.contains("step 1 of 8"),
        "{status}"
    );
}

#[test]
fn a_damaged_history_is_audited_from_its_stores_like_from_its_folder() {
    let (_folder, run) = run_folder();
    let ledger = run.join("state/ledger.sqlite");
    let blobs = run.join("state/blobs");
    // The first audit seals a ledger of before there were checksums.
    succeeds(&["audit", text(&run)]);
    let mut bytes = std::fs::read(&ledger).unwrap();
    let lease = b"\"kind\":\"granted\"";
    let at = bytes.windows(lease.len()).rposition(|window| window == lease).unwrap();
    bytes[at + 8..at + 15].copy_from_slice(b"gramted");
    std::fs::write(&ledger, bytes).unwrap();
    let findings = |arguments: &[&str]| {
        let output = gavel(arguments);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = findings(&["audit", text(&run)]);
    assert!(expected.contains("cannot be read"), "{expected}");
    let stored = findings(&["audit", RUN, "--ledger", text(&ledger), "--blobs", text(&blobs)]);
    assert!(stored.contains("cannot be read"), "{stored}");
}

#[test]
fn a_run_that_is_nowhere_is_told_with_where_it_was_looked_for() {
    let folder = TempDir::new().unwrap();
    let nothing = folder.path().join("nothing.sqlite");
    let told = fails(&["audit", RUN, "--ledger", text(&nothing), "--blobs", text(folder.path())]);
    assert!(told.contains("nothing.sqlite is not there"), "{told}");
    assert!(!nothing.exists(), "whoever looks makes nothing");
    let coordinator = Coordinator::start(folder.path());
    let told = coordinator.refuses(&["audit", RUN]);
    assert!(told.contains("no run `compatibility`"), "{told}");
    let told = coordinator.refuses(&["report", RUN]);
    assert!(told.contains("no run `compatibility`"), "{told}");
}

#[test]
fn a_run_is_held_taken_back_and_given_other_steps() {
    let (_folder, run) = run_folder();
    let state = run.join("state");
    {
        let coordinator = Coordinator::start(&state);
        let status = || coordinator.asked(&["status", RUN]);
        coordinator.asked(&["pause", RUN, "--reason", "lunch"]);
        assert!(status().contains("paused (lunch)"), "{}", status());
        assert!(coordinator.refuses(&["pause", RUN]).contains("the run is paused"));
        coordinator.asked(&["resume", RUN]);
        assert!(status().contains("training"), "{}", status());

        let told = coordinator.refuses(&["extend", RUN, "--steps", "1"]);
        assert!(told.contains("less than the 2 steps that are committed"), "{told}");
        coordinator.asked(&["extend", RUN, "--steps", "8"]);
        assert!(status().contains("step 2 of 8"), "{}", status());

        let told = coordinator.refuses(&["rollback", RUN, "--step", "2"]);
        assert!(told.contains("there is none after it to take back"), "{told}");
        coordinator.asked(&["rollback", RUN, "--step", "1"]);
        assert!(
            status().contains("paused (taken back to step 1, from 2)"),
            "{}",
            status()
        );
        coordinator.asked(&["cancel", RUN]);
    }
    // It is all in the ledger, whose state the next coordinator finds.
    let coordinator = Coordinator::start(&state);
    let status = coordinator.asked(&["status", RUN]);
    assert!(
        status.contains("stopped (cancelled)") && status.contains("step 1 of 8"),
        "{status}"
    );
    let audited = coordinator.asked(&["audit", RUN]);
    assert!(
        audited.contains("1 steps committed") && audited.contains("no findings"),
        "{audited}"
    );
}

/// A judge's server that prefers the first picture, answers a question by its length, and counts the questions that it is asked.
struct Server {
    endpoint: String,
    questions: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let questions = Arc::new(AtomicUsize::new(0));
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .with_state(Arc::clone(&questions));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            endpoint: format!("http://{address}/v1"),
            questions,
            _runtime: runtime,
        }
    }

    fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

async fn answer(
    State(questions): State<Arc<AtomicUsize>>,
    Json(request): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    let asked = request["messages"].to_string();
    let text = match asked.contains("yes or no") {
        true => {
            questions.fetch_add(1, Ordering::SeqCst);
            match asked.len() % 3 {
                0 => "yes",
                1 => "No.",
                _ => "Perhaps.",
            }
        }
        false => "{\"reason\": \"it is\", \"rank\": [1, 2]}",
    };
    // One that it does not want to look at.
    if asked.contains("Is it forbidden?") {
        return Err(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS);
    }
    Ok(Json(
        json!({ "choices": [{ "message": { "content": text }, "finish_reason": "stop" }] }),
    ))
}

/// The small run's configuration, in a folder of the test's, with a server for its judge.
fn config_with_server(folder: &Path, server: &Server) -> PathBuf {
    let text = std::fs::read_to_string(root().join("tests/compatibility/small.toml")).unwrap();
    let (before, rest) = text.split_once("[judge]").unwrap();
    let (_, after) = rest.split_once("[trainer]").unwrap();
    let judge = format!(
        "[judge]\nfamily = \"openai\"\nendpoint = \"{}\"\nmodel = \"vlm\"\nattempts = 1\nbatch = 2\n\
         template = \"../../configs/judge/ranking.toml\"\nrubric = \"../../configs/quickstart/rubric.toml\"\n\n",
        server.endpoint
    );
    let config = folder.join("config.toml");
    let text = format!("{before}{judge}[trainer]{after}");
    std::fs::write(&config, text.replace("../../", &format!("{}/", text_of(&root())))).unwrap();
    config
}

fn text_of(path: &Path) -> String {
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn the_same_question_about_the_same_picture_is_asked_once_over_all_runs() {
    let (folder, run) = run_folder();
    let server = Server::start();
    let config = config_with_server(folder.path(), &server);
    let prompts = folder.path().join("prompts.jsonl");
    let asked = r#"["Is there a square?", "Is it pink?", "Is there a square?", "Is it forbidden?", "Is it so?", "Is it thus?"]"#;
    let lines = [
        "a purple square on a pink background",
        "a blue square on a white background",
    ]
    .map(|prompt| format!("{{\"prompt\": \"{prompt}\", \"questions\": {asked}}}"));
    std::fs::write(&prompts, lines.join("\n")).unwrap();
    let evaluate = |out: &str| {
        let subjects = ["base".to_owned()].into_iter();
        let subjects = subjects.chain([1, 2].map(|step| format!("step-{step}={}@{step}", text(&run))));
        let mut words = ["evaluate", text(&config), "--prompts", text(&prompts), "--out"]
            .map(str::to_owned)
            .to_vec();
        words.push(text(&folder.path().join(out)).to_owned());
        words.extend(subjects.flat_map(|subject| ["--subject".to_owned(), subject]));
        words
    };
    fn words(owned: &[String]) -> Vec<&str> {
        owned.iter().map(String::as_str).collect()
    }
    let found = |out: &str| std::fs::read_to_string(folder.path().join(out).join("evaluation.json")).unwrap();
    let coordinator = Coordinator::start(&folder.path().join("data"));
    // One judge: two that come to the base's picture in the same moment may both ask about it.
    let _workers = ["sampler", "judge", "trainer"].map(|role| coordinator.worker(role));
    coordinator.asked(&words(&evaluate("fleet")));
    let by_fleet = server.questions();
    succeeds(&words(&evaluate("alone")));
    // What the server refuses is no answer, which nobody keeps: both runs ask it about the base, and so does the process afterwards.
    let (pictures, prompts) = (6, 2);
    let (kept, refused) = (4 * pictures, pictures + prompts + pictures);
    assert_eq!(
        by_fleet,
        kept + refused,
        "each question about each picture, and the base's only once"
    );
    assert_eq!(found("alone"), found("fleet"));
    let report: Value = serde_json::from_str(&found("fleet")).unwrap();
    let answers = &report["prompts"][0]["pictures"][0]["questions"];
    assert!(answers[3]["unanswered"].as_str().unwrap().contains("451"), "{answers}");
    assert_eq!(answers[0]["yes"], answers[2]["yes"]);
}

#[test]
fn a_fleet_evaluates_adapters_to_the_bytes_of_one_process() {
    let (folder, run) = run_folder();
    let step = |number: u32| format!("step-{number}={}@{number}", text(&run));
    let steps = [step(1), step(2)];
    let prompts = folder.path().join("prompts.jsonl");
    let lines = [
        r#"{"prompt": "a purple square left of a yellow triangle on a pink background", "questions": ["Is there a square?", "Is the ground pink?"]}"#,
        r#"{"prompt": "a blue square left of a red triangle on a white background"}"#,
        r#"{"prompt": "a green square left of a red triangle on a white background", "questions": ["Is the square green?"]}"#,
    ];
    std::fs::write(&prompts, lines.join("\n")).unwrap();
    let evaluate = |out: &str, order: [&str; 3]| {
        let subjects = order.iter().flat_map(|subject| ["--subject", subject]);
        let words = ["evaluate", "tests/compatibility/small.toml", "--fulfilment"]
            .into_iter()
            .chain(["--prompts", text(&prompts)])
            .chain(subjects);
        let words: Vec<String> = words.map(str::to_owned).collect();
        [
            words,
            vec!["--out".to_owned(), text(&folder.path().join(out)).to_owned()],
        ]
        .concat()
    };
    fn words(owned: &[String]) -> Vec<&str> {
        owned.iter().map(String::as_str).collect()
    }
    let coordinator = Coordinator::start(&folder.path().join("data"));
    let late = coordinator.refuses(&words(&evaluate("fleet", [&steps[0], "base", &steps[1]])));
    assert!(late.contains("name the base first"), "{late}");
    let bare = coordinator.refuses(&[
        "evaluate",
        "tests/compatibility/small.toml",
        "--subject",
        "base",
        "--out",
        "none",
    ]);
    assert!(bare.contains("no subject is an adapter"), "{bare}");

    let order = ["base", &steps[0], &steps[1]];
    let workers = ["sampler", "judge", "judge", "trainer"].map(|role| coordinator.worker(role));
    coordinator.asked(&words(&evaluate("fleet", order)));
    let runs = coordinator.asked(&["status"]);
    assert_eq!(runs.matches("evaluation-").count(), 2, "{runs}");
    // Two pictures of each of three prompts: two questions of every prompt, and three that prompts bring.
    assert_eq!(
        runs.matches("questions about pictures: 18 of 18 asked").count(),
        2,
        "{runs}"
    );
    let found = |out: &str| std::fs::read_to_string(folder.path().join(out).join("evaluation.json")).unwrap();
    let by_fleet = found("fleet");
    assert_eq!(
        by_fleet.matches("\"question\": \"Is there a square?\"").count(),
        3,
        "of three subjects"
    );
    // Nobody works any more: what is asked for a second time is there.
    drop(workers);
    coordinator.asked(&words(&evaluate("fleet", order)));
    assert_eq!(found("fleet"), by_fleet);
    succeeds(&words(&evaluate("alone", order)));
    assert_eq!(found("alone"), by_fleet);
}
