//! Calls for gradient sums: who may call, who hears of it, and what ends a call.

use std::net::SocketAddr;
use std::time::Duration;

use gavel_client::{CallError, Code, ConnectOptions, Connection, Fleet, Identity, Introduction, Lease, LeaseAnswer};
use gavel_core::ids::{Digest, Fence, WorkerId};
use gavel_core::run::Phase;
use gavel_core::work::rally::{Presence, RallyOutcome};
use gavel_core::work::{Assignment, LeaseKey, Outcome, Policy, Role, ShardStatistics};

use crate::support::{Rehearsal, Served, Working, options, whole_fleet};

/// A trainer that asks for what the test wants it to.
#[derive(Clone)]
struct Trainer {
    fleet: Fleet,
    id: WorkerId,
    identity: Identity,
}

impl Trainer {
    async fn register(coordinator: SocketAddr) -> Self {
        let options = ConnectOptions::new(&coordinator.to_string()).expect("an address");
        let fleet = Connection::open(&options).await.expect("a connection").fleet();
        let introduction = Introduction {
            host: "here".into(),
            device: "cpu".into(),
            shares: None,
        };
        let identity = Identity::random(Role::Trainer);
        fleet.register(&identity, &introduction).await.expect("registered");
        Self {
            fleet,
            id: identity.worker().clone(),
            identity,
        }
    }

    async fn lease(&self) -> Lease {
        let answer = self.fleet.lease(&self.identity, Duration::from_secs(30)).await;
        match answer.expect("an answer") {
            LeaseAnswer::Leased(lease) => *lease,
            nothing => panic!("no work: {nothing:?}"),
        }
    }

    async fn release(&self, key: &LeaseKey) {
        let released = self
            .fleet
            .release(&self.identity, std::slice::from_ref(key), None)
            .await;
        released.expect("given back");
    }

    async fn rally(&self, key: &LeaseKey, wait: Duration) -> Result<RallyOutcome, CallError> {
        let rendezvous = b"under the oak".to_vec();
        self.fleet.rally(&self.identity, key, rendezvous, false, wait).await
    }

    /// Calls the group that met before.
    async fn rally_again(&self, key: &LeaseKey) -> Result<RallyOutcome, CallError> {
        let rendezvous = b"under the oak".to_vec();
        self.fleet.rally(&self.identity, key, rendezvous, true, MINUTE).await
    }

    /// Answers a call for a group that this trainer does not have.
    async fn join_without_group(&self, key: &LeaseKey) -> Result<(), CallError> {
        self.fleet.join(&self.identity, key, &Presence::WithoutGroup).await
    }

    async fn join(&self, key: &LeaseKey, lost: &[Digest]) -> Result<(), CallError> {
        let presence = match lost {
            [] => Presence::Ready,
            lost => Presence::WithoutSums(lost.to_vec()),
        };
        self.fleet.join(&self.identity, key, &presence).await
    }

    async fn complete(&self, key: &LeaseKey, outcome: Outcome) {
        let accepted = self.fleet.complete(&self.identity, key, outcome).await;
        accepted.expect("accepted");
    }

    async fn initialise(&self, adapter: Digest) {
        let key = self.lease().await.key;
        let policy = Policy {
            adapter,
            optimizer: adapter,
            averaged: Some(adapter),
            // What the rehearsing sampler says that it bound.
            manifest: Digest::of(b"manifest"),
            tensors: 2,
        };
        let model = Digest::of(b"transformer");
        self.complete(&key, Outcome::Initialised { policy, model }).await;
    }

    /// Hands in a sum over this many groups, which it keeps to itself.
    async fn hand_in_sum(&self, key: &LeaseKey, policy: &Policy, groups: usize) {
        let terms = 2 * groups as u64;
        let outcome = Outcome::Gradient {
            gradient: (terms > 0).then(|| Digest::of(format!("{key:?}").as_bytes())),
            manifest: policy.manifest,
            statistics: ShardStatistics {
                terms,
                loss: 1.0,
                ..ShardStatistics::default()
            },
            skipped: vec![],
            seconds: 1.0,
            model: Digest::of(b"transformer"),
        };
        self.complete(key, outcome).await;
    }

