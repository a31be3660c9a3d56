//! Where a coordinator may listen.

use gavel_coordinator::{CoordinatorOptions, Error, Listeners};
use gavel_core::hint::Hint;
use tokio::net::TcpStream;

use super::authority::{Authority, encrypted};
use super::browser::http;
use super::keys::Keys;
use crate::support::{Served, any_port, options};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_beyond_this_machine_reaches_an_open_coordinator_unless_somebody_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let everywhere = || std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let start = async |options: CoordinatorOptions, grpc, http| {
        let listeners = Listeners::bind(grpc, http).await.expect("free ports");
        let shutdown = tokio_util::sync::CancellationToken::new();
        let started = gavel_coordinator::Coordinator::start(options, listeners, shutdown.clone()).await;
        started.map(|handle| Served { handle, shutdown })
    };
    for (grpc, http, named) in [(everywhere(), any_port(), "gRPC"), (any_port(), everywhere(), "HTTP")] {
        let refused = start(options(folder.path()), grpc, http)
            .await
            .map(drop)
            .expect_err("open to all");
        assert!(
            matches!(refused, Error::Exposed { part, .. } if part == named),
            "{refused}"
        );
        let hint = refused.hint().expect("a remedy");
        assert!(
            ["--tls-cert", "--tokens", "--insecure"]
                .iter()
                .all(|option| hint.contains(option)),
            "{hint}"
        );
    }
    let insecure = CoordinatorOptions {
        insecure: true,
        ..options(folder.path())
    };
    let open = start(insecure, everywhere(), everywhere())
        .await
        .expect("somebody said so");
    let port = open.handle.http_address().port();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let shown = http(stream, port, "/api/v1/security", "").await;
    assert!(
        shown.contains("\"insecure\":true") && shown.contains("\"tokens\":false"),
        "{shown}"
    );
    open.stop().await;

    let authority = Authority::new();
    let protected = CoordinatorOptions {
        tokens: Some(Keys::new().1),
        ..encrypted(folder.path(), authority.server())
    };
    let open = start(protected, everywhere(), everywhere())
        .await
        .expect("it is protected");
    open.stop().await;
}
