//! Those who open connections and say nothing, or half a sentence.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::target::{DESCRIPTORS, Target};

/// Connects without end, as it seems to the server, and says this on each connection.
async fn half_open(address: SocketAddr, words: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        // The server may have closed it already.
        let _ = stream.write_all(words).await;
        open.push(stream);
    }
    open
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_keep_nobody_out_and_leave_descriptors_for_blobs() {
    let target = Target::start().await;
    let mut open = Vec::new();
    for words in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        open.extend(half_open(target.http(), words.as_bytes()).await);
        target.answers().await;
    }
    for words in ["", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        open.extend(half_open(target.grpc(), words.as_bytes()).await);
        let bytes = bytes::Bytes::from(words.to_owned());
        let digest = gavel_core::ids::Digest::of(&bytes);
        let blobs = target.connection().await.blobs();
        blobs.put(digest, bytes.clone()).await.expect("stored");
        assert_eq!(blobs.get(digest).await.expect("kept"), bytes);
    }
    drop(open);
    target.has_survived().await;
}
