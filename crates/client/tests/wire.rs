//! What a coordinator says to callers that this crate's own clients never are: of another protocol version, or with names that
//! are none.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use gavel_coordinator::{Coordinator, CoordinatorHandle, CoordinatorOptions, Listeners};
use gavel_proto::v1;
use gavel_proto::v1::blobs_client::BlobsClient;
use gavel_proto::v1::fleet_client::FleetClient;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

struct Served {
    handle: CoordinatorHandle,
    shutdown: CancellationToken,
    _folder: TempDir,
}

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = Listeners::bind(any_port, any_port).await.expect("free ports");
        let shutdown = CancellationToken::new();
        let options = CoordinatorOptions::new(folder.path());
        let handle = Coordinator::start(options, listeners, shutdown.clone()).await;
        Self {
            handle: handle.expect("a coordinator"),
            shutdown,
            _folder: folder,
        }
    }

    fn channel(&self) -> Channel {
        let address = format!("http://{}", self.handle.grpc_address());
        Channel::from_shared(address).expect("an address").connect_lazy()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.handle.join().await.expect("an orderly end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_other_versions_are_refused_in_words() {
    let coordinator = Served::start().await;
    let mut fleet = FleetClient::new(coordinator.channel());
    let own = gavel_proto::PROTOCOL_VERSION;
    for other in [own - 1, own + 1] {
        let introduction = v1::RegisterRequest {
            protocol_version: other,
            version: "another".into(),
            ..introduction(v1::Role::Judge)
        };
        let refused = fleet.register(introduction).await.expect_err("another version");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let message = refused.message();
        for part in [
            format!("speaks protocol {other}"),
            format!("speaks protocol {own}"),
            "Gavel another".to_owned(),
            "install the same version".to_owned(),
        ] {
            assert!(message.contains(&part), "`{part}` is missing in: {message}");
        }
    }
    coordinator.stop().await;
}

fn introduction(role: v1::Role) -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol_version: gavel_proto::PROTOCOL_VERSION,
        role: role.into(),
        host: "here".into(),
        pid: 1,
        device: "cpu".into(),
        version: "this".into(),
        shares: None,
    }
}

/// A call with this secret.
fn with_secret<T>(secret: &[u8], message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_bytes(secret);
    request.metadata_mut().insert_bin(gavel_proto::SECRET_METADATA, value);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_used_by_nobody_but_the_worker_whose_secret_it_comes_from() {
    let coordinator = Served::start().await;
    let mut fleet = FleetClient::new(coordinator.channel());
    let (own, other) = ([1; 32], [2; 32]);
    let registered = fleet.register(with_secret(&own, introduction(v1::Role::Judge))).await;
    let name = registered.expect("registered").into_inner().worker_id;
    let heartbeat = || v1::HeartbeatRequest {
        worker_id: name.clone(),
        leases: Vec::new(),
        used: None,
    };

    // Under another secret or in another role one is somebody else.
    for (secret, role) in [(own, v1::Role::Trainer), (other, v1::Role::Judge)] {
        let registered = fleet.register(with_secret(&secret, introduction(role))).await;
        assert_ne!(registered.expect("registered").into_inner().worker_id, name);
    }
    let worker_id = name.clone();
    let stolen = with_secret(
        &other,
        v1::DeregisterRequest {
            worker_id: worker_id.clone(),
        },
    );
    let refused = fleet.deregister(stolen).await.expect_err("another's name");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let stolen = v1::FailRequest {
        worker_id,
        fatal: true,
        ..v1::FailRequest::default()
    };
    let refused = fleet.fail(with_secret(&other, stolen)).await;
    assert_eq!(refused.expect_err("another's name").code(), Code::Unauthenticated);
    for request in [
        with_secret(&other, heartbeat()),
        with_secret(&own[1..], heartbeat()),
        Request::new(heartbeat()),
    ] {
        let refused = fleet.heartbeat(request).await.expect_err("no proof");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    let refused = fleet.register(introduction(v1::Role::Judge)).await;
    assert_eq!(refused.expect_err("no secret").code(), Code::Unauthenticated);

    let lives = fleet.heartbeat(with_secret(&own, heartbeat())).await;
    assert!(!lives.expect("the worker is as it was").into_inner().drain);
    let workers = coordinator.handle.driver().workers().await.expect("a table");
    let shown = serde_json::to_string(&workers).expect("JSON");
    assert!(shown.contains(&name) && !shown.contains(&"01".repeat(8)), "{shown}");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_name_is_no_hash_is_refused() {
    let coordinator = Served::start().await;
    let mut blobs = BlobsClient::new(coordinator.channel());
    let refused = blobs
        .get(v1::GetRequest {
            sha256: "x".into(),
            ..v1::GetRequest::default()
        })
        .await;
    assert_eq!(refused.expect_err("no name").code(), Code::InvalidArgument);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_shares_at_a_host_and_a_port_and_says_only_what_is_taken() {
    let coordinator = Served::start().await;
    let mut fleet = FleetClient::new(coordinator.channel());
    let secret = [7; 32];
    let shares = |address: &str, bytes: usize| v1::RegisterRequest {
        shares: Some(v1::Shares {
            address: address.into(),
            certificate: vec![1; bytes],
        }),
        ..introduction(v1::Role::Sampler)
    };
    let long = format!("{}:1", "x".repeat(200));
    for (address, bytes) in [
        ("", 32),
        ("worker", 32),
        ("user@worker:1", 32),
        ("worker:1/path", 32),
        ("worker:99999", 32),
        (&long, 32),
        ("worker:1", 31),
    ] {
        let refused = fleet.register(with_secret(&secret, shares(address, bytes))).await;
        assert_eq!(refused.expect_err(address).code(), Code::InvalidArgument, "{address}");
    }
    let plain = fleet
        .register(with_secret(&secret, introduction(v1::Role::Sampler)))
        .await;
    let plain = plain.expect("registered").into_inner();
    assert!(plain.sharing.is_none());
    let hold = |held: Vec<Vec<u8>>| {
        let message = v1::HoldRequest {
            worker_id: plain.worker_id.clone(),
            held,
            gone: Vec::new(),
        };
        with_secret(&secret, message)
    };
    let unknown = fleet.hold(hold(vec![vec![2; 32]])).await;
    assert_eq!(unknown.expect_err("it does not share").code(), Code::NotFound);

    let answer = fleet.register(with_secret(&secret, shares("[::1]:7450", 32))).await;
    let terms = answer.expect("registered").into_inner().sharing.expect("its terms");
    assert_eq!(terms.key.len(), 32);
    let noted = fleet.hold(hold(vec![vec![2; 32]])).await.expect("noted");
    let told = noted.into_inner().sharing.expect("its terms");
    assert!(told.key == terms.key && told.now_ms >= terms.now_ms, "those of now");
    for many in [vec![vec![2; 31]], vec![vec![2; 32]; 1_025]] {
        let refused = fleet.hold(hold(many)).await;
        assert_eq!(refused.expect_err("not taken").code(), Code::InvalidArgument);
    }
    let of_another = fleet.hold(with_secret(&[8; 32], hold(Vec::new()).into_inner())).await;
    assert_eq!(of_another.expect_err("another's name").code(), Code::Unauthenticated);
    coordinator.stop().await;
}
