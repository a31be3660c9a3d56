//! Calls for gradient sums: who may call, who hears of it, and what ends a call.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;

use gavel_core::ids::Digest;
use gavel_core::run::Phase;
use gavel_core::work::Role;
use gavel_proto::v1::fleet_client::FleetClient;
use gavel_proto::v1::{self, rally_response::Outcome};
use support::{Rehearsal, Served, Working, options, whole_fleet};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A trainer that says on the wire what the test wants it to.
#[derive(Clone)]
struct Trainer {
    fleet: FleetClient<Channel>,
    id: String,
}

impl Trainer {
    async fn register(coordinator: SocketAddr) -> Self {
        let mut fleet = FleetClient::connect(format!("http://{coordinator}"))
            .await
            .expect("a connection");
        let introduction = v1::RegisterRequest {
            protocol_version: gavel_proto::PROTOCOL_VERSION,
            role: v1::Role::Trainer.into(),
            host: "here".into(),
            pid: 1,
            device: "cpu".into(),
            version: "0".into(),
            worker_id: None,
        };
        let registered = fleet.register(introduction).await.expect("registered");
        let id = registered.into_inner().worker_id;
        Self { fleet, id }
    }

    async fn lease(&mut self) -> v1::LeaseResponse {
        let request = v1::LeaseRequest {
            worker_id: self.id.clone(),
            wait_ms: 30_000,
        };
        self.fleet.lease(request).await.expect("an answer").into_inner()
    }

    async fn release(&mut self, key: &v1::LeaseKey) {
        let request = v1::ReleaseRequest {
            worker_id: self.id.clone(),
            keys: vec![key.clone()],
        };
        self.fleet.release(request).await.expect("given back");
    }

    async fn rally(&mut self, key: &v1::LeaseKey, wait_ms: u64) -> Result<Outcome, Status> {
        let request = v1::RallyRequest {
            worker_id: self.id.clone(),
            key: Some(key.clone()),
            rendezvous: b"under the oak".to_vec(),
            wait_ms,
        };
        let response = self.fleet.rally(request).await?.into_inner();
        Ok(response.outcome.expect("a outcome"))
    }

    async fn join(&mut self, key: &v1::LeaseKey, lost: Vec<Vec<u8>>) -> Result<(), Status> {
        let request = v1::JoinRequest {
            worker_id: self.id.clone(),
            key: Some(key.clone()),
            lost,
        };
        self.fleet.join(request).await.map(|_| ())
    }

    async fn complete(&mut self, key: &v1::LeaseKey, outcome: v1::outcome::Kind) {
        let request = v1::CompleteRequest {
            worker_id: self.id.clone(),
            key: Some(key.clone()),
            outcome: Some(v1::Outcome { kind: Some(outcome) }),
        };
        self.fleet.complete(request).await.expect("accepted");
    }

    async fn initialise(&mut self, adapter: Digest) {
        let key = self.lease().await.lease.expect("work").key.expect("a key");
        let policy = v1::Policy {
            adapter: adapter.0.to_vec(),
            optimizer: adapter.0.to_vec(),
            averaged: Some(adapter.0.to_vec()),
            manifest: Digest::of(b"two tensors").0.to_vec(),
            tensors: 2,
        };
        let initialised = v1::outcome::Initialised {
            policy: Some(policy),
            model: Digest::of(b"transformer").0.to_vec(),
        };
        self.complete(&key, v1::outcome::Kind::Initialised(initialised)).await;
    }

    /// Hands in a sum that it keeps to itself.
    async fn hand_in_sum(&mut self, key: &v1::LeaseKey, gradient: &v1::assignment::Gradient) {
        let terms = 2 * gradient.groups.len() as u64;
        let outcome = v1::outcome::Gradient {
            gradient: (terms > 0).then(|| Digest::of(format!("{key:?}").as_bytes()).0.to_vec()),
            manifest: gradient.policy.as_ref().expect("a policy").manifest.clone(),
            statistics: Some(v1::ShardStatistics {
                terms,
                loss: 1.0,
                ..v1::ShardStatistics::default()
            }),
            skipped: vec![],
            seconds: 1.0,
            model: Digest::of(b"transformer").0.to_vec(),
        };
        self.complete(key, v1::outcome::Kind::Gradient(outcome)).await;
    }

    async fn heartbeat(&mut self, key: &v1::LeaseKey) -> Vec<v1::LeaseKey> {
        let request = v1::HeartbeatRequest {
            worker_id: self.id.clone(),
            leases: vec![key.clone()],
        };
        self.fleet
            .heartbeat(request)
            .await
            .expect("an answer")
            .into_inner()
            .lost
    }
}

fn code(refused: Result<impl std::fmt::Debug, Status>) -> Code {
    refused.expect_err("a refusal").code()
}

/// A coordinator whose first step waits for its commit, the sums made by two trainers of which one has leased the commit.
struct Ready {
    coordinator: Served,
    others: Vec<Working>,
    caller: Trainer,
    called: Trainer,
    commit: v1::LeaseKey,
    _folder: tempfile::TempDir,
}

