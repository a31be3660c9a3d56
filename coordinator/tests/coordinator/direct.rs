//! Blobs that go straight to the store and from it: by its folder, and by signed addresses. Whatever is wrong there, the answer is the
//! coordinator's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gavel_client::{Blobs as Client, Code, ConnectOptions, Connection};
use gavel_coordinator::blobs::{BlobError, Blobs, Reach, Signer, Site};
use gavel_coordinator::ledger::SqliteLedger;
use gavel_coordinator::{CoordinatorOptions, Error, Stores};
use gavel_core::hint::Hint as _;
use gavel_core::ids::Digest;
use gavel_core::run::Phase;
use http::Method;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::servers::s3::{BUCKET, S3};
use crate::support::large::{Large, counted};
use crate::support::process::runs_alone;
use crate::support::{Served, any_port, options, whole_fleet};

const LARGE: usize = 3 << 20;

fn blob(seed: u8) -> (Digest, Bytes) {
    let bytes: Bytes = (0..LARGE).map(|index| (index >> 5) as u8 ^ seed).collect();
    (Digest::of(&bytes), bytes)
}

async fn client(coordinator: &Served, folder: Option<&Path>) -> Client {
    let address = coordinator.handle.grpc_address().to_string();
    let options = ConnectOptions::new(&address).expect("an address");
    let connection = Connection::open(&options).await.expect("a coordinator");
    connection.blobs().directly(folder)
}

fn file(store: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    store.join(&name[..2]).join(&name[2..])
}

/// A second folder with the mark of the first one: a copy, or a mount of yesterday.
fn copied(store: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    let mark = std::fs::read(store.join("identity.json")).expect("the store's mark");
    std::fs::write(copy.path().join("identity.json"), mark).expect("copied");
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_through_a_shared_folder_has_the_bytes_of_one_through_the_coordinator() {
    let mut results = Vec::new();
    for is_shared in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator = Served::start(options(folder.path())).await;
        let store = folder.path().join("blobs");
        coordinator.submit().await;
        let shared = is_shared.then_some(store.as_path());
        let workers = Large::fleet(coordinator.handle.grpc_address(), shared);
        let status = coordinator.until(|status| status.phase.is_ended()).await;
        assert_eq!(status.phase, Phase::Finished);
        let policy = status.policy.expect("a policy");
        assert!(file(&store, &policy.adapter).metadata().expect("stored").len() >= 1 << 20);
        let rewards: Vec<f64> = status.steps.iter().map(|step| step.reward_mean).collect();
        results.push((policy, rewards));
        for worker in workers {
            worker.stop().await;
        }
        coordinator.stop().await;
    }
    assert_eq!(results[0], results[1]);
}

/// Small blobs take one call through the coordinator, also where a folder is shared.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_small_blobs_and_a_folder_that_is_none_ends_as_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let address = coordinator.handle.grpc_address();
    let mut workers = whole_fleet(address);
    workers.extend(Large::fleet(address, Some(&folder.path().join("not there"))));
    let status = coordinator.until(|status| status.phase.is_ended()).await;
    assert_eq!(status.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_in_a_folder_are_not_taken_and_the_coordinator_says_what_becomes_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let store = folder.path().join("blobs");
    let blobs = client(&coordinator, Some(&store)).await;
    let (digest, bytes) = blob(1);
    blobs.put(digest, bytes.clone()).await.expect("stored");
    assert_eq!(blobs.get(digest).await.expect("read"), bytes);

    // In a copy of the folder alone: the coordinator has the right ones.
    let copy = copied(&store);
    let in_copy = file(copy.path(), &digest);
    std::fs::create_dir_all(in_copy.parent().expect("a folder")).expect("made");
    let mut wrong = bytes.to_vec();
    wrong[LARGE / 2] ^= 1;
    let elsewhere = client(&coordinator, Some(copy.path())).await;
    for changed in [&wrong[..], &wrong[1..]] {
        std::fs::write(&in_copy, changed).expect("written");
        assert_eq!(elsewhere.get(digest).await.expect("by the coordinator"), bytes);
    }

    // In the store itself: the coordinator sets them aside, as it does when it reads them for somebody else.
    std::fs::write(file(&store, &digest), &wrong).expect("one bit flipped");
    let refused = blobs.get(digest).await.expect_err("they are damaged");
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    assert!(store.join("corrupt").join(digest.to_string()).exists());
    assert_eq!(blobs.get(digest).await.expect_err("gone").code(), Code::NotFound);
    blobs.put(digest, bytes.clone()).await.expect("stored again");
    assert_eq!(blobs.get(digest).await.expect("whole again"), bytes);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_another_folder_counts_for_nothing() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [coordinator, other] = [
        Served::start(options(folders[0].path())).await,
        Served::start(options(folders[1].path())).await,
    ];
    let stores = folders.each_ref().map(|folder| folder.path().join("blobs"));
    let (digest, bytes) = blob(2);
    let of_another = client(&coordinator, Some(&stores[1])).await;
    of_another.put(digest, bytes.clone()).await.expect("by the coordinator");
    assert!(file(&stores[0], &digest).exists() && !file(&stores[1], &digest).exists());
    assert_eq!(of_another.get(digest).await.expect("by the coordinator"), bytes);

    // A copy has the mark, and what is written there is not in the store: the coordinator is asked before it counts.
    let copy = copied(&stores[0]);
    let (digest, bytes) = blob(3);
    let of_a_copy = client(&coordinator, Some(copy.path())).await;
    of_a_copy.put(digest, bytes.clone()).await.expect("by the coordinator");
    assert!(file(copy.path(), &digest).exists(), "it was tried");
    assert!(file(&stores[0], &digest).exists(), "and then sent");
    for coordinator in [coordinator, other] {
        coordinator.stop().await;
    }
}