    /// Returns the lost leases of one that it says it holds.
    async fn heartbeat(&self, key: &LeaseKey) -> Vec<LeaseKey> {
        let held = std::slice::from_ref(key);
        self.fleet
            .heartbeat(&self.identity, held, None)
            .await
            .expect("an answer")
            .lost
    }

    async fn deregister(&self) {
        self.fleet.deregister(&self.identity).await.expect("left");
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn code(refused: Result<impl std::fmt::Debug, CallError>) -> Code {
    refused.expect_err("a refusal").code()
}

/// A coordinator whose first step waits for its commit, the sums made by trainers of which one has leased the commit.
struct Ready {
    coordinator: Served,
    others: Vec<Working>,
    caller: Trainer,
    called: Trainer,
    /// Where there are three.
    called_too: Option<Trainer>,
    commit: LeaseKey,
    _folder: tempfile::TempDir,
}

impl Ready {
    async fn new() -> Self {
        Self::with_trainers(2).await
    }

    async fn with_trainers(count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator = Served::start(options(folder.path())).await;
        let address = coordinator.handle.grpc_address();
        coordinator.submit().await;
        let others = vec![
            Working::start(Role::Sampler, address, Rehearsal::new()),
            Working::start(Role::Judge, address, Rehearsal::new()),
        ];
        let mut trainers = Vec::new();
        for _ in 0..count {
            trainers.push(Trainer::register(address).await);
        }
        let adapter = coordinator.handle.blobs().put("adapter".into()).await.expect("stored");
        trainers[0].initialise(adapter).await;
        let mut turn = 0;
        let commit = loop {
            let Lease { key, assignment, .. } = trainers[turn].lease().await;
            let Assignment::Gradient { policy, groups, .. } = assignment else {
                break key;
            };
            trainers[turn].hand_in_sum(&key, &policy, groups.len()).await;
            turn = (turn + 1) % count;
        };
        let caller = trainers.remove(turn);
        let called = trainers.remove(0);
        Self {
            coordinator,
            others,
            caller,
            called,
            called_too: trainers.pop(),
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
    let ready = Ready::new().await;
    let commit = ready.commit.clone();
    for fence in [commit.fence.0 - 1, commit.fence.0 + 1] {
        let stale = LeaseKey {
            fence: Fence(fence),
            ..commit.clone()
        };
        assert_eq!(
            code(ready.caller.rally(&stale, Duration::ZERO).await),
            Code::FailedPrecondition
        );
        assert_eq!(code(ready.called.join(&stale, &[]).await), Code::FailedPrecondition);
    }
    assert_eq!(
        code(ready.called.rally(&commit, Duration::ZERO).await),
        Code::FailedPrecondition
    );
    // Given back and leased again it is another generation: whoever calls under the old one is refused.
    ready.caller.release(&commit).await;
    let again = ready.called.lease().await.key;
    assert_eq!(again.unit, commit.unit);
    assert!(again.fence > commit.fence);
    assert_eq!(
        code(ready.caller.rally(&commit, Duration::ZERO).await),
        Code::FailedPrecondition
    );
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_called_hear_of_it_join_and_keep_the_lease_alive_until_it_ends() {
    let ready = Ready::new().await;
    let commit = ready.commit.clone();
    let caller = ready.caller.clone();
    let key = commit.clone();
    let rally = tokio::spawn(async move { caller.rally(&key, MINUTE).await });
    let call = ready.called.lease().await;
    assert_eq!(call.key, commit);
    let group = call.group.expect("a call");
    assert_eq!(group.members, [ready.caller.id.clone(), ready.called.id.clone()]);
    assert_eq!(group.rendezvous, b"under the oak");
    ready.called.join(&commit, &[]).await.expect("joined");
    let outcome = rally.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome, RallyOutcome::Complete { members: group.members });
    assert_eq!(ready.called.heartbeat(&commit).await, []);
    ready.caller.release(&commit).await;
    assert_eq!(ready.called.heartbeat(&commit).await, std::slice::from_ref(&commit));
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_its_holder_lost_ends_the_call() {
    let ready = Ready::new().await;
    let commit = ready.commit.clone();
    let caller = ready.caller.clone();
    let key = commit.clone();
    let rally = tokio::spawn(async move { caller.rally(&key, MINUTE).await });
    ready.called.lease().await.group.expect("a call");
    let lost = vec![Digest([7; 32])];
    ready.called.join(&commit, &lost).await.expect("heard");
    let outcome = rally.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome, RallyOutcome::Incomplete { absent: vec![], lost });
    // The call is over for everybody.
    assert_eq!(code(ready.called.join(&commit, &[]).await), Code::FailedPrecondition);
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_or_leaves_is_named_to_the_caller() {
    let ready = Ready::new().await;
    let commit = ready.commit.clone();
    let absent = RallyOutcome::Incomplete {
        absent: vec![ready.called.id.clone()],
        lost: vec![],
    };
    assert_eq!(
        ready.caller.rally(&commit, Duration::ZERO).await.expect("an outcome"),
        absent,
        "in time"
    );
    ready.called.deregister().await;
    assert_eq!(
        ready.caller.rally(&commit, MINUTE).await.expect("an outcome"),
        absent,
        "left"
    );
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_leaves_during_the_exchange_ends_the_commits_lease_and_the_run_goes_on() {
    let ready = Ready::new().await;
    let commit = ready.commit.clone();
    let caller = ready.caller.clone();
    let key = commit.clone();
    let rally = tokio::spawn(async move { caller.rally(&key, MINUTE).await });
    ready.called.lease().await.group.expect("a call");
    ready.called.join(&commit, &[]).await.expect("joined");
    rally.await.expect("no panic").expect("an outcome");
    assert_eq!(ready.caller.heartbeat(&commit).await, []);
    ready.called.deregister().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_group_that_a_member_does_not_have_is_called_again_under_the_same_lease() {
    let ready = Ready::with_trainers(3).await;
    let commit = ready.commit.clone();
    let called_too = ready.called_too.clone().expect("three trainers");
    let (caller, key) = (ready.caller.clone(), commit.clone());
    let rally = tokio::spawn(async move { caller.rally_again(&key).await });
    assert!(ready.called.lease().await.group.expect("a call").kept);
    assert!(called_too.lease().await.group.expect("a call").kept);
    // One has the group and waits for the other, which has not.
    let (waits, key) = (ready.called.clone(), commit.clone());
    let joins = tokio::spawn(async move { waits.join(&key, &[]).await });
    called_too.join_without_group(&commit).await.expect("heard");
    let outcome = rally.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome, RallyOutcome::NotKept);
    // Whether it had joined before or comes now: it does not go on.
    assert_eq!(code(joins.await.expect("no panic")), Code::FailedPrecondition);
    assert_eq!(code(called_too.join(&commit, &[]).await), Code::FailedPrecondition);
    // Until the next call the lease is alive for those who will be called.
    assert_eq!(ready.called.heartbeat(&commit).await, []);

    let (caller, key) = (ready.caller.clone(), commit.clone());
    let rally = tokio::spawn(async move { caller.rally(&key, MINUTE).await });
    assert!(!ready.called.lease().await.group.expect("a call").kept);
    assert!(!called_too.lease().await.group.expect("a call").kept);
    let (waits, key) = (ready.called.clone(), commit.clone());
    let joins = tokio::spawn(async move { waits.join(&key, &[]).await });
    called_too.join(&commit, &[]).await.expect("joined");
    joins.await.expect("no panic").expect("both go on");
    let outcome = rally.await.expect("no panic").expect("an outcome");
    assert!(matches!(outcome, RallyOutcome::Complete { members } if members.len() == 3));
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_on_before_everybody_has_joined() {
    let ready = Ready::with_trainers(3).await;
    let commit = ready.commit.clone();
    let called_too = ready.called_too.clone().expect("three trainers");
    let (caller, key) = (ready.caller.clone(), commit.clone());
    let rally = tokio::spawn(async move { caller.rally(&key, MINUTE).await });
    ready.called.lease().await.group.expect("a call");
    let (waits, key) = (ready.called.clone(), commit.clone());
    let joins = tokio::spawn(async move { waits.join(&key, &[]).await });
    // The last one leaves instead: whoever waited for it is let go of.
    called_too.deregister().await;
    assert_eq!(code(joins.await.expect("no panic")), Code::FailedPrecondition);
    let outcome = rally.await.expect("no panic").expect("an outcome");
    let absent = vec![called_too.id.clone()];
    assert_eq!(outcome, RallyOutcome::Incomplete { absent, lost: vec![] });
    ready.stop().await;
}
