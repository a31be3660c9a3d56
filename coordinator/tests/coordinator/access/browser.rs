//! HTTP, as browsers and probes ask.

use std::sync::Arc;

use gavel_coordinator::{CoordinatorOptions, TokenRole};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::{Authority, encrypted};
use super::keys::Keys;
use crate::support::{Served, options};

pub(crate) fn client_config(authority: &Authority, clients: Option<&Authority>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority.file("ca.pem")).expect("PEM"))
        .expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let chain = vec![CertificateDer::from_pem_file(clients.file("client.pem")).expect("PEM")];
            let key = PrivateKeyDer::from_pem_file(clients.file("client.key")).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    }
}

/// What an encrypted server answers; `headers` end with `\r\n` each.
pub(crate) async fn get(config: &ClientConfig, port: u16, path: &str, headers: &str) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config.clone())).connect(name, stream).await;
    http(stream.expect("a handshake"), port, path, headers).await
}

pub(crate) async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, port: u16, path: &str, headers: &str) -> String {
    send(
        stream,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{headers}Connection: close\r\n\r\n"),
    )
    .await
}

pub(crate) async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_people_show_a_token_or_log_in_and_probes_need_neither() {
    let (keys, tokens) = Keys::new();
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(CoordinatorOptions {
        tokens: Some(tokens),
        ..options(folder.path())
    })
    .await;
    let port = coordinator.handle.http_address().port();
    let connect = async || TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let get = async |path: &str, headers: &str| http(connect().await, port, path, headers).await;
    let bearer = |role| format!("Authorization: Bearer {}\r\n", keys.of(role).reveal());
    for path in ["/healthz", "/readyz"] {
        assert!(get(path, "").await.starts_with("HTTP/1.1 200"), "{path}");
    }
    for path in ["/api/v1/runs", "/metrics", "/nothing"] {
        let refused = get(path, "").await;
        assert!(refused.starts_with("HTTP/1.1 401"), "{path}: {refused}");
        assert!(refused.to_lowercase().contains("www-authenticate: bearer"), "{refused}");
        let forbidden = get(path, &bearer(TokenRole::Sampler)).await;
        assert!(forbidden.starts_with("HTTP/1.1 403"), "{path}: {forbidden}");
        let shown = get(path, &bearer(TokenRole::Viewer)).await;
        assert!(
            shown.starts_with(if path == "/nothing" {
                "HTTP/1.1 404"
            } else {
                "HTTP/1.1 200"
            }),
            "{shown}"
        );
    }
    let form = get("/", "").await;
    assert!(
        form.starts_with("HTTP/1.1 401") && form.contains("action=\"/login\""),
        "{form}"
    );
    assert!(
        form.contains("form-action 'self'") && !form.contains("script-src"),
        "{form}"
    );

    let form = get("/runs/quickstart?a=%22b", "").await;
    assert!(
        form.starts_with("HTTP/1.1 401") && form.contains("name=\"page\" value=\"/runs/quickstart?a=%22b\""),
        "{form}"
    );
    assert!(get("/favicon.ico", "").await.starts_with("HTTP/1.1 200"));
    assert!(get("/assets/x/style.css", "").await.starts_with("HTTP/1.1 401"));

    for (asked, leads) in [("/runs/a", "/runs/a"), ("//evil.example", "/"), ("", "/")] {
        let form = get(&format!("/login?page={asked}"), "").await;
        assert!(form.starts_with("HTTP/1.1 200"), "{form}");
        assert!(
            form.contains(&format!("name=\"page\" value=\"{leads}\"")),
            "{asked}: {form}"
        );
    }

    let log_in = async |token: &str| {
        let body = format!("page=/runs/quickstart&token={token}");
        let length = body.len();
        let kind = "Content-Type: application/x-www-form-urlencoded";
        let head = format!("POST /login HTTP/1.1\r\nHost: localhost:{port}\r\n{kind}\r\nContent-Length: {length}");
        send(connect().await, &format!("{head}\r\nConnection: close\r\n\r\n{body}")).await
    };
    for wrong in ["gavel_0", keys.of(TokenRole::Sampler).reveal(), &"x".repeat(10_000)] {
        let refused = log_in(wrong).await;
        assert!(
            refused.starts_with("HTTP/1.1 40") && !refused.contains("gavel_session="),
            "{refused}"
        );
        assert!(!refused.contains(wrong), "{refused}");
    }
    let answer = log_in(keys.of(TokenRole::Viewer).reveal()).await;
    assert!(
        answer.starts_with("HTTP/1.1 303") && answer.contains("HttpOnly; SameSite=Strict"),
        "{answer}"
    );
    assert!(answer.contains("location: /runs/quickstart\r\n"), "{answer}");
    assert!(
        !answer.contains(keys.of(TokenRole::Viewer).reveal()),
        "the cookie is no token"
    );
    let cookie = answer
        .split("gavel_session=")
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .expect("a cookie");
    let cookie = format!("Cookie: gavel_session={cookie}\r\n");
    assert!(get("/", &cookie).await.contains("id=\"runs\""));
    assert!(get("/api/v1/runs", &cookie).await.starts_with("HTTP/1.1 200"));
    let session = get("/api/v1/session", &cookie).await;
    assert!(session.contains(r#""role":"viewer","may_steer":false}"#), "{session}");
    let session = get("/api/v1/session", &bearer(TokenRole::Submitter)).await;
    assert!(session.contains(r#""role":"submitter","may_steer":true}"#), "{session}");
    let order = format!("POST /api/v1/runs HTTP/1.1\r\nHost: localhost:{port}\r\n{cookie}Connection: close\r\n\r\n");
    assert!(
        send(connect().await, &order).await.starts_with("HTTP/1.1 403"),
        "a viewer only looks"
    );
    let out = format!("POST /logout HTTP/1.1\r\nHost: localhost:{port}\r\n{cookie}Connection: close\r\n\r\n");
    assert!(send(connect().await, &out).await.starts_with("HTTP/1.1 303"));
    assert!(get("/api/v1/runs", &cookie).await.starts_with("HTTP/1.1 401"));
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_may_be_open_and_an_encrypted_port_says_so_to_a_browser() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(CoordinatorOptions {
        tokens: Some(Keys::new().1),
        open_metrics: true,
        ..encrypted(folder.path(), authority.server())
    })
    .await;
    let port = coordinator.handle.http_address().port();
    let config = client_config(&authority, None);
    assert!(get(&config, port, "/metrics", "").await.starts_with("HTTP/1.1 200"));
    assert!(get(&config, port, "/api/v1/runs", "").await.starts_with("HTTP/1.1 401"));
    let plain = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let told = http(plain, port, "/", "").await;
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("https://"), "{told}");
    coordinator.stop().await;
}
