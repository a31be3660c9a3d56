//! Workers that lie in figures, and messages that are none.

use std::time::Duration;

use gavel_client::{Code, Identity, Introduction, Lease, LeaseAnswer};
use gavel_core::forecast::rehearsal;
use gavel_core::ids::Digest;
use gavel_core::work::{LeaseKey, Outcome, Role, Side, Verdict, Vote};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::stranger::{Stranger, v1};
use crate::target::Target;

/// A worker that does what it is told, until its result is changed.
struct Liar {
    fleet: gavel_client::Fleet,
    identity: Identity,
}

impl Liar {
    async fn register(target: &Target, role: Role) -> Self {
        let fleet = target.connection().await.fleet();
        let identity = Identity::random(role);
        let introduction = Introduction {
            host: "elsewhere".into(),
            device: "cpu".into(),
            shares: None,
        };
        fleet.register(&identity, &introduction).await.expect("registered");
        Self { fleet, identity }
    }

    async fn lease(&self) -> Lease {
        match self
            .fleet
            .lease(&self.identity, Duration::from_secs(20))
            .await
            .expect("an answer")
        {
            LeaseAnswer::Leased(lease) => *lease,
            nothing => panic!("no work for a {}: {nothing:?}", self.identity.role()),
        }
    }

    /// Leases a unit, and hands in what a good worker would, changed.
    async fn hand_in(&self, target: &Target, change: impl Fn(&mut Outcome)) -> Result<bool, gavel_client::CallError> {
        let lease = self.lease().await;
        let rubric = target.good.assets.rubric.digest;
        let mut outcome = rehearsal::work(&target.good.spec, rubric, &lease.assignment);
        change(&mut outcome);
        self.fleet.complete(&self.identity, &lease.key, outcome).await
    }
}

/// Each figure that is none, or that becomes none in a sum, is refused; the liar gets no more work, and others do it.
#[tokio::test(flavor = "multi_thread")]
async fn figures_that_are_none_or_overflow_in_a_sum_enter_no_record() {
    let target = Target::start().await;
    let vote = |weight| Vote {
        judge: "one".into(),
        weight,
        verdict: Verdict::Preferred { side: Side::First },
        veto: false,
    };
    let refused = async |role, change: &dyn Fn(&mut Outcome)| {
        let liar = Liar::register(&target, role).await;
        let error = liar.hand_in(&target, change).await.expect_err("a lie");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    };
    let honest = async |role| {
        let worker = Liar::register(&target, role).await;
        assert!(!worker.hand_in(&target, |_| ()).await.expect("accepted"));
    };
    honest(Role::Trainer).await;
    for number in [f64::NAN, f64::INFINITY, 1e308, -1.0] {
        refused(Role::Sampler, &|outcome| {
            if let Outcome::Sampled { seconds, .. } = outcome {
                *seconds = number;
            }
        })
        .await;
    }
    for _ in 0..target.good.spec.prompts.per_step {
        honest(Role::Sampler).await;
    }
    for number in [f64::NAN, f64::INFINITY, 1e308] {
        refused(Role::Judge, &|outcome| {
            if let Outcome::Judged { verdicts, .. } = outcome {
                verdicts[0].votes = vec![vote(number)];
            }
        })
        .await;
        refused(Role::Judge, &|outcome| {
            if let Outcome::Judged { verdicts, .. } = outcome {
                verdicts[0].probability_first = number;
            }
        })
        .await;
    }
    for _ in 0..target.good.spec.prompts.per_step {
        honest(Role::Judge).await;
    }
    for number in [f64::NAN, f64::INFINITY, 1e308] {
        refused(Role::Trainer, &|outcome| {
            if let Outcome::Gradient { statistics, .. } = outcome {
                statistics.kl = number;
                statistics.loss = number;
            }
        })
        .await;
    }
    let states = target.connection().await.runs().list().await;
    assert_eq!(states.expect("all runs, every figure of which is one").len(), 1);
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_fences_workers_and_giant_results_change_nothing() {
    let target = Target::start().await;
    let liar = Liar::register(&target, Role::Trainer).await;
    let lease = liar.lease().await;
    let outcome = || rehearsal::work(&target.good.spec, Digest::of(b""), &lease.assignment);
    for fence in [0, lease.key.fence.0 + 1, u64::MAX] {
        let key = LeaseKey {
            fence: gavel_core::ids::Fence(fence),
            ..lease.key.clone()
        };
        let refused = liar
            .fleet
            .complete(&liar.identity, &key, outcome())
            .await
            .expect_err("a wrong fence");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    let other = Liar::register(&target, Role::Trainer).await;
    let refused = other.fleet.complete(&other.identity, &lease.key, outcome()).await;
    assert_eq!(refused.expect_err("another worker").code(), Code::FailedPrecondition);
    let record =
        gavel_core::work::VerdictRecord::failed(gavel_core::ids::PromptIndex(0), "x".repeat(4_000), Digest::of(b""));
    for count in [5_000, 10_000] {
        let giant = Outcome::Judged {
            verdicts: vec![record.clone(); count],
            model: Digest::of(b""),
            spent: None,
            seconds: 1.0,
        };
        let refused = liar.fleet.complete(&liar.identity, &lease.key, giant).await;
        assert_eq!(
            refused.expect_err("too many verdicts").code(),
            Code::InvalidArgument,
            "{count}"
        );
    }
    liar.fleet
        .release(&liar.identity, std::slice::from_ref(&lease.key), None)
        .await
        .expect("given back");
    target.has_survived().await;
}

/// Every method is sent the messages of no method.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_refused_by_every_method() {
    const METHODS: &[&str] = &[
        "Fleet/Register",
        "Fleet/Heartbeat",
        "Fleet/Lease",
        "Fleet/Complete",
        "Fleet/Fail",
        "Fleet/Release",
        "Fleet/Rally",
        "Fleet/Join",
        "Fleet/KeepVerdicts",
        "Fleet/RecallVerdicts",
        "Fleet/Deregister",
        "Runs/Submit",
        "Runs/GetSpec",
        "Runs/Get",
        "Runs/Cancel",
        "Runs/Resume",
        "Blobs/Missing",
        "Blobs/Put",
        "Nothing/Nowhere",
    ];
    let target = Target::start().await;
    let channel = Stranger::new(target.grpc()).channel();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..20 {
        for method in METHODS {
            let mut junk = vec![0; 1 + (random.next_u32() % 500) as usize];
            random.fill_bytes(&mut junk);
            let message = v1::PutRequest {
                chunk: junk,
                sha256: format!("{round}\u{0}{}", random.next_u64()),
            };
            let mut client = Grpc::new(channel.clone());
            client.ready().await.expect("a connection");
            let path: PathAndQuery = format!("/gavel.v1.{method}").parse().expect("a path");
            let codec = ProstCodec::<v1::PutRequest, v1::PutResponse>::default();
            let answer = client.unary(tonic::Request::new(message), path, codec).await;
            let is_harmless = ["Fleet/Deregister", "Fleet/RecallVerdicts"].contains(method);
            assert!(answer.is_err() || is_harmless, "{method} took what is no message");
        }
    }
    target.has_survived().await;
}
