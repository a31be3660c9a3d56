//! Workers that fetch large blobs from each other, and what becomes of those that are sent to a worker that is gone, lies or says nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gavel_client::{
    Blobs as Client, ConnectOptions, Connection, Fleet, Identity, Introduction, Sharer, Shares, Sharing,
};
use gavel_coordinator::CoordinatorOptions;
use gavel_core::ids::Digest;
use gavel_core::run::Phase;
use gavel_core::work::Role;
use gavel_worker::{Allowed, WorkerOptions};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::large::Large;
use crate::support::{Served, any_port, options};

const LARGE: usize = 3 << 20;

fn blob(seed: u8) -> (Digest, Bytes) {
    let bytes: Bytes = (0..LARGE).map(|index| (index >> 5) as u8 ^ seed).collect();
    (Digest::of(&bytes), bytes)
}

async fn connection(coordinator: &Served) -> Connection {
    let address = coordinator.handle.grpc_address().to_string();
    let options = ConnectOptions::new(&address).expect("an address");
    Connection::open(&options).await.expect("a coordinator")
}

/// A worker that shares one blob, once it has it.
struct Peer {
    fleet: Fleet,
    identity: Identity,
    blobs: Client,
    sharer: Sharer,
    /// How often it was asked for the blob by those who may have it.
    gave: Arc<AtomicUsize>,
}

impl Peer {
    async fn start(coordinator: &Served, blob: Digest, bytes: Bytes) -> Self {
        let connection = connection(coordinator).await;
        let gave = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&gave);
        let source = move |asked: &Digest| {
            (*asked == blob).then(|| {
                count.fetch_add(1, Ordering::SeqCst);
                bytes.clone()
            })
        };
        let sharing = Sharing {
            listen: any_port(),
            advertised: None,
        };
        let sharer = Sharer::open(&sharing, connection.addresses(), source)
            .await
            .expect("it listens");
        let (fleet, identity) = register(&connection, sharer.shares()).await;
        let again = fleet.register(&identity, &introduction(sharer.shares())).await;
        again.expect("registered, and the answer is lost");
        let terms = fleet.hold(&identity, &[], &[]).await;
        sharer.admit(terms.expect("it shares"));
        Self {
            fleet,
            identity,
            blobs: connection.blobs().directly_as(None, Some(sharer.shares().certificate)),
            sharer,
            gave,
        }
    }

    async fn fetch(&self, blob: Digest) -> Bytes {
        let bytes = self.blobs.get(blob).await.expect("the blob");
        let terms = self.fleet.hold(&self.identity, &[blob], &[]).await;
        self.sharer.admit(terms.expect("it shares"));
        bytes
    }
}

fn introduction(shares: &Shares) -> Introduction {
    Introduction {
        host: "here".into(),
        device: "cpu".into(),
        shares: Some(shares.clone()),
    }
}

async fn register(connection: &Connection, shares: &Shares) -> (Fleet, Identity) {
    let fleet = connection.fleet();
    let identity = Identity::random(Role::Sampler);
    let registered = fleet
        .register(&identity, &introduction(shares))
        .await
        .expect("registered");
    assert!(registered.sharing.is_some());
    (fleet, identity)
}

