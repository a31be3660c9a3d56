//! What the blob store promises, held against a folder, against memory and against an S3 server; and what it says of bytes that
//! changed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt as _;
use gavel_coordinator::blobs::{BlobError, Blobs};
use gavel_coordinator::{BindingError, Coordinator, CoordinatorOptions, Error, Listeners};
use gavel_core::RunAssets;
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::RunSpec;
use object_store::memory::InMemory;
use tokio_util::sync::CancellationToken;

use crate::servers::s3::{BUCKET, S3};
use crate::support::process::runs_alone;

const BOUND: u64 = 64 << 20;

/// Bytes that differ from place to place, so that a piece in the wrong order is seen.
fn pattern(size: usize) -> Bytes {
    (0..size)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

async fn streamed(blobs: &Blobs, digest: &Digest) -> Result<Bytes, BlobError> {
    let pieces: Vec<Bytes> = blobs.stream(digest, 1 << 20).await?.try_collect().await?;
    Ok(pieces.concat().into())
}

async fn keeps_its_promises(blobs: Blobs) {
    // From nothing, over one piece, to several pieces; at the bounds of a piece.
    for size in [0, 1, 1 << 20, 8 << 20, (8 << 20) + 1, 16 << 20, 23 << 20] {
        let bytes = pattern(size);
        let digest = blobs.put(bytes.clone()).await.expect("stored");
        assert_eq!(digest, Digest::of(&bytes), "{size}");
        assert_eq!(blobs.size(&digest).await.expect("known"), Some(size as u64));
        assert!(blobs.get(&digest).await.expect("read") == bytes, "{size}");
        assert!(streamed(&blobs, &digest).await.expect("read") == bytes, "{size}");
        assert_eq!(blobs.put(bytes).await.expect("stored again"), digest);
    }
    let unknown = Digest::of(b"never stored");
    assert_eq!(blobs.size(&unknown).await.expect("an answer"), None);
    assert!(matches!(blobs.get(&unknown).await, Err(BlobError::Missing { digest, .. }) if digest == unknown));
    assert!(matches!(
        streamed(&blobs, &unknown).await,
        Err(BlobError::Missing { .. })
    ));

    // A large blob that is being written, or whose bytes are not those that were announced, is not there.
    for size in [100, 20 << 20] {
        let announced = Digest::of(&pattern(size));
        let mut writer = blobs.writer(announced);
        for piece in pattern(size).chunks(1 << 20) {
            writer.write(Bytes::copy_from_slice(piece)).await.expect("written");
        }
        assert_eq!(blobs.size(&announced).await.expect("an answer"), None, "not finished");
        drop(writer);
        let mut writer = blobs.writer(announced);
        writer.write(pattern(size - 1)).await.expect("written");
        let error = writer.finish().await.expect_err("one byte is missing");
        assert!(
            matches!(error, BlobError::Misnamed { digest, .. } if digest == announced),
            "{error}"
        );
        assert_eq!(blobs.size(&announced).await.expect("an answer"), None, "misnamed");
    }

    let mut writer = blobs.writer(Digest::of(b"whatever it is"));
    let mut refused = None;
    while refused.is_none() {
        refused = writer.write(pattern(16 << 20)).await.err();
    }
    assert!(matches!(refused, Some(BlobError::TooLarge { blob_bytes_max: BOUND })));
}

#[tokio::test]
async fn blobs_come_until_they_take_what_they_may_and_again_when_some_are_gone() {
    let store = Arc::new(InMemory::new());
    let blobs = Blobs::over(store.clone(), "memory", BOUND);
    let first = blobs.put(pattern(600)).await.expect("there is no quota yet");
    let blobs = blobs.with_quota(1_000).await.expect("the store is listed");

    let refused = blobs.put(pattern(401)).await.expect_err("no room");
    assert!(
        matches!(
            refused,
            BlobError::OverQuota {
                taken: 600,
                most: 1_000
            }
        ),
        "{refused}"
    );
    assert!(refused.hint().is_some_and(|hint| hint.contains("--blobs-max")));
    blobs.put(pattern(300)).await.expect("what was refused takes no room");
    let mut unfinished = blobs.writer(Digest::of(b"whatever it is"));
    unfinished.write(pattern(100)).await.expect("it fits");
    assert!(
        blobs.put(pattern(1)).await.is_err(),
        "what is on its way takes room too"
    );
    drop(unfinished);
    blobs
        .put(pattern(300))
        .await
        .expect_err("storing it again takes its size for a moment");
    blobs.put(pattern(100)).await.expect("it fits exactly");

    blobs.delete(&first).await.expect("deleted");
    blobs.delete(&first).await.expect("there is none, which is no error");
    blobs.put(pattern(300)).await.expect("stored again, in its own place");
    blobs.put(pattern(600)).await.expect("there is room again");
    assert!(blobs.put(pattern(2)).await.is_err(), "and no more than that");
    let counted = Blobs::over(store, "memory", BOUND).with_quota(1_000).await;
    assert!(
        counted.expect("the store is listed").put(pattern(2)).await.is_err(),
        "counted anew, it is the same"
    );
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn memory_keeps_its_promises() {
    keeps_its_promises(Blobs::over(Arc::new(InMemory::new()), "memory", BOUND)).await;
}

#[tokio::test]
async fn a_folder_keeps_its_promises_and_holds_nothing_but_blobs() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open_folder(folder.path(), BOUND).await.expect("a store");
    let digest = blobs.put(Bytes::from_static(b"abc")).await.expect("stored").to_string();
    assert_eq!(
        files(folder.path()),
        vec![folder.path().join(&digest[..2]).join(&digest[2..])]
    );
    keeps_its_promises(blobs).await;
}

#[tokio::test]
async fn bytes_that_changed_on_disk_are_detected_at_every_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open_folder(folder.path(), BOUND).await.expect("a store");
    for size in [100, 9 << 20] {
        let digest = blobs.put(pattern(size)).await.expect("stored");
        let name = digest.to_string();
        let file = folder.path().join(&name[..2]).join(&name[2..]);
        let mut changed = std::fs::read(&file).expect("the file");
        changed[size / 2] ^= 1;
        std::fs::write(&file, &changed).expect("one bit flipped");
        assert!(
            matches!(blobs.peek(&digest).await, Err(BlobError::Corrupt { .. })),
            "{size}"
        );
        assert!(file.exists(), "who only looks leaves it where it is");
        assert!(
            matches!(blobs.get(&digest).await, Err(BlobError::Corrupt { .. })),
            "{size}"
        );
        assert_eq!(
            std::fs::read(folder.path().join("corrupt").join(&name)).expect("moved aside"),
            changed
        );
        assert_eq!(
            blobs.size(&digest).await.expect("an answer"),
            None,
            "not there any more"
        );
        std::fs::write(&file, &changed).expect("as before");
        let error = streamed(&blobs, &digest).await.expect_err("one bit flipped");
        assert!(
            matches!(&error, BlobError::Corrupt { digest: named, .. } if *named == digest),
            "{error}"
        );
        assert!(error.hint().is_some());
        std::fs::write(&file, &changed).expect("as if it could not be moved");

        // Whoever has the right bytes repairs it by storing them again.
        blobs.put(pattern(size)).await.expect("stored again");
        assert!(blobs.get(&digest).await.expect("as it was") == pattern(size), "{size}");
    }
}

