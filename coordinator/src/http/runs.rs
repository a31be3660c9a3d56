//! Runs, workers, and all of them at a glance.

use axum::extract::State;
use axum::response::Response;
use gavel_core::ids::RunId;
use gavel_core::run::RunStatus;
use gavel_core::work::WorkerStatus;
use schemars::JsonSchema;
use serde::Serialize;

use super::answer::answer;
use super::ask::{Asked, Named, Nothing};
use super::overview::Overview;
use super::{Parts, Problem, stream};
use crate::driver::DriverError;

/// Every run's state, in the order of submission.
#[derive(Serialize, JsonSchema)]
pub(super) struct Runs {
    runs: Vec<RunStatus>,
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
pub(super) async fn runs(State(parts): State<Parts>, _: Asked<Nothing>) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let runs = async move {
        let runs = parts.driver.statuses().await?;
        Ok::<_, DriverError>(Runs { runs })
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
