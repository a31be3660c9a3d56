//! What the blob store promises, held against a folder and against memory; and what it says of bytes that changed.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use gavel_coordinator::blobs::{BlobError, Blobs};
use gavel_core::hint::Hint as _;
use gavel_core::ids::Digest;
use object_store::memory::InMemory;

const BOUND: u64 = 64 << 20;

/// Bytes that differ from place to place, so that a piece in the wrong order is seen.
fn pattern(size: usize) -> Bytes {
    (0..size)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

async fn streamed(blobs: &Blobs, digest: &Digest) -> Result<Bytes, BlobError> {
    let pieces: Vec<Bytes> = blobs.stream(digest).await?.try_collect().await?;
    Ok(pieces.concat().into())
}

async fn keeps_its_promises(blobs: Blobs) {
    // From nothing, over one piece, to several pieces that are staged first.
    for size in [0, 1, 1 << 20, (4 << 20) + 1, 23 << 20] {
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

    let mut writer = blobs.writer();
    let mut refused = None;
    while refused.is_none() {
        refused = writer.write(pattern(16 << 20)).await.err();
    }
    assert!(matches!(refused, Some(BlobError::TooLarge { blob_bytes_max: BOUND })));
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
        let mut bytes = std::fs::read(&file).expect("the file");
        bytes[size / 2] ^= 1;
        std::fs::write(&file, bytes).expect("one bit flipped");
        assert!(
            matches!(blobs.get(&digest).await, Err(BlobError::Corrupt { .. })),
            "{size}"
        );
        let error = streamed(&blobs, &digest).await.expect_err("one bit flipped");
        assert!(
            matches!(&error, BlobError::Corrupt { digest: named, .. } if *named == digest),
            "{error}"
        );
        assert!(error.hint().is_some());

        // Work that is done again gives the same bytes: they must take the place of the changed ones.
        assert_eq!(blobs.put(pattern(size)).await.expect("stored again"), digest);
        assert!(blobs.get(&digest).await.expect("made good") == pattern(size), "{size}");
    }
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
