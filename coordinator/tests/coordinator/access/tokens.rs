//! What each token allows.

use gavel_client::{Code, ConnectOptions, Connection, Credentials, Identity};
use gavel_coordinator::{CoordinatorOptions, TokenRole};
use gavel_core::hint::Hint;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::Phase;
use gavel_core::token::Token;
use gavel_core::work::{Role, WorkerFilter};
use gavel_worker::WorkerOptions;

use super::authority::{Authority, encrypted};
use super::keys::{Keys, introduction, refusal};
use crate::support::{self, RUN, Rehearsal, Served, Working, options};

#[tokio::test(flavor = "multi_thread")]
async fn each_role_can_what_it_may_and_nothing_else() {
    let (keys, tokens) = Keys::new();
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(CoordinatorOptions {
        tokens: Some(tokens),
        ..options(folder.path())
    })
    .await;
    let address = coordinator.handle.grpc_address().to_string();
    let run = RunId("nothing".into());
    for role in TokenRole::ALL {
        let options = ConnectOptions::with(&address, keys.credentials(role)).expect("an address");
        let connection = Connection::open(&options).await.expect("it listens");
        let (runs, blobs, fleet) = (connection.runs(), connection.blobs(), connection.fleet());
        let is = |roles: &[TokenRole]| roles.contains(&role);
        let (admin, submitter, viewer) = (TokenRole::Admin, TokenRole::Submitter, TokenRole::Viewer);
        let expected = |may: bool| (!may).then_some(Code::PermissionDenied);

        assert_eq!(refusal(blobs.missing(&[Digest::of(b"")]).await), None, "{role} reads");
        assert_eq!(refusal(runs.spec(&run).await), None, "{role} reads specs");
        let stores = expected(!is(&[viewer]));
        assert_eq!(
            refusal(blobs.put(Digest::of(b"x"), "x".into()).await),
            stores,
            "{role} stores"
        );
        let views = expected(is(&[admin, submitter, viewer]));
        assert_eq!(refusal(runs.list().await), views, "{role} lists");
        assert_eq!(refusal(runs.status(&run).await), views, "{role} looks");
        assert_eq!(refusal(runs.watch(&run).await), views, "{role} watches");
        let submits = expected(is(&[admin, submitter]));
        assert_eq!(refusal(runs.cancel(&run, "").await), submits, "{role} cancels");
        assert_eq!(refusal(runs.resume(&run).await), submits, "{role} resumes");
        assert_eq!(
            refusal(runs.drain(&WorkerFilter::default()).await),
            submits,
            "{role} drains"
        );
        for (worker, own) in [
            (Role::Sampler, TokenRole::Sampler),
            (Role::Judge, TokenRole::Judge),
            (Role::Trainer, TokenRole::Trainer),
        ] {
            let identity = Identity::random(worker);
            let registered = refusal(fleet.register(&identity, &introduction()).await);
            assert_eq!(
                registered,
                expected(is(&[admin, TokenRole::Worker, own])),
                "{role} is a {worker}"
            );
            let heartbeat = refusal(fleet.heartbeat(&identity, &[], None).await);
            assert_eq!(heartbeat, registered, "{role} lives as a {worker}");
        }
    }
    for credentials in [
        Credentials::default(),
        Credentials::default().with_token(Token::new([9; 32])),
    ] {
        let options = ConnectOptions::with(&address, credentials).expect("an address");
        let connection = Connection::open(&options).await.expect("it listens");
        let refused = connection.runs().list().await.expect_err("a stranger");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(
            refused.hint().is_some_and(|hint| hint.contains("GAVEL_TOKEN")),
            "{refused}"
        );
        let told = format!("{refused} {refused:?}");
        assert!(!told.contains("gavel_") && !told.contains("0909"), "{told}");
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_token_does_not_do_ends_and_says_so() {
    let (keys, tokens) = Keys::new();
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(CoordinatorOptions {
        tokens: Some(tokens),
        ..options(folder.path())
    })
    .await;
    let address = coordinator.handle.grpc_address().to_string();
    for (credentials, expected) in [
        (Credentials::default(), "asks for a token"),
        (
            Credentials::default().with_token(Token::new([9; 32])),
            "does not know this token",
        ),
        (
            keys.credentials(TokenRole::Viewer),
            "this call needs a worker or an admin",
        ),
        (
            keys.credentials(TokenRole::Judge),
            "needs a token of the role sampler, worker or admin",
        ),
    ] {
        let options = WorkerOptions {
            credentials,
            ..WorkerOptions::new(&address, [Role::Sampler], "cpu")
        };
        let ended = Working::start_with(options, Rehearsal::new()).ended().await;
        let error = ended.expect_err("it may not take part");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("token")),
            "{:?}",
            error.hint()
        );
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_run_over_encrypted_connections_with_certificates_and_tokens() {
    let authority = Authority::new();
    let (keys, tokens) = Keys::new();
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(CoordinatorOptions {
        tokens: Some(tokens),
        ..encrypted(folder.path(), authority.server_for_clients_of(&authority))
    })
    .await;
    let address = format!("https://{}", coordinator.handle.grpc_address());
    let credentials = |role| {
        let credentials = authority.trusted_with_certificate_of(&authority);
        credentials.with_token(keys.of(role).clone())
    };
    let options = ConnectOptions::with(&address, credentials(TokenRole::Submitter)).expect("an address");
    let people = Connection::open(&options).await.expect("it listens");
    for blob in support::submitted() {
        let stored = people.blobs().put(Digest::of(&blob), blob.into()).await;
        stored.expect("a submitter stores what the run names");
    }
    let run = RunId(RUN.into());
    let submitted = people.runs().submit(&run, &support::spec(), &support::assets()).await;
    submitted.expect("a submitter submits");
    let workers = [
        (Role::Sampler, TokenRole::Sampler),
        (Role::Judge, TokenRole::Judge),
        (Role::Trainer, TokenRole::Worker),
    ]
    .map(|(role, token)| {
        let options = WorkerOptions {
            credentials: credentials(token),
            ..WorkerOptions::new(&address, [role], "cpu")
        };
        Working::start_with(options, Rehearsal::new())
    });
    let status = coordinator.until(|status| status.phase.is_ended()).await;
    assert_eq!(status.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    // No secret has found its way into what is kept and shown.
    let told = serde_json::to_string(&status).expect("JSON");
    let ledger = std::fs::read(folder.path().join("ledger.sqlite")).expect("the ledger");
    for (_, token) in &keys.0 {
        let secret = token.reveal().as_bytes();
        assert!(!told.contains(token.reveal()));
        assert!(!ledger.windows(secret.len()).any(|window| window == secret));
    }
    coordinator.stop().await;
}