#[tokio::test]
async fn the_trash_keeps_what_is_needed_again_and_what_was_stored_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open_folder(folder.path(), BOUND).await.expect("a store");
    let mut digests = Vec::new();
    for text in ["needed", "stored", "neither"] {
        let digest = blobs.put(Bytes::from(text)).await.expect("stored");
        let name = digest.to_string();
        age(&folder.path().join(&name[..2]).join(&name[2..]));
        digests.push(digest);
    }
    let [needed, stored, neither] = digests[..] else {
        unreachable!("three texts")
    };
    blobs
        .discard(&digests.iter().copied().collect())
        .await
        .expect("discarded");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    assert!(
        blobs.discarded(now - hour).await.expect("lists").is_empty(),
        "not old enough"
    );
    let lists = blobs.discarded(now + hour).await.expect("lists");
    assert_eq!(lists.len(), 1);
    for digest in &digests {
        blobs.get(digest).await.expect("readable until it is deleted");
    }
    blobs.put(Bytes::from("stored")).await.expect("stored again");
    let swept = blobs.empty(&lists[0], &[needed].into()).await.expect("emptied");
    assert_eq!((swept.objects, swept.bytes), (1, 7));
    assert_eq!(blobs.size(&neither).await.expect("an answer"), None);
    for kept in [needed, stored] {
        blobs.get(&kept).await.expect("kept");
    }
    assert!(blobs.discarded(now + hour).await.expect("lists").is_empty());
}

fn age(file: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(72 * 3600);
    std::fs::File::open(file)
        .expect("there")
        .set_modified(long_ago)
        .expect("aged");
}

#[tokio::test]
async fn pieces_of_uploads_that_ended_with_their_coordinator_are_swept() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open_folder(folder.path(), BOUND).await.expect("a store");
    let digest = blobs.put(Bytes::from_static(b"abc")).await.expect("stored").to_string();
    let blob = folder.path().join(&digest[..2]).join(&digest[2..]);
    let [old, young] = [1, 2].map(|number| PathBuf::from(format!("{}#{number}", blob.display())));
    let foreign = folder.path().join("notes#draft");
    for file in [&old, &young, &foreign] {
        std::fs::write(file, "half of it").expect("written");
    }
    for file in [&old, &foreign, &blob] {
        age(file);
    }
    let day_ago = SystemTime::now() - Duration::from_secs(24 * 3600);
    let swept = blobs.sweep(day_ago).await.expect("swept");
    assert_eq!((swept.objects, swept.bytes), (1, 10));
    assert!(!old.exists() && young.exists() && foreign.exists() && blob.exists());
}