/// Signs for a server that takes nothing, as if every address had expired.
#[derive(Debug)]
struct Expired(std::net::SocketAddr);

#[async_trait::async_trait]
impl Signer for Expired {
    async fn sign(&self, method: Method, object: &StorePath, _: Duration) -> Result<String, object_store::Error> {
        Ok(format!("http://{}/{object}?method={method}&signature=hunter2", self.0))
    }
}

async fn over(store: Arc<InMemory>, signer: impl Signer + 'static, folder: &Path) -> Served {
    let blobs = Blobs::over(store, "memory", 64 << 20).signed_by(Arc::new(signer));
    let ledger = SqliteLedger::open(&folder.join("ledger.sqlite"))
        .await
        .expect("a ledger");
    let stores = Stores {
        ledger: Arc::new(ledger),
        blobs: blobs.with_addresses().expect("it signs"),
    };
    Served::start_with(options(folder), stores, any_port()).await
}

/// Reads a request to its end, since whoever closes before may have its answer lost on the way, and refuses it.
async fn forbid(mut stream: TcpStream) -> std::io::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    let mut come = Vec::new();
    let head = loop {
        if stream.read_buf(&mut come).await? == 0 {
            return Ok(());
        }
        if let Some(head) = come.windows(END.len()).position(|end| end == END) {
            break head + END.len();
        }
    };
    let text = String::from_utf8_lossy(&come[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    while come.len() < head + length.unwrap_or_default() && stream.read_buf(&mut come).await? > 0 {}
    let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(answer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_has_expired_is_as_good_as_none_and_after_three_nobody_asks() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind(any_port()).await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            forbid(stream).await.expect("answered");
        }
    });
    let coordinator = over(Arc::default(), Expired(address), folder.path()).await;
    let blobs = client(&coordinator, None).await;
    let (digest, bytes) = blob(4);
    blobs.put(digest, bytes.clone()).await.expect("by the coordinator");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it was tried");
    for _ in 0..4 {
        assert_eq!(blobs.get(digest).await.expect("by the coordinator"), bytes);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    coordinator.stop().await;
    server.abort();
}

/// Signs without a server, for those who only ask.
#[derive(Debug)]
struct Named;

#[async_trait::async_trait]
impl Signer for Named {
    async fn sign(&self, method: Method, object: &StorePath, valid: Duration) -> Result<String, object_store::Error> {
        Ok(format!("https://store/{object}?{method}={}", valid.as_secs()))
    }
}

#[tokio::test]
async fn a_place_is_told_for_large_blobs_to_those_who_reach_it_and_counts_until_it_is_seen() {
    let blobs = Blobs::over(Arc::new(InMemory::new()), "memory", 64 << 20).signed_by(Arc::new(Named));
    let (by_address, by_folder) = (
        Reach {
            addresses: true,
            folder: false,
        },
        Reach {
            addresses: false,
            folder: true,
        },
    );
    let (digest, bytes) = blob(5);
    let size = LARGE as u64;
    let unasked = blobs.allot(&digest, size, by_address).await;
    assert!(unasked.expect("an answer").is_none(), "it was not switched on");

    let blobs = blobs.with_addresses().expect("it signs");
    let blobs = blobs.with_quota(2 * size).await.expect("listed");
    let allot = async |digest: &Digest, size, reach| blobs.allot(digest, size, reach).await.expect("an answer");
    assert!(allot(&digest, size, by_folder).await.is_none(), "it is no folder");
    assert!(allot(&digest, (1 << 20) - 1, by_address).await.is_none(), "small");
    assert!(
        allot(&digest, 65 << 20, by_address).await.is_none(),
        "larger than a blob may be"
    );
    let site = allot(&digest, size, by_address).await.expect("a place");
    let name = digest.to_string();
    assert!(
        matches!(&site, Site::Address(address) if *address == format!("https://store/{}/{}?PUT=300", &name[..2], &name[2..]))
    );
    assert_eq!(format!("{site:?}"), "Address(..)");
    assert!(
        allot(&digest, size, by_address).await.is_some(),
        "asked for again, it counts once"
    );
    let (second, third) = (blob(6).0, blob(7).0);
    assert!(allot(&second, size, by_address).await.is_some());
    assert!(allot(&third, size, by_address).await.is_none(), "two fill it");
    assert!(blobs.put(blob(7).1).await.is_err(), "for uploads as well");

    assert!(
        !blobs.confirm(&digest, size).await.expect("an answer"),
        "nobody wrote it"
    );
    blobs.put(bytes).await.expect("what did not come takes no room");
    assert!(blobs.confirm(&digest, size).await.expect("an answer"));
    assert!(
        !blobs.confirm(&digest, size - 1).await.expect("an answer"),
        "of another size"
    );
    assert!(allot(&digest, size, by_address).await.is_none(), "it is there");
    let (site, found) = blobs
        .locate(&digest, by_address)
        .await
        .expect("an answer")
        .expect("a place");
    assert!(matches!(site, Site::Address(address) if address.ends_with("?GET=300")));
    assert_eq!(found, size);
    assert!(
        blobs
            .locate(&digest, Reach::default())
            .await
            .expect("an answer")
            .is_none()
    );
    assert!(
        blobs.locate(&second, by_address).await.expect("an answer").is_none(),
        "not there"
    );
}

