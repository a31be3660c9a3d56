//! What somebody does to a run from the dashboard, or with `curl`: as `gavel pause`, `resume`, `cancel`, `extend`, `rollback`.
//!
//! A body of JSON is asked for, which no page from elsewhere can send without this server's leave.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use gavel_core::bounds::cut;
use gavel_core::ids::{RunId, Step};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ask::{Asked, Named, Nothing};
use super::{Parts, Problem, answer};
use crate::driver::DriverError;

/// A body of JSON. A key that is not known is refused, and so is a value that cannot be read.
pub(super) struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(error)) => {
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.body_text()))
            }
            Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, error.body_text())),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Steps {
    steps: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct To {
    step: u32,
}

/// `POST /api/v1/runs/{run}/pause`.
pub(super) async fn pause(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
    Body(Reason { reason }): Body<Reason>,
) -> Result<Response, Problem> {
    let run = RunId(run);
    let done = parts.driver.pause(&run, cut(reason)).await;
    then_state(parts, run, done).await
}

/// `POST /api/v1/runs/{run}/resume`.
pub(super) async fn resume(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<Response, Problem> {
    let run = RunId(run);
    let done = parts.driver.resume(&run).await;
    then_state(parts, run, done).await
}

/// `POST /api/v1/runs/{run}/cancel`.
pub(super) async fn cancel(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
    Body(Reason { reason }): Body<Reason>,
) -> Result<Response, Problem> {
    let run = RunId(run);
    let done = parts.driver.cancel(&run, cut(reason)).await;
    then_state(parts, run, done).await
}

/// `POST /api/v1/runs/{run}/extend`.
pub(super) async fn extend(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
    Body(Steps { steps }): Body<Steps>,
) -> Result<Response, Problem> {
    let run = RunId(run);
    let done = parts.driver.change_steps(&run, steps).await;
    then_state(parts, run, done).await
}

/// `POST /api/v1/runs/{run}/rollback`.
pub(super) async fn rollback(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
    Body(To { step }): Body<To>,
) -> Result<Response, Problem> {
    let run = RunId(run);
    let done = parts.driver.roll_back(&run, Step(step)).await;
    then_state(parts, run, done).await
}

/// Where the run stands after what was done.
async fn then_state(parts: Parts, run: RunId, done: Result<(), DriverError>) -> Result<Response, Problem> {
    done?;
    let rooms = parts.rooms.clone();
    let state = async move { parts.driver.status(&run).await.map(|state| state.in_short()) };
    answer(&rooms, state).await
}
