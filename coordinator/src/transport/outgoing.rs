//! The body of an answer: what is large is counted until it is sent, and a caller who does not read is cut off.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Extensions;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard, PollSemaphore};

use super::connections::{Asking, Connection};
use super::rooms::{Kept, Pace};

/// After so long an answer counts as unread, and its connection may have to give way.
const UNREAD: Duration = Duration::from_secs(5);
/// After so many times [`UNREAD`] its connection is cut off even where nobody waits for the room.
const TURNS: u32 = 12;

/// An answer on its way.
pub(super) struct Outgoing<B> {
    body: B,
    room: Room,
    connection: Option<Connection>,
    /// The connection is at work until the answer is sent; so is the call.
    _asking: Option<Asking>,
    _call: Option<OwnedSemaphorePermit>,
}

/// What the answer's bytes take room of.
enum Room {
    /// Of none: they are few.
    None,
    /// The whole answer has its room.
    Kept(Kept),
    /// Each piece takes room before it is made.
    Paced {
        pieces: PollSemaphore,
        next: Option<OwnedSemaphorePermit>,
    },
}

/// Bytes with the room that they take.
struct Held<R> {
    bytes: Bytes,
    _room: R,
    _sent: Option<DropGuard>,
}

impl<R> AsRef<[u8]> for Held<R> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B> Outgoing<B> {
    /// `extensions` are those of the answer, in which its maker says what room it has.
    pub(super) fn new(
        body: B,
        extensions: &Extensions,
        connection: Option<Connection>,
        asking: Option<Asking>,
        call: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let room = match (extensions.get::<Pace>(), extensions.get::<Kept>()) {
            (Some(pace), _) => Room::Paced {
                pieces: PollSemaphore::new(pace.pieces.clone()),
                next: pace.first(),
            },
            (None, Some(kept)) => Room::Kept(kept.clone()),
            (None, None) => Room::None,
        };
        Self {
            body,
            room,
            connection,
            _asking: asking,
            _call: call,
        }
    }

    fn hold<R: Send + Sync + 'static>(&self, bytes: Bytes, room: R, of: Arc<Semaphore>) -> Bytes {
        Bytes::from_owner(Held {
            bytes,
            _room: room,
            _sent: self.connection.as_ref().map(|connection| sent_in_time(connection, of)),
        })
    }
}

/// Cuts the connection off, unless the guard is dropped in time. `room` is what others may wait for.
fn sent_in_time(connection: &Connection, room: Arc<Semaphore>) -> DropGuard {
    let sent = CancellationToken::new();
    let (is_sent, connection) = (sent.clone(), connection.clone());
    tokio::spawn(async move {
        if timeout(UNREAD, is_sent.cancelled()).await.is_ok() {
            return;
        }
        let _unread = connection.does_not_read();
        for _ in 1..TURNS {
            if room.available_permits() == 0 || timeout(UNREAD, is_sent.cancelled()).await.is_ok() {
                break;
            }
        }
        if !is_sent.is_cancelled() {
            tracing::info!("a caller does not read its answer and is cut off");
            connection.close();
        }
    });
    sent.drop_guard()
}

impl<B> Body for Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Room::Paced { pieces, next } = &mut this.room
            && next.is_none()
        {
            *next = ready!(pieces.poll_acquire(cx));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let Some(Ok(frame)) = frame else {
            return Poll::Ready(frame);
        };
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        let held = match &mut this.room {
            Room::None => bytes,
            Room::Kept(kept) => {
                let (kept, of) = (kept.clone(), kept.of());
                this.hold(bytes, kept, of)
            }
            Room::Paced { pieces, next } => {
                let (room, of) = (next.take(), pieces.clone_inner());
                this.hold(bytes, room, of)
            }
        };
        Poll::Ready(Some(Ok(Frame::data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