#[tokio::test]
async fn a_folder_signs_no_addresses_and_the_start_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = CoordinatorOptions {
        direct_blobs: true,
        ..options(folder.path())
    };
    let Err(Error::Blobs(refused @ BlobError::Unsigned { .. })) = Stores::open(&options).await.map(drop) else {
        panic!("nobody signs")
    };
    assert!(refused.hint().is_some_and(|hint| hint.contains("--blob-folder")));
}

/// Says to a test that it runs in a process of its own.
const ALONE: &str = "GAVEL_TEST_ALONE";
const ADDRESS: &str = "GAVEL_TEST_S3";

#[test]
fn at_most_a_twentieth_of_a_runs_blobs_passes_through_a_coordinator_whose_folder_is_shared() {
    runs_alone(
        "direct::counted_alone_a_twentieth_passes_through_the_coordinator",
        [(ALONE, "yes".to_owned())],
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "counts, so it runs in a process of its own: started by the test above"]
async fn counted_alone_a_twentieth_passes_through_the_coordinator() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let mut through = Vec::new();
    let mut directly = 0;
    for is_shared in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator = Served::start(options(folder.path())).await;
        let http = coordinator.handle.http_address();
        let before = counted(http, "blob_bytes").await;
        assert_eq!(counted(http, "blob_direct_bytes").await, 0);
        coordinator.submit().await;
        let store = folder.path().join("blobs");
        let workers = Large::fleet(coordinator.handle.grpc_address(), is_shared.then_some(store.as_path()));
        let status = coordinator.until(|status| status.phase.is_ended()).await;
        assert_eq!(status.phase, Phase::Finished);
        for worker in workers {
            worker.stop().await;
        }
        through.push(counted(http, "blob_bytes").await - before);
        directly = counted(http, "blob_direct_bytes").await;
        coordinator.stop().await;
    }
    let [all, rest] = through[..] else {
        unreachable!("two runs")
    };
    println!("{all} bytes of blobs through the coordinator, {rest} with a shared folder, {directly} directly");
    assert!(all > 100 << 20, "{all} bytes: these are no large blobs");
    assert!(rest * 20 <= all, "{rest} of {all} bytes");
    // Which worker asks for what, and how often, differs from run to run: so not to the byte.
    assert!(directly * 2 >= all, "{directly} of {all} bytes went directly");
}

#[test]
fn an_s3_server_is_read_and_written_at_signed_addresses() {
    let Some(server) = S3::start() else { return };
    let environment = server.environment().into_iter();
    let address = (ADDRESS, format!("s3://{BUCKET}/some/prefix"));
    runs_alone(
        "direct::a_cloud_store_is_read_and_written_at_signed_addresses",
        environment.chain([address]),
    );
    let objects = server.request("GET", &format!("/{BUCKET}?list-type=2"));
    assert!(
        objects.contains(&format!("<Key>some/prefix/{}", &blob(8).0.to_string()[..2])),
        "{objects}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an S3 server: started by the test above"]
async fn a_cloud_store_is_read_and_written_at_signed_addresses() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let options = CoordinatorOptions {
        blobs: Some(address.as_str().into()),
        direct_blobs: true,
        ..options(folder.path())
    };
    let coordinator = Served::start(options).await;
    let blobs = client(&coordinator, None).await;
    let (digest, bytes) = blob(8);
    blobs.put(digest, bytes.clone()).await.expect("stored");
    assert_eq!(blobs.get(digest).await.expect("read"), bytes);
    let size = LARGE as u64;
    assert_eq!(blobs.check(digest).await.expect("read"), size);
    // In a process of its own, so nobody else counts.
    let http = coordinator.handle.http_address();
    assert_eq!(counted(http, "blob_direct_bytes").await, 3 * size);
    assert_eq!(
        counted(http, "blob_bytes").await,
        0,
        "nothing went through the coordinator"
    );
    coordinator.stop().await;
}
