//! The connections of a server: not more than a bound, and none that only takes up a place.
//!
//! Where all places are taken, a connection gives way to a new one: first one that has never asked anything, then one on which
//! nothing is being asked, then one whose caller does not read. Whoever only takes up places therefore keeps nobody out.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The pause after an accept that failed because the process has no descriptor or memory left.
const PAUSE: Duration = Duration::from_millis(100);

/// The places that a server has for connections.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// By the order in which they came.
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

impl Open {
    /// The connection that is missed least; `None` where all are at work.
    fn idlest(&self) -> Option<u64> {
        let is_silent = |connection: &Connection| connection.is_idle() && !connection.has_asked();
        let oldest = |is: &dyn Fn(&Connection) -> bool| {
            let mut connections = self.connections.iter();
            connections
                .find(|(_, connection)| is(connection))
                .map(|(number, _)| *number)
        };
        oldest(&is_silent)
            .or_else(|| oldest(&Connection::is_idle))
            .or_else(|| oldest(&Connection::is_unread))
    }
}

/// One connection, as its requests know it.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Who is at the other end.
    peer: SocketAddr,
    /// Whether the other end has shown a certificate that is trusted.
    is_certified: AtomicBool,
    closed: CancellationToken,
    /// Requests that are being answered.
    asked: AtomicUsize,
    has_asked: AtomicBool,
    /// Parts of answers that have lain unsent for a while.
    unread: AtomicUsize,
}

impl Connection {
    fn new(peer: SocketAddr) -> Self {
        Self(Arc::new(Shared {
            peer,
            is_certified: AtomicBool::new(false),
            closed: CancellationToken::new(),
            asked: AtomicUsize::new(0),
            has_asked: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
        }))
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Whether the other end has shown a certificate that is trusted.
    pub(crate) fn is_certified(&self) -> bool {
        self.0.is_certified.load(Ordering::Relaxed)
    }

    pub(super) fn certify(&self) {
        self.0.is_certified.store(true, Ordering::Relaxed);
    }

    /// Cuts the connection off: what was to be sent on it is dropped.
    pub(super) fn close(&self) {
        self.0.closed.cancel();
    }

    /// Notes that something is being asked, until the guard is dropped.
    pub(super) fn asks(&self) -> Asking {
        self.0.has_asked.store(true, Ordering::Relaxed);
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        Asking(self.clone())
    }

    /// Notes that the caller does not read, until the guard is dropped.
    pub(super) fn does_not_read(&self) -> Unread {
        self.0.unread.fetch_add(1, Ordering::Relaxed);
        Unread(self.clone())
    }

    fn is_unread(&self) -> bool {
        self.0.unread.load(Ordering::Relaxed) > 0
    }

    fn is_idle(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) == 0
    }

    fn has_asked(&self) -> bool {
        self.0.has_asked.load(Ordering::Relaxed)
    }
}

/// Something is being asked as long as this lives.
#[derive(Debug)]
pub(super) struct Asking(Connection);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part of an answer lies unsent as long as this lives.
#[derive(Debug)]
pub(super) struct Unread(Connection);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.0.unread.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: Mutex::default(),
        })
    }

    /// Accepts connections, without end.
    pub(super) fn accept(self: Arc<Self>, listener: TcpListener) -> impl Stream<Item = Placed> {
        futures::stream::unfold((self, listener), async |(places, listener)| {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        // Calls are small and answered at once. A socket that cannot be told so works as well.
                        let _ = stream.set_nodelay(true);
                        if let Some(placed) = places.place(stream, peer) {
                            return Some((placed, (places, listener)));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        })
    }

    /// A place for the connection; `None` where every other one is at work.
    fn place(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Option<Placed> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.connections.len() >= self.most {
            let Some(number) = open.idlest() else {
                tracing::warn!(most = self.most, "a connection is refused: all others are at work");
                return None;
            };
            if let Some(connection) = open.connections.remove(&number) {
                connection.close();
            }
        }
        let number = open.next;
        open.next += 1;
        let connection = Connection::new(peer);
        open.connections.insert(number, connection.clone());
        Some(Placed {
            stream,
            number,
            closed: Box::pin(connection.0.closed.clone().cancelled_owned()),
            connection,
            places: Arc::clone(self),
        })
    }

    fn leave(&self, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.connections.remove(&number);
    }
}

/// A connection that has a place.
#[derive(Debug)]
pub(super) struct Placed {
    stream: TcpStream,
    number: u64,
    connection: Connection,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    places: Arc<Places>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.places.leave(self.number);
    }
}

impl Placed {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The first byte that comes, which stays to be read.
    pub(super) async fn peek(&self) -> io::Result<u8> {
        let mut byte = [0];
        tokio::select! {
            peeked = self.stream.peek(&mut byte) => match peeked? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(byte[0]),
            },
            () = self.connection.0.closed.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_closed(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_closed(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_closed(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(connections: &[Connection]) -> Open {
        Open {
            connections: (0..).zip(connections.iter().cloned()).collect(),
            next: 0,
        }
    }

    #[test]
    fn the_connection_that_is_missed_least_gives_way() {
        let [working, unread, idle, silent] = [1, 2, 3, 4].map(|port| Connection::new(([127, 0, 0, 1], port).into()));
        let (_works, _asks) = (working.asks(), unread.asks());
        let _lies_unsent = unread.does_not_read();
        drop(idle.asks());
        let all = [working, unread, idle, silent];
        for (count, expected) in [(4, Some(3)), (3, Some(2)), (2, Some(1)), (1, None)] {
            assert_eq!(open(&all[..count]).idlest(), expected, "of {count}");
        }
    }
}
