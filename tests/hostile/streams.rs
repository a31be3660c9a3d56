//! Those who ask and do not read, and those who send and come to a halt.

use std::net::SocketAddr;
use std::time::Duration;

use gavel_client::persist;
use gavel_core::ids::Digest;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::stranger::{Stranger, v1};
use crate::target::Target;

/// Bytes of a blob that is larger than any window.
const LARGE: usize = 8 << 20;
/// How long somebody honest may have to come back until there is room.
const PATIENCE: Duration = Duration::from_secs(90);

/// As a worker stores a blob: it comes back when it is told that there is no room.
async fn store(target: &Target, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(&bytes);
    let blobs = target.connection().await.blobs();
    let bytes = bytes::Bytes::from(bytes);
    let stored = persist("store a blob", || blobs.put(digest, bytes.clone()));
    let stored = tokio::time::timeout(PATIENCE, stored).await;
    stored.expect("room for an upload").expect("stored");
    digest
}

async fn fetch(target: &Target, digest: Digest) -> bytes::Bytes {
    let blobs = target.connection().await.blobs();
    let fetched = persist("fetch a blob", || blobs.get(digest));
    let fetched = tokio::time::timeout(PATIENCE, fetched).await;
    fetched.expect("room for a download").expect("kept")
}

async fn ask_and_do_not_read(http: SocketAddr, path: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(http).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_nobody_reads_take_a_bounded_part_of_memory() {
    let target = Target::start().await;
    let digest = store(&target, vec![7; LARGE]).await;
    let path = format!("/api/v1/blobs/{digest}");
    let mut unread = Vec::new();
    for _ in 0..600 {
        unread.extend(ask_and_do_not_read(target.http(), &path).await);
    }
    // HTTP/2 holds back by its own windows: one connection asks for hundreds, and reads none.
    let stranger = Stranger::new(target.grpc());
    let asks = (0..700).map(|_| {
        let mut blobs = stranger.blobs();
        let sha256 = digest.to_string();
        tokio::spawn(async move {
            blobs
                .get(v1::GetRequest {
                    sha256,
                    ..v1::GetRequest::default()
                })
                .await
        })
    });
    let asks: Vec<_> = asks.collect();
    target.answers().await;
    assert_eq!(fetch(&target, digest).await.len(), LARGE);
    drop((unread, asks));
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_come_to_a_halt_take_a_bounded_part_of_memory_and_give_way() {
    let target = Target::start().await;
    let strangers: Vec<Stranger> = (0..10).map(|_| Stranger::new(target.grpc())).collect();
    let mut uploads = Vec::new();
    for number in 0..300_u32 {
        let mut blobs = strangers[number as usize % strangers.len()].blobs();
        let message = v1::PutRequest {
            chunk: vec![1; 1 << 20],
            sha256: Digest::of(&number.to_le_bytes()).to_string(),
        };
        // Some have begun to be large.
        let messages = if number % 16 == 0 { 4 } else { 1 };
        let beginning = tokio_stream::iter(vec![message; messages]);
        let halted = tokio_stream::StreamExt::chain(beginning, tokio_stream::pending());
        uploads.push(tokio::spawn(async move { blobs.put(halted).await }));
    }
    // Somebody has been told to come back: the place at the door is bounded.
    let refused = tokio::time::timeout(Duration::from_secs(60), futures::future::select_all(&mut uploads)).await;
    let (first, ..) = refused.expect("an answer");
    assert_eq!(
        first.expect("no panic").expect_err("no room").code(),
        tonic::Code::ResourceExhausted
    );
    let digest = store(&target, vec![9; LARGE]).await;
    assert_eq!(fetch(&target, digest).await.len(), LARGE);
    drop(uploads);
    target.has_survived().await;
}