/// No heartbeat is sent, and nobody is given up for it.
fn patient(folder: &std::path::Path) -> CoordinatorOptions {
    CoordinatorOptions {
        worker_timeout: Duration::from_secs(3600),
        ..options(folder)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_workers_fetch_one_blob_and_the_coordinator_sends_it_to_four_at_most() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(patient(folder.path())).await;
    let (digest, bytes) = blob(1);
    coordinator.handle.blobs().put(bytes.clone()).await.expect("stored");
    let mut peers = Vec::new();
    for _ in 0..8 {
        peers.push(Arc::new(Peer::start(&coordinator, digest, bytes.clone()).await));
    }
    let mut fetching = JoinSet::new();
    for peer in &peers {
        let peer = Arc::clone(peer);
        fetching.spawn(async move { peer.fetch(digest).await });
    }
    while let Some(fetched) = fetching.join_next().await {
        assert_eq!(fetched.expect("no panic"), bytes);
    }
    let gave: usize = peers.iter().map(|peer| peer.gave.load(Ordering::SeqCst)).sum();
    assert!(
        (4..=6).contains(&gave),
        "the workers gave it {gave} times, the coordinator the other {}",
        8 - gave
    );

    // Whoever has the store past the coordinator is not sent to workers.
    let store = folder.path().join("blobs");
    let with_folder = connection(&coordinator).await.blobs().directly(Some(&store));
    assert_eq!(with_folder.get(digest).await.expect("read"), bytes);
    // Nor is whoever asks for nothing but the bytes.
    assert_eq!(
        connection(&coordinator).await.blobs().get(digest).await.expect("read"),
        bytes
    );
    let after: usize = peers.iter().map(|peer| peer.gave.load(Ordering::SeqCst)).sum();
    assert_eq!(after, gave);
    drop(peers);
    coordinator.stop().await;
}

/// What a worker does to whoever was sent to it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Nobody listens any more.
    Gone,
    /// It is killed in the middle of the transfer.
    Killed,
    /// It says that it knows nothing.
    Refuses,
    /// It gives other bytes.
    Lies,
    /// It gives more bytes than there are.
    Floods,
    /// It has another certificate than it told.
    Another,
    /// It speaks no TLS.
    Plain,
    /// It says nothing, until it is killed.
    Hangs,
}

/// A worker that says that it shares a blob, and gives it badly.
struct BadPeer {
    shares: Shares,
    knocked: Arc<AtomicUsize>,
    serving: AbortOnDropHandle<()>,
}

impl BadPeer {
    async fn start(manner: Manner, bytes: Bytes) -> Self {
        let listener = TcpListener::bind(any_port()).await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["worker".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let told = match manner {
            Manner::Another => Digest::of(b"another"),
            _ => Digest::of(&certificate),
        };
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let knocked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&knocked);
        let serving = tokio::spawn(async move {
            if manner == Manner::Gone {
                return;
            }
            // The connections end with the one who serves them.
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, bytes) = (acceptor.clone(), bytes.clone());
                open.spawn(async move {
                    // Whoever is treated so hangs up.
                    let _ = treat(stream, manner, acceptor, &bytes).await;
                });
            }
        });
        Self {
            shares: Shares {
                address,
                certificate: told,
            },
            knocked,
            serving: AbortOnDropHandle::new(serving),
        }
    }
}

