//! What callers see over gRPC and HTTP: fences, versions, health, reflection, status pages, and clear refusals.

use std::net::SocketAddr;
use std::time::Duration;

use gavel_client::{Code, ConnectOptions, Connection, Identity, Introduction, Lease, LeaseAnswer};
use gavel_coordinator::{CoordinatorOptions, Error, Listeners};
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Digest, PromptIndex, RunId};
use gavel_core::run::RunStatus;
use gavel_core::work::{KeptRubric, LeaseKey, Outcome, Policy, Role, Side, Verdict, VerdictRecord};
use gavel_proto::v1;
use gavel_proto::v1::runs_client::RunsClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{self, RUN, Rehearsal, Served, Working, assets, options, picture, spec, whole_fleet};

async fn connection(coordinator: &Served) -> Connection {
    let address = coordinator.handle.grpc_address().to_string();
    let options = ConnectOptions::new(&address).expect("an address");
    Connection::open(&options).await.expect("a coordinator")
}

fn introduction() -> Introduction {
    Introduction {
        host: "here".into(),
        device: "cpu".into(),
        shares: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_fence_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let fleet = connection(&coordinator).await.fleet();
    let worker = Identity::random(Role::Trainer);
    fleet.register(&worker, &introduction()).await.expect("registered");
    let lease = async || -> Lease {
        match fleet.lease(&worker, Duration::from_secs(10)).await.expect("an answer") {
            LeaseAnswer::Leased(lease) => *lease,
            nothing => panic!("no work: {nothing:?}"),
        }
    };
    let stale = lease().await.key;
    let released = fleet.release(&worker, std::slice::from_ref(&stale), None).await;
    released.expect("given back");
    let latest = lease().await.key;
    assert_eq!(latest.unit, stale.unit);
    assert!(latest.fence > stale.fence);

    let digest = |text: &str| Digest::of(text.as_bytes());
    let complete = async |key: &LeaseKey, adapter| {
        let policy = Policy {
            adapter: digest(adapter),
            optimizer: digest("optimizer"),
            averaged: Some(digest("average")),
            manifest: digest("manifest"),
            tensors: 2,
        };
        let model = digest("transformer");
        fleet
            .complete(&worker, key, Outcome::Initialised { policy, model })
            .await
    };
    let run = RunId(RUN.into());
    let before = coordinator
        .handle
        .driver()
        .inspect(&run, |run| run.results().clone())
        .await
        .expect("the run");
    let refused = complete(&stale, "stale").await.expect_err("a stale fence");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let after = coordinator
        .handle
        .driver()
        .inspect(&run, |run| run.results().clone())
        .await
        .expect("the run");
    assert_eq!(before, after);

    let repeated = complete(&latest, "latest").await.expect("accepted");
    assert!(!repeated);
    let repeated = complete(&latest, "latest").await.expect("harmless");
    assert!(repeated);
    let adapter = coordinator
        .until(|status| status.policy.is_some())
        .await
        .policy
        .expect("a policy")
        .adapter;
    assert_eq!(adapter, Digest::of(b"latest"));
    let heartbeat = fleet.heartbeat(&worker, std::slice::from_ref(&stale), None).await;
    assert_eq!(heartbeat.expect("known").lost, vec![stale]);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_registered_gets_no_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let fleet = connection(&coordinator).await.fleet();
    // A refusal does not wait: only a coordinator that would let the stranger queue takes this long.
    let refused = fleet
        .lease(&Identity::random(Role::Judge), Duration::from_secs(60))
        .await;
    assert_eq!(refused.expect_err("not registered").code(), Code::NotFound);
    coordinator.stop().await;
}

/// A false verdict would be believed by every later run that asks the same question.
#[tokio::test(flavor = "multi_thread")]
async fn verdicts_are_kept_by_registered_judges_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let fleet = connection(&coordinator).await.fleet();
    let [stranger, trainer, judge] = [Role::Judge, Role::Trainer, Role::Judge].map(Identity::random);
    for worker in [&trainer, &judge] {
        fleet.register(worker, &introduction()).await.expect("registered");
    }
    let key = Digest::of(b"a question");
    let record = VerdictRecord {
        verdict: Verdict::Preferred { side: Side::First },
        ..VerdictRecord::failed(PromptIndex(0), String::new(), Digest::of(b"a rubric"))
    };
    let keep = async |worker: &Identity| fleet.keep_verdicts(worker, &[(key, record.clone())]).await;
    assert_eq!(keep(&stranger).await.expect_err("a stranger").code(), Code::NotFound);
    assert_eq!(
        keep(&trainer).await.expect_err("no judge").code(),
        Code::PermissionDenied
    );
    let recalled = fleet.recall_verdicts(&judge, &[key]).await;
    assert_eq!(recalled.expect("an answer"), []);
    keep(&judge).await.expect("kept");
    let recalled = fleet.recall_verdicts(&judge, &[key]).await;
    assert_eq!(recalled.expect("an answer"), [(key, record.clone())]);
    let refused = fleet.recall_verdicts(&trainer, &[key]).await;
    assert_eq!(refused.expect_err("no judge").code(), Code::PermissionDenied);

    // What was written for prompts is kept in the same way, and neither passes for the other.
    let prompt = Digest::of(b"a prompt");
    let written = KeptRubric::Written {
        text: "- It is red.".into(),
    };
    let keep = async |worker: &Identity, key, rubric: &KeptRubric| fleet.keep_rubric(worker, &key, rubric).await;
    let refused = keep(&trainer, prompt, &written).await.expect_err("no judge");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(fleet.recall_rubric(&judge, &prompt).await.expect("an answer"), None);
    keep(&judge, prompt, &written).await.expect("kept");
    keep(&judge, prompt, &KeptRubric::Worse).await.expect("the first stays");
    let recalled = fleet.recall_rubric(&judge, &prompt).await;
    assert_eq!(recalled.expect("an answer"), Some(written));
    assert_eq!(fleet.recall_rubric(&judge, &key).await.expect("an answer"), None);
    let recalled = fleet.recall_verdicts(&judge, &[prompt, key]).await;
    assert_eq!(recalled.expect("an answer"), [(key, record)]);
    let long = KeptRubric::Written {
        text: "x".repeat(200_000),
    };
    let refused = keep(&judge, Digest::of(b"another prompt"), &long).await;
    assert_eq!(refused.expect_err("too long").code(), Code::InvalidArgument);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submitting_is_idempotent_and_a_differing_or_broken_spec_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let runs = connection(&coordinator).await.runs();
    let submit =
        async |spec: &gavel_core::spec::RunSpec, name: &str| runs.submit(&RunId(name.into()), spec, &assets()).await;
    let first = submit(&spec(), RUN).await.expect("new");
    assert!(!first.existed);
    assert!(submit(&spec(), RUN).await.expect("the same").existed);
    let mut other = spec();
    other.run.seed += 1;
    let refused = submit(&other, RUN).await.expect_err("differs");
    assert_eq!(refused.code(), Code::AlreadyExists);
    let mut elsewhere = spec();
    elsewhere.model.path = "elsewhere".into();
    let same = submit(&elsewhere, RUN).await;
    assert!(same.expect("the same, with its files elsewhere").existed);
    let mut other_files = assets();
    other_files.template += "changed";
    let refused = runs.submit(&RunId(RUN.into()), &spec(), &other_files).await;
    let refused = refused.expect_err("other files");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused.message().contains("other contents of judge.template"),
        "{refused}"
    );
    let mut broken = spec();
    broken.objective.clip_range = -1.0;
    let refused = submit(&broken, "broken").await.expect_err("not valid");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("objective.clip_range"), "{refused}");
    let refused = submit(&spec(), "../elsewhere").await.expect_err("no name");
    assert_eq!(refused.code(), Code::InvalidArgument);

    let given = runs.spec(&RunId(RUN.into())).await.expect("the run");
    assert_eq!(given.digest, first.spec);
    assert_eq!(given.spec, spec());
    assert_eq!(runs.list().await.expect("a list").len(), 1);
    let unknown = runs.status(&RunId("nothing".into())).await;
    assert_eq!(unknown.expect_err("no such run").code(), Code::NotFound);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_shows_the_run_from_its_present_state_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let runs = connection(&coordinator).await.runs();
    let mut states = runs.watch(&RunId(RUN.into())).await.expect("the run");
    let first = states.next().await.expect("a stream");
    assert_eq!(first.expect("the present state").step.0, 0);
    let mut raw = RunsClient::connect(format!("http://{}", coordinator.handle.grpc_address()))
        .await
        .expect("a coordinator");
    let request = v1::GetRunRequest { run_id: RUN.into() };
    let mut messages = raw.watch(request).await.expect("the run").into_inner();
    let workers = whole_fleet(coordinator.handle.grpc_address());
    let mut last = None;
    while let Some(status) = states.next().await.expect("a stream") {
        last = Some(status);
    }
    let last = last.expect("changes");
    assert_eq!((last.phase.is_ended(), last.step.0), (true, 3));
    let numbers = |status: &RunStatus| status.steps.iter().map(|step| step.step.0).collect::<Vec<_>>();
    assert_eq!(numbers(&last), [1, 2, 3]);
    let mut sent = Vec::new();
    while let Some(message) = messages.message().await.expect("a stream") {
        sent.extend(numbers(&serde_json::from_str(&message.status_json).expect("a state")));
    }
    assert_eq!(sent, [1, 2, 3], "each step is sent once");
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_changed_on_disk_is_data_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let blobs = connection(&coordinator).await.blobs();
    let digest = Digest::of(b"first second");
    let changed = blobs.put(digest, "first sec0nd".into()).await.expect_err("other bytes");
    assert_eq!(changed.code(), Code::Aborted, "worth another attempt: {changed}");
    blobs.put(digest, "first second".into()).await.expect("stored");
    assert_eq!(blobs.get(digest).await.expect("a blob"), "first second");

    let name = digest.to_string();
    std::fs::write(folder.path().join("blobs").join(&name[..2]).join(&name[2..]), "other").expect("written over");
    assert_eq!(blobs.get(digest).await.expect_err("changed").code(), Code::DataLoss);
    let missing = Digest::of(b"never stored");
    assert_eq!(
        blobs.missing(&[digest, missing]).await.expect("an answer"),
        vec![digest, missing],
        "a blob that was found corrupt counts as missing, so that somebody makes it again"
    );
    assert_eq!(blobs.get(missing).await.expect_err("missing").code(), Code::NotFound);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = format!("http://{}", coordinator.handle.grpc_address());
    let channel = Channel::from_shared(address).expect("an address").connect_lazy();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "gavel.v1.Fleet", "gavel.v1.Runs", "gavel.v1.Blobs"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.expect(service).into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers
        .message()
        .await
        .expect("an answer")
        .expect("an answer")
        .message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("no list: {answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"gavel.v1.Fleet".to_owned()), "{names:?}");
    coordinator.stop().await;
}