impl Ready {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator = Served::start(options(folder.path())).await;
        let address = coordinator.handle.grpc_address();
        coordinator.submit().await;
        let others = vec![
            Working::start(Role::Sampler, address, Rehearsal::new()),
            Working::start(Role::Judge, address, Rehearsal::new()),
        ];
        let mut trainers = [Trainer::register(address).await, Trainer::register(address).await];
        let adapter = coordinator.handle.blobs().put("adapter".into()).await.expect("stored");
        trainers[0].initialise(adapter).await;
        let mut turn = 0;
        let commit = loop {
            let lease = trainers[turn].lease().await.lease.expect("work");
            let key = lease.key.expect("a key");
            let assignment = lease.assignment.expect("an assignment").kind.expect("a kind");
            let v1::assignment::Kind::Gradient(gradient) = assignment else {
                break key;
            };
            trainers[turn].hand_in_sum(&key, &gradient).await;
            turn = 1 - turn;
        };
        let [first, second] = trainers;
        let (caller, called) = if turn == 0 { (first, second) } else { (second, first) };
        Self {
            coordinator,
            others,
            caller,
            called,
            commit,
            _folder: folder,
        }
    }

    async fn stop(self) {
        for worker in self.others {
            worker.stop().await;
        }
        self.coordinator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_another_fence_or_by_somebody_else_is_refused() {
    let mut ready = Ready::new().await;
    let commit = ready.commit.clone();
    for fence in [commit.fence - 1, commit.fence + 1] {
        let stale = v1::LeaseKey {
            fence,
            ..commit.clone()
        };
        assert_eq!(code(ready.caller.rally(&stale, 0).await), Code::FailedPrecondition);
        assert_eq!(code(ready.called.join(&stale, vec![]).await), Code::FailedPrecondition);
    }
    assert_eq!(code(ready.called.rally(&commit, 0).await), Code::FailedPrecondition);
    // Given back and leased again it is another generation: whoever calls under the old one is refused.
    ready.caller.release(&commit).await;
    let again = ready
        .called
        .lease()
        .await
        .lease
        .expect("the commit")
        .key
        .expect("a key");
    assert_eq!(again.unit, commit.unit);
    assert!(again.fence > commit.fence);
    assert_eq!(code(ready.caller.rally(&commit, 0).await), Code::FailedPrecondition);
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_called_hear_of_it_join_and_keep_the_lease_alive_until_it_ends() {
    let mut ready = Ready::new().await;
    let commit = ready.commit.clone();
    let mut caller = ready.caller.clone();
    let key = commit.clone();
    let rally = tokio::spawn(async move { caller.rally(&key, 60_000).await });
    let call = ready.called.lease().await.call.expect("a call");
    let lease = call.commit.expect("the commit");
    assert_eq!(lease.key.as_ref(), Some(&commit));
    let group = call.group.expect("a group");
    assert_eq!(group.members, [ready.caller.id.clone(), ready.called.id.clone()]);
    assert_eq!(group.rendezvous, b"under the oak");
    ready.called.join(&commit, vec![]).await.expect("joined");
    let outcome = rally.await.expect("no panic").expect("a outcome");
    assert_eq!(
        outcome,
        Outcome::Complete(v1::rally_response::Complete { members: group.members })
    );
    assert_eq!(ready.called.heartbeat(&commit).await, []);
    ready.caller.release(&commit).await;
    assert_eq!(ready.called.heartbeat(&commit).await, std::slice::from_ref(&commit));
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_its_holder_lost_ends_the_call() {
    let mut ready = Ready::new().await;
    let commit = ready.commit.clone();
    let mut caller = ready.caller.clone();
    let key = commit.clone();
    let rally = tokio::spawn(async move { caller.rally(&key, 60_000).await });
    ready.called.lease().await.call.expect("a call");
    let lost = vec![vec![7; 32]];
    ready.called.join(&commit, lost.clone()).await.expect("heard");
    let outcome = rally.await.expect("no panic").expect("a outcome");
    assert_eq!(
        outcome,
        Outcome::Incomplete(v1::rally_response::Incomplete { absent: vec![], lost })
    );
    // The call is over for everybody.
    assert_eq!(code(ready.called.join(&commit, vec![]).await), Code::FailedPrecondition);
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_or_leaves_is_named_to_the_caller() {
    let mut ready = Ready::new().await;
    let commit = ready.commit.clone();
    let absent = Outcome::Incomplete(v1::rally_response::Incomplete {
        absent: vec![ready.called.id.clone()],
        lost: vec![],
    });
    assert_eq!(
        ready.caller.rally(&commit, 0).await.expect("a outcome"),
        absent,
        "in time"
    );
    let request = v1::DeregisterRequest {
        worker_id: ready.called.id.clone(),
    };
    ready.called.fleet.deregister(request).await.expect("left");
    assert_eq!(
        ready.caller.rally(&commit, 60_000).await.expect("a outcome"),
        absent,
        "left"
    );
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_leaves_during_the_exchange_ends_the_commits_lease_and_the_run_goes_on() {
    let mut ready = Ready::new().await;
    let commit = ready.commit.clone();
    let mut caller = ready.caller.clone();
    let key = commit.clone();
    let rally = tokio::spawn(async move { caller.rally(&key, 60_000).await });
    ready.called.lease().await.call.expect("a call");
    ready.called.join(&commit, vec![]).await.expect("joined");
    rally.await.expect("no panic").expect("a outcome");
    assert_eq!(ready.caller.heartbeat(&commit).await, []);
    let request = v1::DeregisterRequest {
        worker_id: ready.called.id.clone(),
    };
    ready.called.fleet.deregister(request).await.expect("left");
    assert_eq!(ready.caller.heartbeat(&commit).await, std::slice::from_ref(&commit));
    // Somebody else takes it up, finds that nobody has the sums, and has them made again.
    let workers = whole_fleet(ready.coordinator.handle.grpc_address());
    let status = ready.coordinator.until(|status| status.phase.is_ended()).await;
    assert_eq!(status.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    ready.stop().await;
}
