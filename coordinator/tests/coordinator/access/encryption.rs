//! Who may connect.

use gavel_client::Credentials;

use super::authority::{Authority, ask, encrypted};
use super::browser::{client_config, get};
use crate::support::{Served, options};

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_coordinator_is_asked_by_those_who_trust_it_and_by_nobody_in_the_clear() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(encrypted(folder.path(), authority.server())).await;
    let port = coordinator.handle.grpc_address().port();
    for host in ["localhost", "127.0.0.1"] {
        let asked = ask(&format!("https://{host}:{port}"), authority.trusted()).await;
        assert_eq!(asked, Ok(()), "{host}");
    }
    let address = format!("https://127.0.0.1:{port}");
    let refused = ask(&address, other.trusted()).await.expect_err("another authority");
    assert!(
        refused.contains("authority that this machine does not trust") && refused.contains("--tls-ca"),
        "{refused}"
    );
    let refused = ask(&format!("http://127.0.0.1:{port}"), Credentials::default()).await;
    let refused = refused.expect_err("in the clear");
    assert!(
        refused.contains("does not speak gRPC in the clear") && refused.contains("https://HOST:PORT"),
        "{refused}"
    );

    // Nothing that was refused has done harm.
    assert_eq!(ask(&address, authority.trusted()).await, Ok(()));
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_encrypts_is_told_that_a_coordinator_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = format!("https://{}", coordinator.handle.grpc_address());
    let refused = ask(&address, Authority::new().trusted())
        .await
        .expect_err("in the clear");
    assert!(
        refused.contains("does not encrypt") && refused.contains("http://HOST:PORT"),
        "{refused}"
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_asks_for_certificates_hears_those_who_show_one_of_its_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let tls = authority.server_for_clients_of(&authority);
    let coordinator = Served::start(encrypted(folder.path(), tls)).await;
    let address = format!("https://{}", coordinator.handle.grpc_address());
    assert_eq!(
        ask(&address, authority.trusted_with_certificate_of(&authority)).await,
        Ok(())
    );
    // What the other side says last may come too late to be read: often tried, it has to be told each time.
    for _ in 0..20 {
        let refused = ask(&address, authority.trusted()).await.expect_err("no certificate");
        assert!(
            refused.contains("asks for a client certificate") && refused.contains("--tls-cert"),
            "{refused}"
        );
        let refused = ask(&address, authority.trusted_with_certificate_of(&other)).await;
        let refused = refused.expect_err("a certificate of another authority");
        assert!(
            refused.contains("does not trust this client's certificate"),
            "{refused}"
        );
    }

    let http = coordinator.handle.http_address().port();
    let without = client_config(&authority, None);
    assert!(get(&without, http, "/healthz", "").await.starts_with("HTTP/1.1 200"));
    let refused = get(&without, http, "/api/v1/runs", "").await;
    assert!(
        refused.starts_with("HTTP/1.1 403") && refused.contains("client certificate"),
        "{refused}"
    );
    let with = client_config(&authority, Some(&authority));
    assert!(get(&with, http, "/api/v1/runs", "").await.starts_with("HTTP/1.1 200"));
    coordinator.stop().await;
}
