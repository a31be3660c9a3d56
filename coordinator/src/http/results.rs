//! What a run is and has come to: its settings, its steps' figures from one on, and its adapter as a file.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::run::{Phase, Run, StepRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::answer;
use super::ask::{Asked, Named, Nothing};
use super::blobs::blob_response;
use super::{Parts, Problem};
use crate::driver::DriverError;

/// Steps in one answer, unless the caller says otherwise, and at most.
const STEPS: usize = 1_000;

/// Which steps are asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StepsQuery {
    /// Only steps after this one.
    since_step: Option<u32>,
    /// At most so many (1,000).
    limit: Option<usize>,
}

/// The figures of some steps, and where the run stands.
#[derive(Serialize, JsonSchema)]
pub(super) struct Steps {
    run: RunId,
    phase: Phase,
    /// The latest committed step: there are more to ask for while the last below is an earlier one.
    step: Step,
    steps: Vec<StepRecord>,
}

/// `GET /api/v1/runs/{run}/steps`.
pub(super) async fn steps(
    State(parts): State<Parts>,
    Named(run): Named,
    Asked(query): Asked<StepsQuery>,
) -> Result<Response, Problem> {
    let first = Step(query.since_step.unwrap_or_default().saturating_add(1));
    let limit = query.limit.unwrap_or(STEPS).min(STEPS);
    let rooms = parts.rooms.clone();
    let steps = async move {
        let run = RunId(run);
        // What is committed in between is told the next time.
        let look = |run: &Run| (run.phase(), run.committed());
        let (phase, step) = parts.driver.inspect(&run, look).await?;
        let mut steps = parts.driver.figures(&run, first, limit).await?;
        steps.retain(|record| record.step <= step);
        Ok::<_, DriverError>(Steps {
            run,
            phase,
            step,
            steps,
        })
    };
    answer(&rooms, steps).await
}

/// Which adapter is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdapterQuery {
    /// The one that this step committed; without it the latest.
    step: Option<u32>,
}

/// `GET /api/v1/runs/{run}/adapter`: the file that peft calls `adapter_model.safetensors`, of the latest step or of the one that is
/// named; the average where the run keeps one.
pub(super) async fn adapter(
    State(parts): State<Parts>,
    Named(run): Named,
    Asked(query): Asked<AdapterQuery>,
) -> Result<Response, Problem> {
    let id = RunId(run.clone());
    let step = match query.step {
        Some(step) => Step(step),
        None => parts.driver.inspect(&id, Run::committed).await?,
    };
    let policy = parts.driver.policy(&id, step).await?;
    let policy = policy.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "the run has committed no such step"))?;
    let mut response: Response<Body> = blob_response(&parts, &policy.evaluated()).await?;
    // A run's name has letters, digits, `-`, `_` and `.` alone (`check_run_name`).
    let name = format!("attachment; filename=\"{run}-step-{step}.safetensors\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    // Another step may be the latest in a moment.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// What a run was submitted with.
#[derive(Serialize, JsonSchema)]
pub(super) struct Settings {
    run: RunId,
    /// The specification, with every key (docs/configuration.md).
    spec: Value,
    /// What the judge reads.
    rubric: Rubric,
}

/// A rubric's text.
#[derive(Serialize, JsonSchema)]
struct Rubric {
    /// Its fingerprint, which every verdict repeats.
    sha256: Digest,
    /// Themes with their lines, between empty lines.
    text: String,
    /// How many prompts are judged by a rubric of their own instead.
    of_prompts: usize,
}

/// `GET /api/v1/runs/{run}/settings`.
pub(super) async fn settings(
    State(parts): State<Parts>,
    Named(run): Named,
    _: Asked<Nothing>,
) -> Result<Response, Problem> {
    let rooms = parts.rooms.clone();
    let look = |run: &Run| {
        (
            run.id().clone(),
            run.spec().clone(),
            run.assets().rubric.clone(),
            run.own_rubrics(),
        )
    };
    let settings = async move {
        let (run, spec, rubric, of_prompts) = parts.driver.inspect(&RunId(run), look).await?;
        let unwritten = |error: serde_json::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        Ok::<_, Problem>(Settings {
            run,
            spec: serde_json::to_value(&spec).map_err(unwritten)?,
            rubric: Rubric {
                sha256: rubric.digest,
                text: rubric.text,
                of_prompts,
            },
        })
    };
    answer(&rooms, settings).await
}
