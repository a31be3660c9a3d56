//! One channel made of several, for coordinators of which one leads and the others stand by. Every call goes through here, so
//! that here it is also given the token of its client and the trace that it belongs to.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use gavel_telemetry::TraceContext;
use http::{HeaderValue, Request, Response, header};
use tonic::Code;
use tonic::body::Body;
use tonic::transport::{Channel, Error};
use tower_service::Service;

/// Channels in a ring. Calls go to one of them until a call finds nobody, or a standby, at its end; then to the next.
///
/// It repeats nothing by itself: whoever calls waits between attempts, and the next attempt goes to the next address. A call
/// within [`TraceContext::scope`] carries the context in its headers.
#[derive(Debug, Clone)]
pub(crate) struct Failover {
    /// At least one.
    channels: Arc<[Channel]>,
    /// The first channel's index, and one more for each time that this moved on; the index in the ring is the remainder.
    moves: Arc<AtomicUsize>,
    /// What every call shows of the client.
    authorization: Option<HeaderValue>,
}

impl Failover {
    /// Begins with the channel at index `first`.
    pub(crate) fn new(channels: Vec<Channel>, first: usize, authorization: Option<HeaderValue>) -> Self {
        Self {
            channels: channels.into(),
            moves: Arc::new(AtomicUsize::new(first)),
            authorization,
        }
    }
}

impl Service<Request<Body>> for Failover {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Which channel it will be is known only when the call is made.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(context) = TraceContext::current() {
            context.inject(request.headers_mut());
        }
        if let Some(authorization) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let moves = Arc::clone(&self.moves);
        let moved = moves.load(Ordering::Relaxed);
        let mut channel = self.channels[moved % self.channels.len()].clone();
        Box::pin(async move {
            let answer = match std::future::poll_fn(|context| channel.poll_ready(context)).await {
                Ok(()) => channel.call(request).await,
                Err(error) => Err(error),
            };
            if is_away(&answer) {
                // Of several calls that fail on one address, the first moves on; the others find it done.
                let _ = moves.compare_exchange(moved, moved.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
            }
            answer
        })
    }
}

/// No connection, no answer in time, or an answer without a body that says UNAVAILABLE.
fn is_away(answer: &Result<Response<Body>, Error>) -> bool {
    match answer {
        Ok(response) => response
            .headers()
            .get("grpc-status")
            .is_some_and(|status| Code::from_bytes(status.as_bytes()) == Code::Unavailable),
        Err(_) => true,
    }
}
