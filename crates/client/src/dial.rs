//! How one coordinator is dialled: the connection, its encryption, and what keeps the two sides apart.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower_service::Service;

use crate::trouble::Trouble;

/// How long two sides may take to agree on encryption.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// What kept the latest connection from being used. Clones share it.
///
/// Whoever is sent away hears of it after the handshake, in the middle of a call, where HTTP/2 tells no more than that the
/// connection ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct LatestTrouble(Arc<Mutex<Option<Trouble>>>);

impl LatestTrouble {
    pub(crate) fn get(&self) -> Option<Trouble> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, trouble: Option<Trouble>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn note(&self, error: &io::Error) {
        if let Some(trouble) = Trouble::of(error) {
            self.set(Some(trouble));
        }
    }
}

/// Dials one coordinator.
#[derive(Clone)]
pub(crate) struct Dialler {
    tcp: HttpConnector,
    /// The encryption, and the name that the coordinator's certificate has to have.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    trouble: LatestTrouble,
}

impl Dialler {
    pub(crate) fn new(tls: Option<(TlsConnector, ServerName<'static>)>, trouble: LatestTrouble) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, tls, trouble }
    }
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<Wire>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tls, trouble) = (self.tls.clone(), self.trouble.clone());
        let connected = self.tcp.call(uri);
        Box::pin(async move {
            let stream = connected.await?.into_inner();
            trouble.set(None);
            let channel = match tls {
                None => Either::Left(stream),
                Some((tls, name)) => {
                    let shaken = timeout(HANDSHAKE_WITHIN, tls.connect(name, stream)).await;
                    let shaken = shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    Either::Right(Box::new(shaken.inspect_err(|error| trouble.note(error))?))
                }
            };
            Ok(TokioIo::new(Wire {
                channel,
                has_read: false,
                trouble,
            }))
        })
    }
}

/// How bytes travel: plain, or encrypted.
type Channel = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that notes what keeps it from being used.
pub(crate) struct Wire {
    channel: Channel,
    has_read: bool,
    trouble: LatestTrouble,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.channel).poll_read(cx, buffer));
        match (&read, buffer.filled().get(before)) {
            (Err(error), _) => this.trouble.note(error),
            (Ok(()), Some(first)) if !this.has_read => {
                this.has_read = true;
                if let Some(trouble) = Trouble::of_first_byte(*first) {
                    this.trouble.set(Some(trouble));
                }
            }
            _ => {}
        }
        Poll::Ready(read)
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
