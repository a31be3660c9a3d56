//! The one list of what programs can ask for: routes and their description (docs/openapi.json) are both made of it.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};
use gavel_core::run::RunStatus;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::control::{self, Cancel, Drain, Drained, Extend, Pause, Resume, Rollback};
use super::evaluation::{self, EvaluationPage, EvaluationQuery};
use super::events::{self, Events, EventsQuery};
use super::overview::Overview;
use super::pairs::{self, Pairs, PairsQuery};
use super::results::{self, AdapterQuery, Settings, Steps, StepsQuery};
use super::runs::{self, Runs, RunsQuery, Workers};
use super::session::{self, Session};
use super::stream::{self, End};
use super::{Parts, blobs, metrics_page, openapi, readyz};
use crate::access::Shown;

/// Something that can be asked for.
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// What it does, in a sentence.
    pub(super) about: &'static str,
    pub(super) query: Option<Describe>,
    pub(super) body: Option<Describe>,
    pub(super) answer: Content,
    handler: MethodRouter<Parts>,
}

/// Describes a type.
pub(super) type Describe = fn(&mut SchemaGenerator) -> Schema;

/// What an answer is.
pub(super) enum Content {
    /// JSON of this shape.
    Json(Describe),
    /// Server-sent events: states and their changes, and at the end the second.
    Stream(Describe, Describe),
    /// Bytes of this kind.
    Bytes(&'static str),
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn get<H: Handler<T, Parts>, T: 'static>(path: &'static str, about: &'static str, handler: H) -> Endpoint {
    Endpoint {
        method: Method::GET,
        path,
        about,
        query: None,
        body: None,
        answer: Content::Bytes("text/plain"),
        handler: routing::get(handler),
    }
}

/// The body is JSON of the shape `B`.
fn post<B: JsonSchema, H: Handler<T, Parts>, T: 'static>(
    path: &'static str,
    about: &'static str,
    handler: H,
) -> Endpoint {
    Endpoint {
        method: Method::POST,
        body: Some(schema::<B>),
        handler: routing::post(handler),
        ..get(path, about, async || ())
    }
}

impl Endpoint {
    fn with<Q: JsonSchema>(self) -> Self {
        let query = Some(schema::<Q> as Describe);
        Self { query, ..self }
    }

    fn answers<A: JsonSchema>(self) -> Self {
        let answer = Content::Json(schema::<A>);
        Self { answer, ..self }
    }

    fn streams<S: JsonSchema>(self) -> Self {
        let answer = Content::Stream(schema::<S>, schema::<End>);
        Self { answer, ..self }
    }

    fn answers_bytes(self, kind: &'static str) -> Self {
        let answer = Content::Bytes(kind);
        Self { answer, ..self }
    }
}

/// All of it.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get(
            "/api/v1/overview",
            "Every run in short and every worker",
            runs::overview,
        )
        .answers::<Overview>(),
        get("/api/v1/stream", "Follows the overview", stream::all).streams::<Overview>(),
        get("/api/v1/runs", "Runs' states", runs::runs)
            .with::<RunsQuery>()
            .answers::<Runs>(),
        get("/api/v1/runs/{run}", "A run's state with all its steps", runs::run).answers::<RunStatus>(),
        get(
            "/api/v1/runs/{run}/state",
            "A run's state with its latest step",
            runs::state,
        )
        .answers::<RunStatus>(),
        get(
            "/api/v1/runs/{run}/stream",
            "Follows a run's state with its latest step",
            stream::run,
        )
        .streams::<RunStatus>(),
        get(
            "/api/v1/runs/{run}/steps",
            "The figures of steps, in order",
            results::steps,
        )
        .with::<StepsQuery>()
        .answers::<Steps>(),
        get(
            "/api/v1/runs/{run}/pairs",
            "The judged pairs, the newest step first",
            pairs::pairs,
        )
        .with::<PairsQuery>()
        .answers::<Pairs>(),
        get(
            "/api/v1/runs/{run}/evaluation",
            "The held-out prompts with pictures and verdicts",
            evaluation::evaluation,
        )
        .with::<EvaluationQuery>()
        .answers::<EvaluationPage>(),
        get("/api/v1/runs/{run}/events", "What happened to a run", events::events)
            .with::<EventsQuery>()
            .answers::<Events>(),
        get(
            "/api/v1/runs/{run}/settings",
            "What a run was submitted with",
            results::settings,
        )
        .answers::<Settings>(),
        get(
            "/api/v1/runs/{run}/adapter",
            "The adapter as peft's adapter_model.safetensors",
            results::adapter,
        )
        .with::<AdapterQuery>()
        .answers_bytes("application/octet-stream"),
        post::<Pause, _, _>(
            "/api/v1/runs/{run}/pause",
            "Hands out nothing more of a run",
            control::steer::<Pause>,
        )
        .answers::<RunStatus>(),
        post::<Resume, _, _>(
            "/api/v1/runs/{run}/resume",
            "Lets a run go on",
            control::steer::<Resume>,
        )
        .answers::<RunStatus>(),
        post::<Cancel, _, _>(
            "/api/v1/runs/{run}/cancel",
            "Stops a run at once",
            control::steer::<Cancel>,
        )
        .answers::<RunStatus>(),
        post::<Extend, _, _>(
            "/api/v1/runs/{run}/extend",
            "Changes how many steps a run has",
            control::steer::<Extend>,
        )
        .answers::<RunStatus>(),
        post::<Rollback, _, _>(
            "/api/v1/runs/{run}/rollback",
            "Takes the steps after one back, and pauses the run there",
            control::steer::<Rollback>,
        )
        .answers::<RunStatus>(),
        get("/api/v1/workers", "Every worker", runs::workers).answers::<Workers>(),
        post::<Drain, _, _>(
            "/api/v1/drain",
            "Tells every worker to finish what it holds and to leave",
            control::drain,
        )
        .answers::<Drained>(),
        get("/api/v1/blobs/{sha256}", "A picture, or another blob", blobs::blob)
            .answers_bytes("application/octet-stream"),
        get("/api/v1/session", "Who asks, and what they may do", session::session).answers::<Session>(),
        get(
            "/api/v1/security",
            "What protects this coordinator's ports",
            session::security,
        )
        .answers::<Shown>(),
        get("/api/v1/openapi.json", "This description", openapi::served).answers_bytes("application/json"),
        get("/metrics", "Figures for Prometheus", metrics_page),
        get("/healthz", "Whether the process answers", async || "ok\n"),
        get("/readyz", "Whether ledger and blob store answer", readyz),
    ]
}

/// The routes.
pub(super) fn router() -> Router<Parts> {
    let all = endpoints().into_iter();
    all.fold(Router::new(), |router, endpoint| {
        router.route(endpoint.path, endpoint.handler)
    })
}