#[tokio::test]
async fn an_address_chooses_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep/er").display().to_string();
    for url in [path.clone(), format!("file://{path}")] {
        let blobs = Blobs::open(&url, BOUND).await.expect("a folder");
        blobs.put(Bytes::from_static(b"abc")).await.expect("stored");
    }
    assert_eq!(files(folder.path()).len(), 1, "both addresses name one folder");
    for url in ["ftp://host/folder", "file://relative/folder", "s3://"] {
        let error = Blobs::open(url, BOUND).await.expect_err("no store");
        assert!(matches!(error, BlobError::Url { .. }), "{url}: {error:?}");
        assert!(error.to_string().contains(url), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("s3://")), "{url}");
    }
}

const ADDRESS: &str = "GAVEL_TEST_S3";

/// Runs a test with a server's address and keys in its environment.
fn runs_with(server: &S3, test: &str) {
    let address = (ADDRESS, format!("s3://{BUCKET}/some/prefix"));
    runs_alone(test, server.environment().into_iter().chain([address]));
}

/// The names of the bucket's objects.
fn keys(server: &S3) -> Vec<String> {
    let objects = server.request("GET", &format!("/{BUCKET}?list-type=2"));
    let names = objects.split("<Key>").skip(1);
    let names = names.filter_map(|rest| rest.split_once("</Key>"));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn an_s3_server_keeps_its_promises_and_holds_nothing_but_blobs() {
    let Some(server) = S3::start() else { return };
    runs_with(&server, "blobs::s3_keeps_its_promises");

    let names = keys(&server);
    assert_eq!(names.len(), 7, "one object for each blob: {names:?}");
    for name in names {
        let blob = name.strip_prefix("some/prefix/").expect("below the prefix");
        assert_eq!((blob.len(), blob.find('/')), (65, Some(2)), "{name}");
    }
    let unfinished = server.request("GET", &format!("/{BUCKET}?uploads"));
    assert!(!unfinished.contains("<UploadId>"), "parts left behind: {unfinished}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an S3 server: started by the test above"]
async fn s3_keeps_its_promises() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let blobs = Blobs::open(&address, BOUND).await.expect("a store");
    keeps_its_promises(blobs).await;

    let missing = Blobs::open("s3://another-bucket/prefix", BOUND).await;
    let error = missing.expect_err("no such bucket");
    assert!(matches!(error, BlobError::Denied { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("AWS_")), "{error}");
}

#[test]
fn an_s3_bucket_belongs_to_the_ledger_that_used_it_first() {
    let Some(server) = S3::start() else { return };
    runs_with(&server, "blobs::s3_knows_its_ledger");
    assert_eq!(keys(&server), ["some/prefix/identity.json"], "of a run without blobs");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an S3 server: started by the test above"]
async fn s3_knows_its_ledger() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let [own, older, other] = folders.each_ref().map(|folder| folder.path());
    let start = async |folder: &Path| {
        let mut options = CoordinatorOptions::new(folder);
        options.blobs = Some(address.as_str().into());
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = Listeners::bind(any_port, any_port).await.expect("free ports");
        let shutdown = CancellationToken::new();
        let started = Coordinator::start(options, listeners, shutdown.clone()).await;
        started.map(|coordinator| (coordinator, shutdown))
    };
    for is_submitted in [false, true, false] {
        let (coordinator, shutdown) = start(own).await.expect("it serves");
        if is_submitted {
            let assets = RunAssets {
                prompts: vec!["a cat".into()],
                ..RunAssets::default()
            };
            let submitted = coordinator
                .driver()
                .submit(RunId("known".into()), RunSpec::default(), assets);
            submitted.await.expect("a run");
        }
        shutdown.cancel();
        coordinator.join().await.expect("an orderly end");
        if !older.join("ledger.sqlite").exists() {
            std::fs::copy(own.join("ledger.sqlite"), older.join("ledger.sqlite")).expect("copied");
        }
    }
    let refused = async |folder: &Path| match start(folder).await.expect_err("not its blobs") {
        Error::Binding(problem) => problem,
        error => panic!("{error}"),
    };
    let problem = refused(older).await;
    assert!(
        matches!(&problem, BindingError::OlderLedger { run, .. } if run.0 == "known"),
        "{problem}"
    );
    let problem = refused(other).await;
    assert!(
        matches!(problem, BindingError::OtherLedger { is_empty: true, .. }),
        "{problem}"
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_written_says_so_when_it_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let occupied = folder.path().join("occupied");
    std::fs::write(&occupied, "a file where a folder is needed").expect("a file");
    let error = Blobs::open_folder(&occupied, BOUND).await.expect_err("no folder");
    assert!(matches!(error, BlobError::Unwritable { .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--data")));
}
