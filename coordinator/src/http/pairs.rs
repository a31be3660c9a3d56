//! `GET /api/v1/runs/{run}/pairs`: the judged pairs, a page at a time.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::run::Run;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::ask::{Asked, Named};
use super::rubrics::rubrics;
use super::{Parts, Problem};
use crate::driver::{DriverError, DriverHandle};
use crate::gallery::{self, Cursor, Filling, Filter, JudgedPair, Outcome, Page, RubricShown};

/// Pairs on a page, unless the caller says otherwise, and at most.
const PAIRS: usize = 12;
const PAIRS_MAX: usize = 500;

/// Which pairs are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PairsQuery {
    /// At most so many (12, and no more than 500).
    limit: Option<usize>,
    /// What an earlier answer gave as `next`.
    after: Option<String>,
    /// Those of this step.
    step: Option<u32>,
    /// Those whose prompt contains these words.
    prompt: Option<String>,
    /// Those of which this came.
    outcome: Option<Outcome>,
    /// Those whose best candidate is this one, counted from 1.
    winner: Option<usize>,
}

/// A page of judged pairs, the newest step first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Pairs {
    pairs: Vec<JudgedPair>,
    /// The rubrics that their verdicts name, by SHA-256. One that is not kept is left out.
    rubrics: BTreeMap<Digest, RubricShown>,
    /// What to ask for with `after` to go on; null at the end. A page may be shorter than was asked for, and not the last.
    next: Option<String>,
}

pub(super) async fn pairs(
    State(parts): State<Parts>,
    Named(run): Named,
    Asked(query): Asked<PairsQuery>,
) -> Result<Response, Problem> {
    let refused = |error: gallery::InvalidCursor| Problem::new(StatusCode::BAD_REQUEST, format!("after: {error}"));
    let after: Option<Cursor> = query.after.as_deref().map(str::parse).transpose().map_err(refused)?;
    let limit = query.limit.unwrap_or(PAIRS).min(PAIRS_MAX);
    let filter = Filter {
        step: query.step.map(Step),
        prompt: query.prompt,
        outcome: query.outcome,
        winner: query.winner,
    };
    let rooms = parts.rooms.clone();
    answer(&rooms, async move {
        let filling = Filling::new(filter, after, limit);
        let run = RunId(run);
        let page = fill(&parts.driver, &run, filling).await?;
        let named = page.pairs.iter().flat_map(JudgedPair::rubrics);
        Ok::<_, Problem>(Pairs {
            rubrics: rubrics(&parts, &run, named).await?,
            pairs: page.pairs,
            next: page.next.map(|next| next.to_string()),
        })
    })
    .await
}

/// Steps that are read from the ledger at a time, once those that the run has are through.
const STEPS_AT_ONCE: u32 = 8;

async fn fill(driver: &DriverHandle, run: &RunId, mut filling: Filling) -> Result<Page, DriverError> {
    let (oldest, newest) = filling.reach();
    let look = move |run: &Run| {
        let has_room = filling.add(run, gallery::steps(run));
        (filling, has_room, run.details_from())
    };
    let (filled, mut has_room, details_from) = driver.inspect(run, look).await?;
    filling = filled;
    let mut before = newest.map_or(details_from, |newest| {
        details_from.min(Step(newest.0.saturating_add(1)))
    });
    while has_room && before > oldest {
        let first = Step(before.0.saturating_sub(STEPS_AT_ONCE).max(oldest.0));
        let steps = driver.steps(run, first, (before.0 - first.0) as usize).await?;
        let look = move |run: &Run| {
            let has_room = filling.add(run, gallery::committed(steps.iter()));
            (filling, has_room)
        };
        (filling, has_room) = driver.inspect(run, look).await?;
        before = first;
    }
    Ok(filling.end())
}
