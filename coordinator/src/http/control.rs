//! What somebody does to a run from the dashboard, or with `curl`: as `gavel pause`, `resume`, `cancel`, `extend`, `rollback`, `drain`.
//!
//! A body of JSON is asked for, which no page from elsewhere can send without this server's leave.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use gavel_core::bounds::cut;
use gavel_core::ids::{RunId, Step, WorkerId};
use gavel_core::run::Event;
use gavel_core::work::{Role, WorkerFilter};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::ask::{Asked, Named, Nothing};
use super::{Parts, Problem, stream};
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

/// `POST /api/v1/runs/{run}/pause`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    /// Why, for people.
    reason: String,
}

/// `POST /api/v1/runs/{run}/resume`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {}

/// `POST /api/v1/runs/{run}/cancel`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancel {
    /// Why, for people.
    reason: String,
}

/// `POST /api/v1/runs/{run}/extend`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Extend {
    /// How many steps the whole run has from now on.
    steps: u32,
}

/// `POST /api/v1/runs/{run}/rollback`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// The last step that is kept.
    step: u32,
}

impl From<Pause> for Event {
    fn from(Pause { reason }: Pause) -> Self {
        Self::Paused { reason: cut(reason) }
    }
}

impl From<Resume> for Event {
    fn from(Resume {}: Resume) -> Self {
        Self::Resumed
    }
}

impl From<Cancel> for Event {
    fn from(Cancel { reason }: Cancel) -> Self {
        Self::Cancelled { reason: cut(reason) }
    }
}

impl From<Extend> for Event {
    fn from(Extend { steps }: Extend) -> Self {
        Self::StepsChanged { steps }
    }
}

impl From<Rollback> for Event {
    fn from(Rollback { step }: Rollback) -> Self {
        Self::RolledBack { to: Step(step) }
    }
}

/// Does what the body says; the answer is where the run stands then.
pub(super) async fn steer<T: Into<Event>>(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
    Body(order): Body<T>,
) -> Result<Response, Problem> {
    let run = RunId(run);
    parts.driver.report(run.clone(), order.into()).await?;
    let rooms = parts.rooms.clone();
    let state = async move { stream::in_short(&parts.driver, &run).await };
    answer(&rooms, state).await
}

/// `POST /api/v1/drain`. Meant are the workers that fit all that is named; what is left out fits every worker.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Drain {
    /// By their names.
    workers: Vec<WorkerId>,
    /// By the machines that they run on.
    hosts: Vec<String>,
    /// By what they do.
    roles: Vec<Role>,
}

/// The answer to `drain`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Drained {
    /// Workers that were told to finish what they hold and to leave.
    workers: usize,
}

/// Tells workers to finish what they hold and to leave.
pub(super) async fn drain(
    State(parts): State<Parts>,
    _: Asked<Nothing>,
    Body(Drain { workers, hosts, roles }): Body<Drain>,
) -> Result<Response, Problem> {
    let meant = WorkerFilter { workers, hosts, roles };
    let rooms = parts.rooms.clone();
    let told = async move {
        let workers = parts.driver.drain(meant).await?;
        Ok::<_, DriverError>(Drained { workers })
    };
    answer(&rooms, told).await
}
