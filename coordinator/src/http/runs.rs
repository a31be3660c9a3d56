//! Runs, workers, and all of them at a glance.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gavel_core::ids::RunId;
use gavel_core::run::RunStatus;
use gavel_core::work::WorkerStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::ask::{Asked, Named, Nothing};
use super::overview::Overview;
use super::{Parts, Problem, stream};
use crate::driver::DriverError;

/// Which runs are asked for: all, where it says nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    /// At most so many, and at least one.
    limit: Option<usize>,
    /// Those that were submitted after this run: what an earlier answer gave as `next`.
    after: Option<RunId>,
}

/// Runs' states, in the order of submission.
#[derive(Serialize, JsonSchema)]
pub(super) struct Runs {
    runs: Vec<RunStatus>,
    /// What to ask for with `after` to go on; null at the end.
    next: Option<RunId>,
}

impl Runs {
    /// Those of all runs that are asked for; `None` where `after` names no run.
    fn page(mut runs: Vec<RunStatus>, query: &RunsQuery) -> Option<Self> {
        if let Some(after) = &query.after {
            let last = runs.iter().position(|status| status.run == *after)?;
            runs.drain(..=last);
        }
        let limit = query.limit.unwrap_or(usize::MAX).max(1);
        let goes_on = runs.len() > limit;
        runs.truncate(limit);
        let next = runs.last().filter(|_| goes_on).map(|status| status.run.clone());
        Some(Self { runs, next })
    }
}

/// The worker table.
#[derive(Serialize, JsonSchema)]
pub(super) struct Workers {
    workers: Vec<WorkerStatus>,
}

/// `GET /api/v1/overview`.
pub(super) async fn overview(State(parts): State<Parts>, _: Asked<Nothing>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    answer(&rooms, async move { Overview::of(&parts.driver).await }).await
}

/// `GET /api/v1/runs`.
pub(super) async fn runs(State(parts): State<Parts>, Asked(query): Asked<RunsQuery>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let runs = async move {
        let all = parts.driver.statuses().await?;
        Runs::page(all, &query).ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "after: names no run".to_owned()))
    };
    answer(&rooms, runs).await
}

/// `GET /api/v1/runs/{run}`.
pub(super) async fn run(State(parts): State<Parts>, Named(run): Named, _: Asked<Nothing>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    answer(&rooms, async move { parts.driver.status(&RunId(run)).await }).await
}

/// `GET /api/v1/runs/{run}/state`.
pub(super) async fn state(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    answer(
        &rooms,
        async move { stream::in_short(&parts.driver, &RunId(run)).await },
    )
    .await
}

/// `GET /api/v1/workers`.
pub(super) async fn workers(State(parts): State<Parts>, _: Asked<Nothing>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let workers = async move {
        let workers = parts.driver.workers().await?;
        Ok::<_, DriverError>(Workers { workers })
    };
    answer(&rooms, workers).await
}
