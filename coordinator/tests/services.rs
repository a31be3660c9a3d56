//! What callers see over gRPC and HTTP: fences, versions, health, reflection, status pages, and clear refusals.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;

use gavel_coordinator::{Error, Listeners};
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::RunStatus;
use gavel_core::work::Role;
use gavel_proto::v1;
use gavel_proto::v1::blobs_client::BlobsClient;
use gavel_proto::v1::fleet_client::FleetClient;
use gavel_proto::v1::runs_client::RunsClient;
use support::{RUN, Rehearsal, Served, Working, assets, options, picture, spec, whole_fleet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn channel(coordinator: &Served) -> Channel {
    let address = format!("http://{}", coordinator.handle.grpc_address());
    Channel::from_shared(address)
        .expect("an address")
        .connect()
        .await
        .expect("a coordinator")
}

fn introduction(role: v1::Role, protocol_version: u32) -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol_version,
        role: role.into(),
        host: "here".into(),
        pid: 1,
        device: "cpu".into(),
        version: "test".into(),
        worker_id: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_fence_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let mut fleet = FleetClient::new(channel(&coordinator).await);
    let register = introduction(v1::Role::Trainer, gavel_proto::PROTOCOL_VERSION);
    let worker_id = fleet
        .register(register)
        .await
        .expect("registered")
        .into_inner()
        .worker_id;
    let request = v1::LeaseRequest {
        worker_id: worker_id.clone(),
        wait_ms: 10_000,
    };
    let stale = fleet
        .lease(request.clone())
        .await
        .expect("work")
        .into_inner()
        .lease
        .expect("work")
        .key
        .expect("a key");
    let release = v1::ReleaseRequest {
        worker_id: worker_id.clone(),
        keys: vec![stale.clone()],
    };
    fleet.release(release).await.expect("given back");
    let latest = fleet
        .lease(request)
        .await
        .expect("work")
        .into_inner()
        .lease
        .expect("work")
        .key
        .expect("a key");
    assert_eq!(latest.unit, stale.unit);
    assert!(latest.fence > stale.fence);

    let digest = |text: &str| Digest::of(text.as_bytes()).0.to_vec();
    let policy = |adapter| v1::Policy {
        adapter: digest(adapter),
        optimizer: digest("optimizer"),
        averaged: Some(digest("average")),
        manifest: digest("manifest"),
        tensors: 2,
    };
    let complete = |key: &v1::LeaseKey, adapter| v1::CompleteRequest {
        worker_id: worker_id.clone(),
        key: Some(key.clone()),
        outcome: Some(v1::Outcome {
            kind: Some(v1::outcome::Kind::Initialised(v1::outcome::Initialised {
                policy: Some(policy(adapter)),
                model: digest("transformer"),
            })),
        }),
    };
    let run = RunId(RUN.into());
    let before = coordinator
        .handle
        .driver()
        .inspect(&run, |run| run.results().clone())
        .await
        .expect("the run");
    let refused = fleet
        .complete(complete(&stale, "stale"))
        .await
        .expect_err("a stale fence");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let after = coordinator
        .handle
        .driver()
        .inspect(&run, |run| run.results().clone())
        .await
        .expect("the run");
    assert_eq!(before, after);

    assert!(
        !fleet
            .complete(complete(&latest, "latest"))
            .await
            .expect("accepted")
            .into_inner()
            .repeated
    );
    assert!(
        fleet
            .complete(complete(&latest, "latest"))
            .await
            .expect("harmless")
            .into_inner()
            .repeated
    );
    let adapter = coordinator
        .until(|status| status.policy.is_some())
        .await
        .policy
        .expect("a policy")
        .adapter;
    assert_eq!(adapter, Digest::of(b"latest"));
    let lost = v1::HeartbeatRequest {
        worker_id,
        leases: vec![stale.clone()],
    };
    assert_eq!(
        fleet.heartbeat(lost).await.expect("known").into_inner().lost,
        vec![stale]
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_other_versions_are_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let mut fleet = FleetClient::new(channel(&coordinator).await);
    let other = introduction(v1::Role::Judge, gavel_proto::PROTOCOL_VERSION + 1);
    let refused = fleet.register(other).await.expect_err("another version");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("install the same version"), "{refused}");
    let unknown = v1::LeaseRequest {
        worker_id: "nobody".into(),
        wait_ms: 0,
    };
    assert_eq!(
        fleet.lease(unknown).await.expect_err("not registered").code(),
        Code::NotFound
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submitting_is_idempotent_and_a_differing_or_broken_spec_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let mut runs = RunsClient::new(channel(&coordinator).await);
    let assets_json = serde_json::to_string(&assets()).expect("JSON");
    let request = |spec: &gavel_core::spec::RunSpec, run_id: &str| v1::SubmitRequest {
        run_id: run_id.into(),
        spec_json: serde_json::to_string(spec).expect("JSON"),
        assets_json: assets_json.clone(),
    };
    let first = runs.submit(request(&spec(), RUN)).await.expect("new").into_inner();
    assert!(!first.existed);
    assert!(
        runs.submit(request(&spec(), RUN))
            .await
            .expect("the same")
            .into_inner()
            .existed
    );
    let mut other = spec();
    other.run.seed += 1;
    assert_eq!(
        runs.submit(request(&other, RUN)).await.expect_err("differs").code(),
        Code::AlreadyExists
    );
    let mut elsewhere = spec();
    elsewhere.model.path = "elsewhere".into();
    assert!(
        runs.submit(request(&elsewhere, RUN))
            .await
            .expect("the same, with its files elsewhere")
            .into_inner()
            .existed
    );
    let mut with_other_files = request(&spec(), RUN);
    let mut other_files = assets();
    other_files.template += "changed";
    with_other_files.assets_json = serde_json::to_string(&other_files).expect("JSON");
    let refused = runs.submit(with_other_files).await.expect_err("other files");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused.message().contains("other contents of judge.template"),
        "{refused}"
    );
    let mut broken = spec();
    broken.objective.clip_range = -1.0;
    let refused = runs.submit(request(&broken, "broken")).await.expect_err("not valid");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("objective.clip_range"), "{refused}");
    let refused = runs
        .submit(request(&spec(), "../elsewhere"))
        .await
        .expect_err("no name");
    assert_eq!(refused.code(), Code::InvalidArgument);

    let given = runs
        .get_spec(v1::GetSpecRequest { run_id: RUN.into() })
        .await
        .expect("the run")
        .into_inner();
    assert_eq!(given.spec_sha256, first.spec_sha256);
    assert_eq!(
        serde_json::from_str::<gavel_core::spec::RunSpec>(&given.spec_json).expect("a spec"),
        spec()
    );
    assert_eq!(
        runs.list(v1::ListRunsRequest {})
            .await
            .expect("a list")
            .into_inner()
            .status_json
            .len(),
        1
    );
    let unknown = v1::GetRunRequest {
        run_id: "nothing".into(),
    };
    assert_eq!(runs.get(unknown).await.expect_err("no such run").code(), Code::NotFound);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_shows_the_run_from_its_present_state_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let mut runs = RunsClient::new(channel(&coordinator).await);
    let mut states = runs
        .watch(v1::GetRunRequest { run_id: RUN.into() })
        .await
        .expect("the run")
        .into_inner();
    let next = async |states: &mut tonic::Streaming<v1::GetRunResponse>| {
        let message = states.message().await.expect("a stream")?;
        Some(serde_json::from_str::<RunStatus>(&message.status_json).expect("a status"))
    };
    assert_eq!(next(&mut states).await.expect("the present state").step.0, 0);
    let workers = whole_fleet(coordinator.handle.grpc_address());
    let mut last = None;
    while let Some(status) = next(&mut states).await {
        last = Some(status);
    }
    let last = last.expect("changes");
    assert_eq!((last.phase.is_ended(), last.step.0), (true, 3));
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_changed_on_disk_is_data_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let mut blobs = BlobsClient::new(channel(&coordinator).await);
    let name = Digest::of(b"first second").to_string();
    let announced = |first: &str, second: &str| {
        let messages = [(first, name.clone()), (second, String::new())].map(|(chunk, sha256)| v1::PutRequest {
            chunk: chunk.into(),
            sha256,
        });
        tokio_stream::iter(messages)
    };
    let changed = blobs.put(announced("first ", "sec0nd")).await.expect_err("other bytes");
    assert_eq!(changed.code(), Code::Aborted, "worth another attempt: {changed}");
    let stored = blobs.put(announced("first ", "second")).await.expect("stored");
    assert_eq!(stored.into_inner().sha256, name);
    let request = v1::GetRequest { sha256: name.clone() };
    let mut chunks = blobs.get(request.clone()).await.expect("a blob").into_inner();
    assert_eq!(
        chunks.message().await.expect("a chunk").expect("a chunk").chunk,
        b"first second"
    );

    std::fs::write(folder.path().join("blobs").join(&name[..2]).join(&name[2..]), "other").expect("written over");
    assert_eq!(blobs.get(request).await.expect_err("changed").code(), Code::DataLoss);
    let missing = Digest::of(b"never stored").to_string();
    let asked = v1::MissingRequest {
        sha256: vec![name.clone(), missing.clone()],
    };
    assert_eq!(
        blobs.missing(asked).await.expect("an answer").into_inner().sha256,
        vec![name, missing.clone()],
        "a blob that was found corrupt counts as missing, so that somebody makes it again"
    );
    assert_eq!(
        blobs
            .get(v1::GetRequest { sha256: missing })
            .await
            .expect_err("missing")
            .code(),
        Code::NotFound
    );
    assert_eq!(
        blobs
            .get(v1::GetRequest { sha256: "x".into() })
            .await
            .expect_err("no name")
            .code(),
        Code::InvalidArgument
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let channel = channel(&coordinator).await;
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
