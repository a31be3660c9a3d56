//! What servers read and write: a connection, encrypted or not, that has to begin in time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt as _, future};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpListener;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;

use super::connections::{Connection, Placed, Places};

/// How long a new connection may take to agree on its encryption.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long somebody who is sent away may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a connection may take to begin.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// How much that is: the preface of HTTP/2, and less than any request that names its host.
const FIRST_WORD_BYTES: usize = 24;

/// The first byte of TLS.
const HANDSHAKE_RECORD: u8 = 22;
/// What somebody reads who speaks HTTP in the clear to a server that does not.
const SPEAKS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    this port is encrypted: ask by https://\n";

/// Accepts connections, without end. Each has its place before a byte of it is read, and keeps it until it is closed; whoever
/// takes long to agree on encryption keeps nobody waiting. `tls` gives the encryption of the moment.
pub(super) fn accept(
    listener: TcpListener,
    places: Arc<Places>,
    tls: Option<impl Fn() -> TlsAcceptor>,
) -> impl Stream<Item = io::Result<Wire>> {
    let wires = places.accept(listener).map(move |placed| match &tls {
        None => Either::Left(future::ready(Some(Wire::new(Either::Left(placed))))),
        Some(tls) => {
            let encrypted = AbortOnDropHandle::new(tokio::spawn(encrypt(placed, tls())));
            Either::Right(async move { Some(Wire::new(encrypted.await.ok()?.ok()?)) })
        }
    });
    // Those at once are bounded by the places.
    wires.buffer_unordered(usize::MAX).filter_map(async |wire| wire.map(Ok))
}

/// Agrees on encryption, or tells whoever is not trusted, or does not encrypt.
async fn encrypt(placed: Placed, tls: TlsAcceptor) -> io::Result<Channel> {
    let connection = placed.connection().clone();
    let shaken = timeout(HANDSHAKE, shake(placed, tls)).await;
    let shaken = shaken.unwrap_or_else(|_| Err((io::ErrorKind::TimedOut.into(), None)));
    let stream = match shaken {
        Ok(stream) => stream,
        Err((error, placed)) => {
            tracing::debug!(peer = %connection.peer(), %error, "a connection did not agree on encryption");
            if let Some(placed) = placed {
                let _ = timeout(FAREWELL, say_farewell(placed)).await;
            }
            return Err(error);
        }
    };
    // The handshake has checked it, where there is one.
    if stream.get_ref().1.peer_certificates().is_some() {
        connection.certify();
    }
    Ok(Either::Right(Box::new(stream)))
}

async fn shake(mut placed: Placed, tls: TlsAcceptor) -> Result<TlsStream<Placed>, (io::Error, Option<Placed>)> {
    match placed.peek().await {
        Ok(HANDSHAKE_RECORD) => {
            let accepted = tls.accept(placed).into_fallible().await;
            accepted.map_err(|(error, placed)| (error, Some(placed)))
        }
        Ok(_) => {
            let written = placed.write_all(SPEAKS_TLS).await;
            let error = written
                .err()
                .unwrap_or_else(|| io::Error::other("it does not speak TLS"));
            Err((error, Some(placed)))
        }
        Err(error) => Err((error, None)),
    }
}

/// Ends a connection so that its other end reads what was said last: one that is closed with bytes unread loses it.
async fn say_farewell(mut placed: Placed) -> io::Result<()> {
    placed.shutdown().await?;
    tokio::io::copy(&mut placed, &mut tokio::io::sink()).await.map(drop)
}

/// How bytes travel: plain, or encrypted.
type Channel = Either<Placed, Box<TlsStream<Placed>>>;

/// A connection that a server reads and writes.
#[derive(Debug)]
pub(super) struct Wire {
    channel: Channel,
    /// Runs out unless so many bytes are read before.
    first_word: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Wire {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            first_word: Some((Box::pin(tokio::time::sleep(FIRST_WORD)), FIRST_WORD_BYTES)),
        }
    }
}

impl Connected for Wire {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        let placed = match &self.channel {
            Either::Left(placed) => placed,
            Either::Right(stream) => stream.get_ref().0,
        };
        placed.connection().clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.channel).poll_read(cx, buffer);
        if let Poll::Ready(read) = read {
            let said = buffer.filled().len() - before;
            this.first_word = this.first_word.take().filter(|(_, left)| said < *left);
            if let Some((_, left)) = &mut this.first_word {
                *left -= said;
            }
            return Poll::Ready(read);
        }
        if let Some((first_word, _)) = &mut this.first_word {
            ready!(first_word.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.channel).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.channel).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.channel.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}
