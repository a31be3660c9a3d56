//! HTTP as it comes: under other names, with queries that nobody knows, in other methods.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::target::Target;

/// Sends these bytes and reads until the server closes.
pub(crate) async fn send(http: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(http).await.expect("a connection");
    // A server that has had enough closes before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) async fn get(http: SocketAddr, path: &str) -> String {
    send(
        http,
        format!("GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n").as_bytes(),
    )
    .await
}

fn error_of(answer: &str) -> String {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["error"].as_str().expect("an error").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_a_browser_to_do_nothing_with_it_that_the_dashboard_does_not() {
    let target = Target::start().await;
    let page = get(target.http(), "/").await.to_lowercase();
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';";
    assert!(page.contains(policy) && !page.contains("unsafe-inline"), "{page}");
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/runs",
        "/nothing",
        "/api/v1/blobs/x",
    ] {
        let answer = get(target.http(), path).await.to_lowercase();
        for header in [
            "content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(answer.contains(header), "{path} lacks {header}:\n{answer}");
        }
    }
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_the_servers_is_sent_away() {
    let target = Target::start().await;
    let asked_as = async |host: &str| {
        let request = format!("GET /api/v1/runs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        send(target.http(), request.as_bytes()).await
    };
    for host in [
        "evil.example.org",
        "evil.example.org:7441",
        "127.0.0.1.evil.example.org",
    ] {
        let answer = asked_as(host).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
        assert!(error_of(&answer).contains("does not answer under the name"));
        assert!(!answer.contains("\"run\""), "{answer}");
    }
    for host in ["localhost", "127.0.0.1:7441", "[::1]"] {
        let answer = asked_as(host).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
    // Probes name the server as they like.
    let probe = send(
        target.http(),
        b"GET /readyz HTTP/1.1\r\nHost: gavel\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(probe.starts_with("HTTP/1.1 200"), "{probe}");
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_in_json() {
    let target = Target::start().await;
    let run = &target.good.id().0;
    for (path, status, error) in [
        (
            format!("/api/v1/runs/{run}/pairs?limit=abc"),
            400,
            "limit: invalid digit",
        ),
        (
            format!("/api/v1/runs/{run}/pairs?steps=1"),
            400,
            "unknown field `steps`",
        ),
        (
            format!("/api/v1/runs/{run}/events?before=-1"),
            400,
            "before: invalid digit",
        ),
        (
            format!("/api/v1/runs/{run}/pairs?outcome=won"),
            400,
            "unknown variant `won`",
        ),
        ("/assets/0/style.css".to_owned(), 404, "no such file"),
        ("/assets/0/..%2f..%2fCargo.toml".to_owned(), 404, "no such file"),
        (format!("/api/v1/runs/{run}?offset=3"), 400, "unknown field `offset`"),
        ("/api/v1/runs?page=2".to_owned(), 400, "unknown field `page`"),
        ("/api/v1/runs/%ff".to_owned(), 400, "Invalid UTF-8"),
        (
            "/api/v1/blobs/..%2f..%2fledger.sqlite".to_owned(),
            400,
            "is not a SHA-256",
        ),
        (format!("/api/v1/blobs/{}", "0".repeat(64)), 404, "no blob 000000"),
        ("/nothing".to_owned(), 404, "no such page"),
    ] {
        let answer = get(target.http(), &path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(error_of(&answer).contains(error), "{path}: {answer}");
        assert!(
            !answer.contains("/data"),
            "{path} tells where the server keeps its files: {answer}"
        );
    }
    for method in ["DELETE", "POST", "PUT", "PATCH"] {
        let request = format!("{method} /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = send(target.http(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
        assert!(error_of(&answer).contains("can only be read"), "{answer}");
    }
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_end_their_own_connection_only() {
    let target = Target::start().await;
    let long = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".as_slice(),
        &vec![b'x'; 1 << 20],
    ]
    .concat();
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    for request in [b"\0\xff\xfe garbage\r\n\r\n".as_slice(), &long, many.as_bytes()] {
        let answer = send(target.http(), request).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    target.has_survived().await;
}