/// One GET over a plain socket: (status line and headers, body).
async fn get(address: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a server");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("headers");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).expect("text").to_lowercase(), body)
}

async fn get_json(address: SocketAddr, path: &str) -> serde_json::Value {
    let (head, body) = get(address, path).await;
    assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
    serde_json::from_slice(&body).expect(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_pages_show_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.http_address();
    assert_eq!(get_json(address, "/api/v1/runs").await["runs"], serde_json::json!([]));
    coordinator.submit().await;
    let judge = Working::start(Role::Judge, coordinator.handle.grpc_address(), Rehearsal::new());
    let others = [Role::Sampler, Role::Trainer]
        .map(|role| Working::start(role, coordinator.handle.grpc_address(), Rehearsal::new()));
    coordinator.until(|status| status.phase.is_ended()).await;

    let run = get_json(address, "/api/v1/runs/quickstart").await;
    assert_eq!((&run["phase"]["kind"], &run["step"]), (&"finished".into(), &3.into()));
    assert_eq!(get_json(address, "/api/v1/runs").await["runs"][0]["run"], RUN);
    assert_eq!(
        get_json(address, "/api/v1/workers").await["workers"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    let pairs = get_json(address, "/api/v1/runs/quickstart/pairs?limit=4").await;
    assert_eq!(
        (pairs["pairs"].as_array().map(Vec::len), &pairs["pairs"][0]["step"]),
        (Some(4), &3.into())
    );
    let image = pairs["pairs"][0]["images"][0].as_str().expect("a digest").to_owned();
    let (head, body) = get(address, &format!("/api/v1/blobs/{image}")).await;
    assert!(head.contains("content-type: image/png"), "{head}");
    assert!(body.windows(picture("").len()).any(|window| window == picture("")));

    for (path, expected) in [("/healthz", "ok"), ("/readyz", "ready"), ("/", "<title>Gavel</title>")] {
        let (head, body) = get(address, path).await;
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert!(String::from_utf8_lossy(&body).contains(expected), "{path}");
    }
    let metrics = String::from_utf8(get(address, "/metrics").await.1).expect("text");
    for name in [
        "# HELP gavel_coordinator_leases_granted_total",
        "gavel_coordinator_completions_total{role=\"judge\"}",
        "gavel_coordinator_step_reward_mean{run=\"quickstart\"}",
        "gavel_coordinator_ledger_append_seconds_bucket",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    for path in [
        "/api/v1/runs/nothing",
        "/nothing",
        &format!("/api/v1/blobs/{}", Digest::of(b"nothing")),
    ] {
        let (head, body) = get(address, path).await;
        assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
        assert!(serde_json::from_slice::<serde_json::Value>(&body).expect("JSON")["error"].is_string());
    }
    judge.stop().await;
    for worker in others {
        worker.stop().await;
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_a_remedy() {
    let taken = tokio::net::TcpListener::bind(support::any_port())
        .await
        .expect("a port");
    let address = taken.local_addr().expect("its address");
    let error = Listeners::bind(address, support::any_port()).await.expect_err("taken");
    assert!(
        matches!(&error, Error::AddressInUse { part: "gRPC", address: named } if *named == address),
        "{error}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("port 0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_come_until_as_many_go_on_as_may() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(CoordinatorOptions {
        runs_max: 1,
        ..options(folder.path())
    })
    .await;
    coordinator.submit().await;
    let runs = connection(&coordinator).await.runs();
    let second = RunId("second".into());
    let mut spec = spec();
    spec.run.name = second.0.clone();
    let refused = runs.submit(&second, &spec, &assets()).await.expect_err("one is enough");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("1 runs have not ended") && refused.message().contains("--runs-max"),
        "{refused}"
    );
    coordinator.submit().await;

    runs.cancel(&RunId(RUN.into()), "for the other")
        .await
        .expect("cancelled");
    runs.submit(&second, &spec, &assets())
        .await
        .expect("there is a place again");
    coordinator.stop().await;
}
