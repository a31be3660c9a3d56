//! A ledger that fails, that another program has locked, or that takes long to read: what becomes of its coordinator.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use gavel_client::{Code, ConnectOptions, Connection};
use gavel_coordinator::blobs::Blobs;
use gavel_coordinator::ledger::{EventRecord, Ledger, LedgerError, RunRecord, SqliteLedger};
use gavel_coordinator::{Coordinator, DriverError, Error, Listeners, Stores};
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::Phase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::{self, RUN, Served, adapter, is_ended, options, undisturbed, whole_fleet};

/// A ledger with a gate before each call: it may hold it up, or have it fail.
struct Gated<G> {
    ledger: SqliteLedger,
    gate: G,
}

/// What a coordinator asks of its ledger.
#[async_trait]
trait Gate: Send + Sync + 'static {
    async fn append(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn runs(&self) {}

    async fn ready(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    fn end_with(&self, _shutdown: CancellationToken) {}
}

#[async_trait]
impl<G: Gate> Ledger for Gated<G> {
    async fn create_run(&self, record: &RunRecord) -> Result<(), LedgerError> {
        self.ledger.create_run(record).await
    }

    async fn append(&self, events: &[EventRecord]) -> Result<(), LedgerError> {
        self.gate.append().await?;
        self.ledger.append(events).await
    }

    async fn identity(&self) -> Result<uuid::Uuid, LedgerError> {
        self.ledger.identity().await
    }

    async fn runs(&self) -> Result<Vec<RunId>, LedgerError> {
        self.gate.runs().await;
        self.ledger.runs().await
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>, LedgerError> {
        self.ledger.run(run).await
    }

    async fn chain(&self, run: &RunId, sequence: u64) -> Result<Option<Digest>, LedgerError> {
        self.ledger.chain(run, sequence).await
    }

    async fn events_after(&self, run: &RunId, after: u64, most: u64) -> Result<Vec<EventRecord>, LedgerError> {
        self.ledger.events_after(run, after, most).await
    }

    async fn ready(&self) -> Result<(), LedgerError> {
        self.gate.ready().await?;
        self.ledger.ready().await
    }

    fn end_with(&self, shutdown: CancellationToken) {
        self.gate.end_with(shutdown);
    }

    async fn close(&self) {
        self.ledger.close().await;
    }
}

/// The stores of a coordinator in a folder.
async fn gated(folder: &Path, gate: impl Gate) -> Stores {
    let ledger = SqliteLedger::open(&folder.join("ledger.sqlite")).await;
    let ledger = ledger.expect("a ledger");
    let blobs = Blobs::open_folder(&folder.join("blobs"), 1 << 20).await.expect("blobs");
    let ledger = Arc::new(Gated { ledger, gate });
    Stores { ledger, blobs }
}

/// Another program has locked the file, until the coordinator is told to end.
#[derive(Default)]
struct Locked {
    begun: Arc<Notify>,
    ending: OnceLock<CancellationToken>,
}

#[async_trait]
impl Gate for Locked {
    async fn append(&self) -> Result<(), LedgerError> {
        self.begun.notify_one();
        self.ending.get().expect("told before it serves").cancelled().await;
        let location = "the test's file".into();
        Err(LedgerError::LockedAtEnd { location })
    }

    fn end_with(&self, shutdown: CancellationToken) {
        self.ending.set(shutdown).expect("told once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_told_to_end_tells_its_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let locked = Locked::default();
    let begun = Arc::clone(&locked.begun);
    let stores = gated(folder.path(), locked).await;
    let coordinator = Served::start_with(options(folder.path()), stores, support::any_port()).await;
    coordinator.submit().await;
    let driver = coordinator.handle.driver().clone();
    let unwritten = tokio::spawn(async move { driver.cancel(&RunId(RUN.into()), "as an example").await });
    begun.notified().await;
    coordinator.shutdown.cancel();
    let error = coordinator.handle.join().await.expect_err("an event is not written");
    assert!(
        matches!(&error, Error::Ledger(LedgerError::LockedAtEnd { .. })),
        "{error}"
    );
    let told = unwritten.await.expect("no panic");
    assert!(
        matches!(told, Err(DriverError::ShuttingDown)),
        "nobody hears of it: {told:?}"
    );
}

/// A ledger that takes long to read.
#[derive(Clone, Default)]
struct Long {
    begun: Arc<Notify>,
    goes_on: Arc<Notify>,
}

#[async_trait]
impl Gate for Long {
    async fn runs(&self) {
        self.begun.notify_one();
        self.goes_on.notified().await;
        // Whoever asks next need not wait.
        self.goes_on.notify_one();
    }
}

/// The whole answer to a GET.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

// A probe got no answer while a long ledger was read, so that Kubernetes ended the coordinator again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_reads_its_ledger_says_that_it_lives_and_is_not_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let long = Long::default();
    let stores = gated(folder.path(), long.clone()).await;
    let listeners = Listeners::bind(support::any_port(), support::any_port()).await;
    let listeners = listeners.expect("free ports");
    let address = |listener: &tokio::net::TcpListener| listener.local_addr().expect("its address");
    let (grpc, http) = (address(&listeners.grpc), address(&listeners.http));
    let shutdown = CancellationToken::new();
    let options = options(folder.path());
    let starting = tokio::spawn(Coordinator::start_with(options, stores, listeners, shutdown.clone()));
    long.begun.notified().await;
    assert!(get(http, "/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = get(http, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("the ledger is being read"),
        "{ready}"
    );
    let asks = ConnectOptions::new(&grpc.to_string()).expect("an address");
    let asked = Connection::lazy(&asks).runs().list().await;
    let error = asked.expect_err("it does not serve yet");
    assert!(
        error.code() == Code::Unavailable && error.message().contains("the ledger is being read"),
        "{error}"
    );

    long.goes_on.notify_one();
    let coordinator = starting.await.expect("no panic").expect("a coordinator");
    assert!(get(http, "/readyz").await.starts_with("HTTP/1.1 200"));
    shutdown.cancel();
    coordinator.join().await.expect("an orderly end");
}

/// A database that does not answer.
struct Silent;

#[async_trait]
impl Gate for Silent {
    async fn ready(&self) -> Result<(), LedgerError> {
        let location = "the test's database".into();
        Err(LedgerError::Locked { location })
    }
}

// A probe that found a store away was told of a fault of the server, 500.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_whose_ledger_does_not_answer_lives_and_is_not_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let stores = gated(folder.path(), Silent).await;
    let coordinator = Served::start_with(options(folder.path()), stores, support::any_port()).await;
    let http = coordinator.handle.http_address();
    assert!(get(http, "/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = get(http, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    coordinator.stop().await;
}

/// After some appends the disk is full.
struct Full {
    left: AtomicUsize,
}

#[async_trait]
impl Gate for Full {
    async fn append(&self) -> Result<(), LedgerError> {
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| LedgerError::Full {
            location: "the test's disk".into(),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_fails_ends_the_coordinator_and_the_next_one_goes_on_to_the_same_result() {
    let expected = undisturbed().await;
    // The steps alone take more than 12 rounds one after the other, however many events share an append.
    for appends in [1, 5, 12] {
        let folder = tempfile::tempdir().expect("a folder");
        let left = AtomicUsize::new(appends);
        let stores = gated(folder.path(), Full { left }).await;
        let first = Served::start_with(options(folder.path()), stores, support::any_port()).await;
        let address = first.handle.grpc_address();
        first.submit().await;
        let workers = whole_fleet(address);
        let error = first.handle.join().await.expect_err("the ledger fails");
        assert!(matches!(&error, Error::Ledger(LedgerError::Full { .. })), "{error}");

        let second = Served::start_at(options(folder.path()), address).await;
        let status = second.until(is_ended).await;
        assert_eq!(
            (status.phase.clone(), adapter(&status)),
            (Phase::Finished, expected),
            "after {appends} appends"
        );
        for worker in workers {
            worker.stop().await;
        }
        second.stop().await;
    }
}
