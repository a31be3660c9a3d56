//! Who gets in, and what each may do: encryption, certificates and tokens, by real servers and clients on loopback.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(
    dead_code,
    reason = "workers and submitters have credentials here, and start in other ways"
)]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gavel_client::{Code, ConnectOptions, Connection, Credentials, Identity, Introduction};
use gavel_coordinator::{CoordinatorOptions, Error, KnownToken, Listeners, ServerTls, TokenRole, Tokens};
use gavel_core::hint::Hint;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::Phase;
use gavel_core::token::Token;
use gavel_core::work::Role;
use gavel_worker::WorkerOptions;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use support::{RUN, Rehearsal, Served, Working, any_port, options};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authority with the certificates of a server and of a client, in files.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        write("ca.pem", params.self_signed(&key).expect("an authority").pem());
        let issuer = Issuer::new(params, key);
        for (name, hosts) in [
            ("server", vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
            ("client", vec![]),
        ] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(hosts).expect("names");
            write(
                &format!("{name}.pem"),
                params.signed_by(&key, &issuer).expect("a certificate").pem(),
            );
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self) -> ServerTls {
        ServerTls::read(&self.file("server.pem"), &self.file("server.key"), None).expect("the files")
    }

    /// A server that asks for certificates of the other authority.
    fn server_for_clients_of(&self, clients: &Self) -> ServerTls {
        let authority = clients.file("ca.pem");
        ServerTls::read(&self.file("server.pem"), &self.file("server.key"), Some(&authority)).expect("the files")
    }

    fn trusted(&self) -> Credentials {
        Credentials::default().trusting(&self.file("ca.pem")).expect("the file")
    }

    /// What is trusted by this authority, with a certificate of the other one.
    fn trusted_with_certificate_of(&self, clients: &Self) -> Credentials {
        let credentials = self
            .trusted()
            .certified(&clients.file("client.pem"), &clients.file("client.key"));
        credentials.expect("the files")
    }
}

fn encrypted(folder: &Path, tls: ServerTls) -> CoordinatorOptions {
    CoordinatorOptions {
        tls: Some(tls),
        ..options(folder)
    }
}

async fn ask(address: &str, credentials: Credentials) -> Result<(), String> {
    let options = ConnectOptions::with(address, credentials).expect("an address");
    let told = |error: &dyn std::fmt::Display, hint: Option<String>| format!("{error} | {}", hint.unwrap_or_default());
    let connection = Connection::open(&options)
        .await
        .map_err(|error| told(&error, error.hint()))?;
    let listed = connection.runs().list().await;
    listed.map(drop).map_err(|error| {
        assert!(!error.passes(), "a worker would try this for ever: {error}");
        told(&error, error.hint())
    })
}

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

/// The tokens of all roles, by role.
struct Keys(Vec<(TokenRole, Token)>);

impl Keys {
    fn new() -> (Self, Tokens) {
        let (tokens, known): (Vec<_>, Vec<_>) = TokenRole::ALL
            .into_iter()
            .map(|role| {
                let (token, known) = KnownToken::new(role, Some(role.name().to_owned()));
                ((role, token), known)
            })
            .unzip();
        (Self(tokens), Tokens::new(known))
    }

    fn of(&self, role: TokenRole) -> &Token {
        let found = self.0.iter().find(|(of, _)| *of == role);
        found.map(|(_, token)| token).expect("every role has one")
    }

    fn credentials(&self, role: TokenRole) -> Credentials {
        Credentials::default().with_token(self.of(role).clone())
    }
}

fn introduction() -> Introduction {
    Introduction {
        host: "here".into(),
        device: "cpu".into(),
    }
}

/// What became of a call: nothing kept it from being made, or the code with which it was sent away.
fn refusal<T>(answer: Result<T, gavel_client::CallError>) -> Option<Code> {
    let code = answer.err()?.code();
    matches!(code, Code::Unauthenticated | Code::PermissionDenied).then_some(code)
}

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
        assert_eq!(refusal(runs.drain().await), submits, "{role} drains");
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
            let heartbeat = refusal(fleet.heartbeat(&identity, &[]).await);
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
            ..WorkerOptions::new(&address, Role::Sampler, "cpu")
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
    for name in ["labelled a", "labelled b"] {
        let picture = support::picture(name);
        let stored = people.blobs().put(Digest::of(&picture), picture.into()).await;
        stored.expect("a submitter stores pictures");
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
            ..WorkerOptions::new(&address, role, "cpu")
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

fn client_config(authority: &Authority, clients: Option<&Authority>) -> ClientConfig {
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
async fn get(config: &ClientConfig, port: u16, path: &str, headers: &str) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config.clone())).connect(name, stream).await;
    http(stream.expect("a handshake"), port, path, headers).await
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, port: u16, path: &str, headers: &str) -> String {
    send(
        stream,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{headers}Connection: close\r\n\r\n"),
    )
    .await
}

async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
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
