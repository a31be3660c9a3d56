//! Where listening sockets become servers: the one set-up for gRPC and the one for HTTP, which the leading coordinator and a
//! standby share. Encryption would be put here, and whoever may not call would be sent away here.

use std::time::Duration;

use axum::Router;
use gavel_telemetry::span;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::error::Error;

/// A worker whose machine vanished is noticed within these two together, not after TCP's many minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Blobs travel beside small calls; a larger window keeps a long road full.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Serves gRPC until `shutdown`, then until open calls have ended. A call that belongs to a trace is answered in a span that
/// names it.
pub(crate) async fn serve_grpc(
    listener: TcpListener,
    routes: Routes,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .trace_fn(|request| span::request(request.uri().path(), request.headers()))
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown)
        .await
        .map_err(|source| Error::Serve {
            part: "gRPC",
            source: source.into(),
        })
}

/// Serves HTTP until `shutdown`, then until open answers have been read.
pub(crate) async fn serve_http(
    listener: TcpListener,
    routes: Router,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    axum::serve(listener, routes)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(|source| Error::Serve {
            part: "HTTP",
            source: source.into(),
        })
}
