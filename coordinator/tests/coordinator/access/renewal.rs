//! Certificates and tokens that change while a coordinator runs.

use std::path::Path;
use std::time::Duration;

use gavel_client::{Code, ConnectOptions, Connection, Credentials};
use gavel_coordinator::{CoordinatorOptions, KnownToken, TokenRole, Tokens};
use gavel_core::token::Token;

use super::authority::{Authority, ask, encrypted};
use crate::support::{Served, options};

/// How long anything here may take at the most; what is waited for comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn soon(options: CoordinatorOptions) -> CoordinatorOptions {
    CoordinatorOptions {
        renew: Duration::from_millis(10),
        ..options
    }
}

/// Asks until the answer is the one that is waited for.
async fn until<T: PartialEq>(expected: T, ask: impl AsyncFn() -> T) {
    let asked = async { while ask().await != expected {} };
    tokio::time::timeout(PATIENCE, asked).await.expect("it comes about");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_see_the_certificate_that_the_files_hold_now() {
    let (authority, next) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(soon(encrypted(folder.path(), authority.server()))).await;
    let address = format!("https://{}", coordinator.handle.grpc_address());
    assert_eq!(ask(&address, authority.trusted()).await, Ok(()));
    let open = ConnectOptions::with(&address, authority.trusted()).expect("an address");
    let open = Connection::open(&open).await.expect("it is trusted");
    let (trusted, next_trusted) = (authority.trusted(), next.trusted());
    authority.take_server_of(&next);
    until(Ok(()), async || ask(&address, next_trusted.clone()).await).await;
    assert!(
        ask(&address, trusted).await.is_err(),
        "nobody shows the old one any more"
    );
    open.runs().list().await.expect("an open connection stays open");
    coordinator.stop().await;
}

fn write(file: &Path, known: &[&KnownToken]) {
    let lines: Vec<String> = known.iter().map(|known| known.line()).collect();
    std::fs::write(file, lines.join("\n")).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_as_long_as_the_file_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens.toml");
    let (ann_s, ann) = KnownToken::new(TokenRole::Viewer, Some("ann".into()));
    let (bob_s, bob) = KnownToken::new(TokenRole::Viewer, Some("bob".into()));
    write(&file, &[&ann]);
    let coordinator = Served::start(soon(CoordinatorOptions {
        tokens: Some(Tokens::read(&file).expect("a token")),
        ..options(folder.path())
    }))
    .await;
    let address = coordinator.handle.grpc_address().to_string();
    let asks = async |token: &Token| {
        let credentials = Credentials::default().with_token(token.clone());
        let options = ConnectOptions::with(&address, credentials).expect("an address");
        let connection = Connection::open(&options).await.expect("it listens");
        connection.runs().list().await.map(drop).map_err(|error| error.code())
    };
    assert_eq!(asks(&ann_s).await, Ok(()));
    assert_eq!(asks(&bob_s).await, Err(Code::Unauthenticated));

    write(&file, &[&ann, &bob]);
    until(Ok(()), async || asks(&bob_s).await).await;
    // A file that cannot be read takes nothing away, and one without any token is no file of tokens.
    for broken in ["ann = {", ""] {
        std::fs::write(&file, broken).expect("written");
        assert!(Tokens::read(&file).is_err());
    }
    assert_eq!(asks(&ann_s).await, Ok(()));
    write(&file, &[&bob]);
    until(Err(Code::Unauthenticated), async || asks(&ann_s).await).await;
    assert_eq!(asks(&bob_s).await, Ok(()));
    coordinator.stop().await;
}
