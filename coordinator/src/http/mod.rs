//! HTTP: probes, metrics, the state as JSON, and the dashboard, from which a run can be steered.

mod ask;
mod control;
mod end;
mod guard;
mod login;
mod pairs;
mod ready;
mod results;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt as _;
use gavel_core::bounds::cut;
use gavel_core::hint::Hint;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::RunStatus;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::blobs::{BlobError, Blobs};
use crate::driver::{DriverError, DriverHandle};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::transport::{Busy, PIECE_BYTES, Rooms};
use crate::worker::WorkerStatus;
use crate::{metrics, transport};
use ask::{Asked, Named, Nothing};
pub(crate) use guard::{Guard, HostNames, guard};
use ready::Readiness;

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
    readiness: Readiness,
    rooms: Rooms,
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
    let tls = settings.guard.security.tls.clone();
    let end = end::routes(driver.clone(), settings.results, shutdown.clone());
    let parts = Parts {
        readiness: Readiness::new(driver.clone(), ledger, blobs.clone()),
        driver,
        blobs,
        rooms,
    };
    let routes = Router::new()
        .route("/", get(async || Html(DASHBOARD)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/api/v1/runs", get(runs))
        .route("/api/v1/runs/{run}", get(run))
        .route("/api/v1/runs/{run}/pairs", get(run_pairs))
        .route("/api/v1/runs/{run}/steps", get(results::steps))
        .route("/api/v1/runs/{run}/adapter", get(results::adapter))
        .route("/api/v1/runs/{run}/pause", post(control::steer::<control::Pause>))
        .route("/api/v1/runs/{run}/resume", post(control::steer::<control::Resume>))
        .route("/api/v1/runs/{run}/cancel", post(control::steer::<control::Cancel>))
        .route("/api/v1/runs/{run}/extend", post(control::steer::<control::Extend>))
        .route("/api/v1/runs/{run}/rollback", post(control::steer::<control::Rollback>))
        .route("/api/v1/workers", get(workers))
        .route("/api/v1/blobs/{sha256}", get(blob))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such page"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this page can only be read")
        })
        .with_state(parts)
        .merge(end)
        .merge(login::routes(settings.guard.security.clone()))
        .layer(from_fn_with_state(settings.guard, guard));
    transport::serve_http(listener, routes, tls.as_ref(), shutdown).await
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

/// The answer takes room until it is sent: many who ask and do not read cost no more than a few.
async fn answer<T: Serialize + Send + 'static>(
    rooms: &Rooms,
    make: impl Future<Output = Result<T, DriverError>> + Send + 'static,
) -> Result<Response, Problem> {
    let (made, room) = rooms.answer().await?.fill(make).await?;
    let mut response = Json(made?).into_response();
    response.extensions_mut().insert(room);
    Ok(response)
}

#[derive(Serialize)]
struct Runs {
    runs: Vec<RunStatus>,
}

async fn runs(State(parts): State<Parts>, _: Asked<Nothing>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let runs = async move {
        let runs = parts.driver.statuses().await?;
        Ok(Runs { runs })
    };
    answer(&rooms, runs).await
}

async fn run(State(parts): State<Parts>, Named(run): Named, _: Asked<Nothing>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let state = async move { parts.driver.status(&RunId(run)).await };
    answer(&rooms, state).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairsQuery {
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Pairs {
    pairs: Vec<pairs::JudgedPair>,
}

async fn run_pairs(
    State(parts): State<Parts>,
    Named(run): Named,
    Asked(query): Asked<PairsQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(PAIRS).min(PAIRS_MAX);
    let rooms = parts.rooms.clone();
    let pairs = async move {
        let pairs = pairs::latest(&parts.driver, &RunId(run), limit).await?;
        Ok(Pairs { pairs })
    };
    answer(&rooms, pairs).await
}

#[derive(Serialize)]
struct Workers {
    workers: Vec<WorkerStatus>,
}

async fn workers(State(parts): State<Parts>, _: Asked<Nothing>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let workers = async move {
        let workers = parts.driver.workers().await?;
        Ok(Workers { workers })
    };
    answer(&rooms, workers).await
}

async fn blob(State(parts): State<Parts>, Named(sha256): Named, _: Asked<Nothing>) -> Result<Response, Problem> {
    let digest: Digest = sha256
        .parse()
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    blob_response(&parts, &digest).await
}

/// A blob's bytes, piece by piece.
async fn blob_response(parts: &Parts, digest: &Digest) -> Result<Response, Problem> {
    let pace = parts.rooms.download().await?;
    let mut pieces = parts.blobs.stream(digest, PIECE_BYTES).await?;
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
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
    ];
    let mut response = (headers, body).into_response();
    response.extensions_mut().insert(pace);
    Ok(response)
}

/// What a caller reads instead of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    error: String,
    hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: cut(error.into()),
            hint: None,
        }
    }

    /// A part that does not work at the moment.
    fn unavailable(error: impl std::error::Error + Hint) -> Self {
        Self {
            hint: error.hint(),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }

    fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    fn with_hint(self, hint: &str) -> Self {
        Self {
            hint: Some(hint.to_owned()),
            ..self
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "hint": self.hint }))).into_response()
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, busy.to_string())
    }
}

impl From<DriverError> for Problem {
    fn from(error: DriverError) -> Self {
        let status = match error {
            DriverError::UnknownRun(_) | DriverError::UnknownWorker(_) => StatusCode::NOT_FOUND,
            DriverError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            DriverError::Refused(_) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let hint = match &error {
            DriverError::Refused(refusal) => refusal.hint(),
            _ => None,
        };
        Self {
            hint,
            ..Self::new(status, error.to_string())
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        let status = match error {
            BlobError::Missing { .. } => StatusCode::NOT_FOUND,
            BlobError::Corrupt { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self {
            hint: error.hint(),
            ..Self::new(status, error.told())
        }
    }
}