async fn treat(mut stream: TcpStream, manner: Manner, acceptor: TlsAcceptor, bytes: &[u8]) -> std::io::Result<()> {
    let (status, sent) = match manner {
        Manner::Plain => return stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
        Manner::Hangs => return std::future::pending().await,
        Manner::Refuses => ("404 Not Found", Vec::new()),
        Manner::Killed => ("200 OK", bytes[..LARGE / 2].to_vec()),
        Manner::Floods => ("200 OK", [bytes, b"more"].concat()),
        Manner::Lies | Manner::Another | Manner::Gone => ("200 OK", vec![7; bytes.len()]),
    };
    let announced = if manner == Manner::Killed {
        bytes.len()
    } else {
        sent.len()
    };
    let mut stream = acceptor.accept(stream).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await? > 0 {}
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {announced}\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(&sent).await?;
    stream.flush().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_gone_lies_or_says_nothing_costs_a_try_and_nobody_is_sent_there_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(patient(folder.path())).await;
    let manners = [
        Manner::Gone,
        Manner::Killed,
        Manner::Refuses,
        Manner::Lies,
        Manner::Floods,
        Manner::Another,
        Manner::Plain,
        Manner::Hangs,
    ];
    for (seed, manner) in (10..).zip(manners) {
        let (digest, bytes) = blob(seed);
        coordinator.handle.blobs().put(bytes.clone()).await.expect("stored");
        let bad = BadPeer::start(manner, bytes.clone()).await;
        let (fleet, identity) = register(&connection(&coordinator).await, &bad.shares).await;
        fleet.hold(&identity, &[digest], &[]).await.expect("noted");

        let fetcher = connection(&coordinator).await.blobs().directly(None);
        let fetching = tokio::spawn(async move { fetcher.get(digest).await });
        if manner == Manner::Hangs {
            while bad.knocked.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            bad.serving.abort();
        }
        let fetched = fetching.await.expect("no panic");
        assert_eq!(fetched.expect("by the coordinator"), bytes, "{manner:?}");
        let tried = usize::from(manner != Manner::Gone);
        assert_eq!(bad.knocked.load(Ordering::SeqCst), tried, "{manner:?}");

        // It says again that it has it.
        fleet.hold(&identity, &[], &[digest]).await.expect("noted");
        fleet.hold(&identity, &[digest], &[]).await.expect("noted");
        let next = connection(&coordinator).await.blobs().directly(None);
        assert_eq!(next.get(digest).await.expect("by the coordinator"), bytes, "{manner:?}");
        assert_eq!(
            bad.knocked.load(Ordering::SeqCst),
            tried,
            "{manner:?}: nobody is sent there again"
        );
        fleet.deregister(&identity).await.expect("it leaves");
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_lost_is_lost_whoever_says_that_he_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(patient(folder.path())).await;
    let (digest, bytes) = blob(2);
    let peer = Peer::start(&coordinator, digest, bytes).await;
    peer.fleet.hold(&peer.identity, &[digest], &[]).await.expect("noted");
    let fetcher = connection(&coordinator).await.blobs().directly(None);
    let lost = fetcher
        .get(digest)
        .await
        .expect_err("the coordinator alone says what there is");
    assert_eq!(lost.code(), gavel_client::Code::NotFound);
    assert_eq!(peer.gave.load(Ordering::SeqCst), 0);
    drop(peer);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_worker_that_looks_for_the_way_to_its_coordinator_leaves_when_it_is_told_to() {
    let options = WorkerOptions {
        sharing: Some(Sharing {
            listen: ([0, 0, 0, 0], 0).into(),
            advertised: None,
        }),
        ..WorkerOptions::new("http://nowhere.invalid:1", [Role::Sampler], "cpu")
    };
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(gavel_worker::run(options, Large::default(), shutdown.clone()));
    shutdown.cancel();
    worker.await.expect("no panic").expect("it has left");
}

/// A worker with a runtime of its own. It is killed when it is dropped, with all that it does: nobody hears of it, and nobody answers in its stead.
struct Mortal(Option<Runtime>);

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Two workers of each role, with little room, which give each other what they have.
fn sharing_fleet(coordinator: SocketAddr) -> Vec<Mortal> {
    let roles = [Role::Sampler, Role::Judge, Role::Trainer];
    let workers = roles.into_iter().flat_map(|role| [role, role]).map(|role| {
        let options = WorkerOptions {
            sharing: Some(Sharing {
                listen: any_port(),
                advertised: None,
            }),
            cache_bytes: 16 << 20,
            // This test runs in its crate's folder, and the run names models beside it.
            allowed: Allowed {
                model_folders: vec!["..".into()],
                ..Allowed::default()
            },
            ..WorkerOptions::new(coordinator.to_string(), [role], "cpu")
        };
        let runtime = Runtime::new().expect("a runtime");
        runtime.spawn(gavel_worker::run(options, Large::default(), CancellationToken::new()));
        Mortal(Some(runtime))
    });
    workers.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_workers_share_has_the_bytes_of_one_through_the_coordinator_also_when_one_is_killed() {
    let mut results = Vec::new();
    for shares in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let options = CoordinatorOptions {
            worker_timeout: Duration::from_secs(1),
            ..options(folder.path())
        };
        let coordinator = Served::start(options).await;
        coordinator.submit().await;
        let address: SocketAddr = coordinator.handle.grpc_address();
        let (mut workers, mut sharing) = (Vec::new(), Vec::new());
        match shares {
            false => workers = Large::fleet(address, None),
            true => sharing = sharing_fleet(address),
        }
        if shares {
            coordinator.until(|status| !status.steps.is_empty()).await;
            drop(sharing.remove(0));
        }
        let status = coordinator.until(|status| status.phase.is_ended()).await;
        assert_eq!(status.phase, Phase::Finished);
        let rewards: Vec<f64> = status.steps.iter().map(|step| step.reward_mean).collect();
        results.push((status.policy.expect("a policy"), rewards));
        for worker in workers {
            worker.stop().await;
        }
        drop(sharing);
        coordinator.stop().await;
    }
    assert_eq!(results[0], results[1]);
}
