//! Where listening sockets become servers: the one set-up for gRPC and the one for HTTP, which the leading coordinator and a
//! standby share. Connections are encrypted here, and calls that may not be made are sent away here.
//!
//! Whoever reaches the ports may send anything: connections, requests and unsent answers are bounded here, each in a module of
//! its own.

mod calls;
mod connections;
mod descriptors;
mod gate;
mod incoming;
mod meter;
mod outgoing;
mod rooms;
mod tls;
mod wire;

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use futures::StreamExt as _;
use gavel_telemetry::span;
use http::Request;
use hyper::body::Incoming as HyperBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tower_service::Service as _;

pub(crate) use connections::Connection;
pub(crate) use rooms::{Busy, Kept, PIECE_BYTES, Rooms};
pub use tls::{ServerTls, TlsError};

use crate::access::Security;
use crate::error::Error;
use connections::Places;
use descriptors::Shares;
use gate::GateLayer;
use meter::MeterLayer;
use outgoing::Outgoing;

/// A worker whose machine vanished is noticed within these two together, not after TCP's many minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What a caller may send before it is read. Larger windows keep a longer road full; every connection may take so much memory.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// Open calls of one connection. Simulated fleets share connections.
const STREAMS: u32 = 4_096;
/// Metadata of a call, and headers of an HTTP request.
const HEADER_BYTES: usize = 16 << 10;
/// How long an HTTP client may take to say what it wants, also on a connection that has asked before.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// Serves gRPC until `shutdown`, then until open calls have ended. A call that belongs to a trace is answered in a span that
/// names it, and finds in its extensions what is granted to it ([`crate::access::Granted`]).
pub(crate) async fn serve_grpc(
    listener: TcpListener,
    routes: Routes,
    security: &Security,
    rooms: &Rooms,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let places = Places::new(Shares::of_this_process().grpc);
    let wires = wire::accept(listener, places, security.tls.clone().map(|tls| move || tls.grpc()));
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES as u32)
        .trace_fn(|request| span::request(request.uri().path(), request.headers()))
        .layer(GateLayer::new(security.access.clone(), security.refusals.clone()))
        .layer(MeterLayer::new(rooms.requests.clone()))
        .add_routes(routes)
        .serve_with_incoming_shutdown(wires, shutdown)
        .await
        .map_err(|source| Error::Serve {
            part: "gRPC",
            source: source.into(),
        })
}

/// Serves HTTP until `shutdown`, then until open answers have been read. A request finds its [`Connection`] in its extensions.
pub(crate) async fn serve_http(
    listener: TcpListener,
    routes: Router,
    tls: Option<ServerTls>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(HEADER_BYTES);
    let places = Places::new(Shares::of_this_process().http);
    let wires = wire::accept(listener, places, tls.map(|tls| move || tls.http()));
    let mut incoming = pin!(wires.take_until(shutdown.clone().cancelled_owned()));
    let mut open = JoinSet::new();
    while let Some(accepted) = incoming.next().await {
        // One that is gone already.
        let Ok(io) = accepted else { continue };
        let connection = tonic::transport::server::Connected::connect_info(&io);
        let routes = routes.clone();
        let answer = service_fn(move |request| answer(routes.clone(), connection.clone(), request));
        let served = server.serve_connection(TokioIo::new(io), answer);
        let shutdown = shutdown.clone();
        open.spawn(async move {
            let mut served = pin!(served);
            let ended = tokio::select! {
                ended = served.as_mut() => ended,
                () = shutdown.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP connection ended");
            }
        });
        while open.try_join_next().is_some() {}
    }
    while open.join_next().await.is_some() {}
    Ok(())
}

/// One HTTP request.
async fn answer(
    mut routes: Router,
    connection: Connection,
    request: Request<HyperBody>,
) -> Result<http::Response<Outgoing<axum::body::Body>>, std::convert::Infallible> {
    let asking = connection.asks();
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(connection.clone());
    let answer = routes.call(request).await?;
    let (parts, body) = answer.into_parts();
    let body = Outgoing::new(body, &parts.extensions, Some(connection), Some(asking), None);
    Ok(http::Response::from_parts(parts, body))
}
