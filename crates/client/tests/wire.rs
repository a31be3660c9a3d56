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
use tonic::Code;
use tonic::transport::Channel;

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
            role: v1::Role::Judge.into(),
            host: "here".into(),
            pid: 1,
            device: "cpu".into(),
            version: "another".into(),
            worker_id: None,
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
    let unknown = v1::LeaseRequest {
        worker_id: "nobody".into(),
        wait_ms: 0,
    };
    let refused = fleet.lease(unknown).await.expect_err("not registered");
    assert_eq!(refused.code(), Code::NotFound);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_name_is_no_hash_is_refused() {
    let coordinator = Served::start().await;
    let mut blobs = BlobsClient::new(coordinator.channel());
    let refused = blobs.get(v1::GetRequest { sha256: "x".into() }).await;
    assert_eq!(refused.expect_err("no name").code(), Code::InvalidArgument);
    coordinator.stop().await;
}
