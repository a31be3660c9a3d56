//! HTTP: probes, metrics, the state as JSON, and the dashboard. It only reads.

mod end;
mod pairs;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt as _;
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Digest, RunId};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::blobs::{BlobError, Blobs};
use crate::driver::{DriverError, DriverHandle};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::{metrics, transport};

const DASHBOARD: &str = include_str!("dashboard.html");
/// What every PNG begins with.
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Pairs in a gallery, unless the caller says otherwise, and at most.
const PAIRS: usize = 12;
const PAIRS_MAX: usize = 500;

#[derive(Clone)]
struct Parts {
    driver: DriverHandle,
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    driver: DriverHandle,
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
    results: Option<PathBuf>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let end = end::routes(driver.clone(), results, shutdown.clone());
    let routes = Router::new()
        .route("/", get(async || Html(DASHBOARD)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/runs", get(runs))
        .route("/api/v1/runs/{run}", get(run))
        .route("/api/v1/runs/{run}/pairs", get(run_pairs))
        .route("/api/v1/workers", get(workers))
        .route("/api/v1/blobs/{sha256}", get(blob))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such page"))
        .with_state(Parts { driver, blobs, ledger })
        .merge(end);
    transport::serve_http(listener, routes, shutdown).await
}

/// Ready: the driver answers, the ledger reads, blobs can be written.
async fn readyz(State(parts): State<Parts>) -> Result<&'static str, Problem> {
    parts.driver.answers().await?;
    parts.ledger.ready().await.map_err(|error| Problem {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: error.to_string(),
        hint: error.hint(),
    })?;
    parts.blobs.check_writable().await?;
    Ok("ready\n")
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

async fn runs(State(parts): State<Parts>) -> Result<Response, Problem> {
    Ok(Json(json!({ "runs": parts.driver.statuses().await? })).into_response())
}

async fn run(State(parts): State<Parts>, Path(run): Path<String>) -> Result<Response, Problem> {
    Ok(Json(parts.driver.status(&RunId(run)).await?).into_response())
}

#[derive(Deserialize)]
struct PairsQuery {
    limit: Option<usize>,
}

async fn run_pairs(
    State(parts): State<Parts>,
    Path(run): Path<String>,
    Query(query): Query<PairsQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(PAIRS).min(PAIRS_MAX);
    let latest = parts
        .driver
        .inspect(&RunId(run), move |run| pairs::latest(run, limit))
        .await?;
    Ok(Json(json!({ "pairs": latest })).into_response())
}

async fn workers(State(parts): State<Parts>) -> Result<Response, Problem> {
    Ok(Json(json!({ "workers": parts.driver.workers().await? })).into_response())
}

async fn blob(State(parts): State<Parts>, Path(sha256): Path<String>) -> Result<Response, Problem> {
    let digest: Digest = sha256
        .parse()
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    let mut pieces = parts.blobs.stream(&digest).await?;
    let first = pieces.next().await.transpose()?.unwrap_or_default();
    let content_type = if first.starts_with(PNG_SIGNATURE) {
        "image/png"
    } else {
        "application/octet-stream"
    };
    let body = Body::from_stream(futures::stream::once(async { Ok(first) }).chain(pieces));
    let headers = [
        (header::CONTENT_TYPE, content_type),
        // A blob's name is its content, so it never changes.
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, body).into_response())
}

/// What a caller reads instead of an answer.
pub(crate) struct Problem {
    status: StatusCode,
    error: String,
    hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            hint: None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "hint": self.hint }))).into_response()
    }
}

impl From<DriverError> for Problem {
    fn from(error: DriverError) -> Self {
        let status = match error {
            DriverError::UnknownRun(_) | DriverError::UnknownWorker(_) => StatusCode::NOT_FOUND,
            DriverError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        let status = match error {
            BlobError::Missing { .. } => StatusCode::NOT_FOUND,
            BlobError::NoSpace { .. } | BlobError::Unwritable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            error: error.to_string(),
            hint: error.hint(),
        }
    }
}
