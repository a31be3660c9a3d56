//! HTTP: probes, metrics, the API that [`endpoints`] lists, and the dashboard, from which a run can be steered.

mod answer;
mod ask;
mod blobs;
mod control;
mod endpoints;
mod evaluation;
mod events;
mod guard;
mod login;
mod merge_patch;
mod openapi;
mod overview;
mod pages;
mod pairs;
mod problem;
mod ready;
mod results;
mod rubrics;
mod runs;
mod session;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

use crate::access::Security;
use crate::blobs::Blobs;
use crate::driver::DriverHandle;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::transport::Rooms;
use crate::{metrics, transport};
pub(crate) use guard::{Guard, HostNames, guard};
pub(crate) use problem::Problem;
use ready::Readiness;
use stream::Streams;

#[derive(Clone)]
struct Parts {
    driver: DriverHandle,
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
    readiness: Readiness,
    rooms: Rooms,
    security: Security,
    streams: Streams,
}

/// What whoever starts the coordinator decides about its pages.
pub(crate) struct Settings {
    /// Who may ask for them, and under which names.
    pub(crate) guard: Guard,
    /// The folder in which people find the results of the runs, if somebody leaves them there.
    pub(crate) results: Option<PathBuf>,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    driver: DriverHandle,
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
    rooms: Rooms,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let security = settings.guard.security.clone();
    let tls = security.tls.clone();
    let parts = Parts {
        readiness: Readiness::new(driver.clone(), Arc::clone(&ledger), blobs.clone()),
        streams: Streams::new(driver.clone(), settings.results, shutdown.clone()),
        driver,
        blobs,
        ledger,
        rooms,
        security: security.clone(),
    };
    // All but what is compressed already, and bytes that do not get smaller. A stream is flushed whenever it waits.
    let is_compressible = SizeAbove::default()
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::const_new("application/octet-stream"));
    let routes = endpoints::router()
        .merge(pages::routes())
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such page"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this page can only be read")
        })
        .with_state(parts)
        .merge(login::routes(security))
        .layer(CompressionLayer::new().compress_when(is_compressible))
        .layer(from_fn(answer::not_modified))
        .layer(from_fn_with_state(settings.guard, guard));
    transport::serve_http(listener, routes, tls, shutdown).await
}

pub(crate) async fn metrics_text() -> Result<Response, Problem> {
    let prometheus = metrics::prometheus().ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "another metrics recorder is installed in this process",
        )
    })?;
    Ok((
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        prometheus.render(),
    )
        .into_response())
}

async fn metrics_page(State(parts): State<Parts>) -> Result<Response, Problem> {
    parts.driver.measure().await?;
    metrics_text().await
}

async fn readyz(State(parts): State<Parts>) -> Result<&'static str, Problem> {
    parts.readiness.check().await?;
    Ok("ready\n")
}
