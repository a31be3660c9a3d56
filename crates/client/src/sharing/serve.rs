//! The connections of a worker that shares blobs: bounded in number, in what they ask and in how long they take.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gavel_core::blob_store::direct_within;
use gavel_core::ids::Digest;
use gavel_core::work::Pass;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Admission, PATH, Source};

/// Connections at a time. The coordinator sends two; a few more may be about to end, or knock without a pass.
const CONNECTIONS: usize = 16;
/// How long somebody may take to say what they want, from their connection on.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// What a request may hold before its end; there is no body.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How much of a blob is handed to a connection at a time.
const PIECE_BYTES: usize = 256 << 10;
/// How long to wait where the system gives no connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that has shown no pass, unless its fate is settled: it has shown one since, or is closed for another.
struct Silent {
    settled: Settled,
    task: AbortHandle,
}

/// Set by whoever comes first: the connection that shows its pass, or the one that takes its place.
#[derive(Clone, Default)]
struct Settled(Arc<AtomicBool>);

impl Settled {
    /// Whether nobody was before.
    fn settle(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

/// Serves whoever comes, so many at a time. One more takes the place of the oldest that has shown no pass; where all have shown theirs it waits.
pub(super) async fn accept(listener: TcpListener, acceptor: TlsAcceptor, admission: Admission, source: Arc<Source>) {
    let mut open = JoinSet::new();
    let mut silent: VecDeque<Silent> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while open.try_join_next().is_some() {}
        silent.retain(|one| !one.task.is_finished());
        if open.len() >= CONNECTIONS {
            while let Some(oldest) = silent.pop_front() {
                if oldest.settled.settle() {
                    oldest.task.abort();
                    break;
                }
            }
            open.join_next().await;
        }
        let (acceptor, admission, source) = (acceptor.clone(), admission.clone(), Arc::clone(&source));
        let settled = Settled::default();
        let shown = settled.clone();
        let task = open.spawn(async move { serve(stream, &acceptor, &admission, &source, &shown).await });
        silent.push_back(Silent { settled, task });
    }
}

/// One connection, one request. Whoever does not say what they want, or does not take it in time, is cut off.
async fn serve(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    admission: &Admission,
    source: &Arc<Source>,
    settled: &Settled,
) {
    let until = watch::Sender::new(Instant::now() + ASK_WITHIN);
    let Ok(Ok(stream)) = timeout(ASK_WITHIN, acceptor.accept(stream)).await else {
        return;
    };
    let answer = service_fn(|request: Request<Incoming>| {
        let answer = answer(&request, admission, source.as_ref(), settled);
        let size = answer.body().rest.len() as u64;
        until.send_replace(Instant::now() + direct_within(size));
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASK_WITHIN)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let mut changed = until.subscribe();
    loop {
        let end = *changed.borrow_and_update();
        tokio::select! {
            // Whoever fetches tells what went wrong.
            _ = &mut connection => return,
            () = sleep_until(end) => return,
            Ok(()) = changed.changed() => {}
        }
    }
}

/// The blob, to whoever shows the pass for it; whether it is here is told to nobody else.
fn answer(request: &Request<Incoming>, admission: &Admission, source: &Source, settled: &Settled) -> Response<Pieces> {
    let status = |status: StatusCode| {
        let mut answer = Response::new(Pieces { rest: Bytes::new() });
        *answer.status_mut() = status;
        answer
    };
    let named = request.uri().path().strip_prefix(PATH);
    let (&Method::GET, Some(Ok(blob))) = (request.method(), named.map(str::parse::<Digest>)) else {
        return status(StatusCode::NOT_FOUND);
    };
    let shown = request.headers().get(AUTHORIZATION);
    let shown = shown.and_then(|value| hex::decode(value.to_str().ok()?.strip_prefix("Bearer ")?).ok());
    match shown.and_then(|bytes| Pass::read(&bytes)) {
        Some(pass) if admission.opens(&pass, &blob) && settled.settle() => {}
        _ => return status(StatusCode::FORBIDDEN),
    }
    source(&blob).map_or_else(|| status(StatusCode::NOT_FOUND), |rest| Response::new(Pieces { rest }))
}

/// Bytes in pieces, so that no connection copies them all at once.
struct Pieces {
    rest: Bytes,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
