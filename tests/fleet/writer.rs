//! Rubrics of single prompts that another model writes, and that are written once for all runs of a coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use gavel_core::ids::Digest;
use gavel_core::run::{Phase, Run};
use gavel_core::work::PromptPlace;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::{ONE_OF_EACH, Shape, adapter_digest, copy, finish, ledger, ledger_of, look_back, root, short_run};

fn written(run: &Run) -> BTreeMap<PromptPlace, Option<Digest>> {
    run.written_rubrics().collect()
}

#[test]
fn another_model_writes_from_what_is_near_in_meaning_the_same_on_any_fleet() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("another-model");
    copy(&root().join("models/tiny-judge"), &model);
    // A folder with another file has another fingerprint.
    std::fs::write(model.join("note.json"), "{}").expect("a note");
    let writer = format!(
        "judge.writer={{ template = \"configs/rubric/small/write.toml\", nearest = 1, max_tokens = 400, family = \"auto\", \
         path = \"{}\", dtype = \"f32\", embedding = {{ path = \"models/tiny-flux\" }} }}",
        model.display()
    );
    let run = |name: &str, shape| {
        let out = folder.path().join(name);
        let mut command = short_run("quickstart", &out, shape);
        command.args(["--set", "run.steps=2", "--set", &writer]);
        finish(command);
        out
    };
    let out = run("one", ONE_OF_EACH);
    let shape = Shape {
        judges: 3,
        ..ONE_OF_EACH
    };
    let many = run("many", shape);
    assert_eq!(adapter_digest(&many), adapter_digest(&out));
    let (one, other) = (ledger(&out), ledger(&many));
    assert_eq!(written(&one), written(&other));
    assert!(written(&one).values().any(Option::is_some));
    let models = one.assets().models;
    assert!(models.writer.is_some() && models.writer != models.judge, "{models:?}");
    for command in [&["audit"][..], &["verify", "--step=2", "--part=judge"]] {
        let (code, text) = look_back(command, &out);
        assert_eq!(code, Some(0), "{text}");
    }
    let taken = folder.path().join("taken.toml");
    let mut export = gavel(&["rubric", "export"]);
    export.arg(&out).arg("--out").arg(&taken);
    finish(export);
    let mut show = gavel(&["rubric", "show", "--json"]);
    let shown = show.arg(&taken).output().expect("the program");
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("a rubric");
    let of_prompts = shown["prompts"].as_array().expect("sets").iter();
    let exported: BTreeSet<&str> = of_prompts.map(|set| set["sha256"].as_str().expect("a hash")).collect();
    let of_run: BTreeSet<String> = written(&one).values().flatten().map(Digest::to_string).collect();
    assert_eq!(exported, of_run.iter().map(String::as_str).collect());
    let log = std::fs::read_to_string(out.join("logs/judge-0.log")).expect("the judge's log");
    assert!(log.contains("CLIP text encoder of"), "{log}");
}

/// A server that writes the same criterion for every prompt, and counts how often it is asked.
struct Server {
    endpoint: String,
    asked: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let asked = Arc::new(AtomicUsize::new(0));
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .with_state(Arc::clone(&asked));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("its address");
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            endpoint: format!("http://{address}/v1"),
            asked,
            _runtime: runtime,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A prompt that speaks of red has nothing that it could be judged by.
async fn answer(State(asked): State<Arc<AtomicUsize>>, Json(request): Json<Value>) -> Json<Value> {
    asked.fetch_add(1, Ordering::SeqCst);
    let text = match request["messages"].to_string().contains("a red") {
        true => "I cannot say.",
        false => "{\"criteria\": [\"The image has nothing extra.\"]}",
    };
    Json(json!({ "choices": [{ "message": { "content": text }, "finish_reason": "stop" }] }))
}

/// A coordinator and one worker of each role, as processes that live as long as this.
struct Processes {
    address: String,
    children: Vec<Child>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already is no failure.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Processes {
    fn start(data: &Path) -> Self {
        let mut coordinator = gavel(&[
            "coordinator",
            "--grpc",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--data",
        ]);
        let mut coordinator = coordinator
            .arg(data)
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a coordinator");
        let mut line = String::new();
        let stdout = coordinator.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let addresses: Value = serde_json::from_str(&line).expect("its addresses");
        let address = addresses["grpc"].as_str().expect("an address").to_owned();
        let mut processes = Self {
            address,
            children: vec![coordinator],
        };
        for role in ["sampler", "judge", "trainer"] {
            let mut worker = gavel(&[role, "--connect", &processes.address]);
            let worker = worker
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            processes.children.push(worker.expect("a worker"));
        }
        processes
    }

    /// Hands a run in and follows it to its end.
    fn run(&self, name: &str, settings: &[&str]) {
        let name_of_run = format!("run.name={name}");
        let mut submit = gavel(&["submit", "configs/quickstart.toml", "--connect", &self.address]);
        submit.args(["--set", &name_of_run]);
        for setting in settings {
            submit.args(["--set", setting]);
        }
        finish(submit);
        finish(gavel(&["watch", name, "--connect", &self.address]));
    }
}

fn gavel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.current_dir(root()).args(arguments);
    command
}

/// A run writes its prompts' rubrics before they are judged by; another run of the same prompts, of another seed, finds them.
#[test]
fn what_one_run_has_written_another_run_of_the_coordinator_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let server = Server::start();
    let writer = format!(
        "judge.writer={{ template = \"configs/rubric/en/write.toml\", family = \"openai\", endpoint = \"{}\", model = \"scribe\" }}",
        server.endpoint
    );
    let settings = [
        "run.steps=1",
        "prompts.per_step=8",
        "evaluation.prompts=4",
        "evaluation.batch=2",
        &writer,
    ];
    let processes = Processes::start(&out.join("state"));
    processes.run("first", &settings);
    let asked = server.asked();
    processes.run("second", &settings);
    assert_eq!(server.asked(), asked, "nobody is asked for what is kept");
    processes.run("other-seed", &[&settings[..], &["run.seed=7"]].concat());
    let by_other_seed = server.asked() - asked;
    processes.run("unkept", &[&settings[..], &["judge.cache=false"]].concat());
    assert_eq!(server.asked() - asked - by_other_seed, asked, "this run looks nowhere");
    drop(processes);

    let [first, second, other_seed, unkept] =
        ["first", "second", "other-seed", "unkept"].map(|name| ledger_of(name, &out));
    assert_eq!(first.phase(), Phase::Finished);
    let of_first = written(&first);
    assert_eq!(of_first, written(&second));
    assert_eq!(of_first, written(&unkept));
    assert!(
        of_first.values().any(Option::is_some) && of_first.values().any(Option::is_none),
        "{of_first:?}"
    );
    // Another seed draws other prompts for its steps; held-out and labelled ones are the same. An answer without a criterion is asked for
    // twice.
    let is_new = |place: &&PromptPlace| !of_first.contains_key(place);
    let of_other = written(&other_seed);
    let new = of_other.keys().filter(is_new).count();
    assert!(new > 0 && new < of_other.len(), "{of_other:?}");
    for (asked, prompts) in [(asked, of_first.len()), (by_other_seed, new)] {
        assert!(
            (prompts..=2 * prompts).contains(&asked),
            "{asked} for {prompts} prompts"
        );
    }
    // What was spent is what this run has asked for.
    assert_eq!(second.spent().requests, 0);
    assert!(first.spent().requests > 0);
}
