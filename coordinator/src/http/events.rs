//! What happened to a run: the rows of its ledger in short, a page at a time.

use axum::extract::State;
use axum::response::Response;
use gavel_core::bounds::cut;
use gavel_core::ids::{RunId, Step, WorkerId};
use gavel_core::work::Unit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::ask::{Asked, Named};
use super::{Parts, Problem};
use crate::ledger::EventRecord;

/// Events on a page, unless the caller says otherwise, and at most.
const EVENTS: u64 = 100;
const EVENTS_MAX: u64 = 1_000;
/// Rows that are read at a time. Each may hold the verdicts of a whole unit.
const AT_ONCE: u64 = 16;

/// Which events are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only events before the one with this number; without it the latest.
    before: Option<u64>,
    /// At most so many (100, and no more than 1,000).
    limit: Option<u64>,
}

/// A page of a run's events.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Events {
    run: RunId,
    /// The number of the run's latest event. Events are numbered from 1.
    last: u64,
    /// In order. There are earlier ones while the first is not number 1.
    events: Vec<EventSummary>,
}

/// An event in short. The whole of it is in `gavel audit` and in the ledger.
#[derive(Debug, Serialize, JsonSchema)]
struct EventSummary {
    /// Its number within the run.
    sequence: u64,
    /// When the coordinator accepted it.
    at_unix_ms: u64,
    /// What happened, as in docs/formats.md.
    kind: String,
    /// The unit that it is about, in words.
    unit: Option<String>,
    /// The worker that did it.
    worker: Option<WorkerId>,
    /// Reason or figure, in words.
    text: Option<String>,
}

/// The parts of an event that are told, of whatever kind it is.
#[derive(Debug, Deserialize)]
struct Told {
    unit: Option<Unit>,
    worker: Option<WorkerId>,
    reason: Option<String>,
    steps: Option<u32>,
    to: Option<Step>,
    away_ms: Option<u64>,
}

/// `GET /api/v1/runs/{run}/events`.
pub(super) async fn events(
    State(parts): State<Parts>,
    Named(run): Named,
    Asked(query): Asked<EventsQuery>,
) -> Result<Response, Problem> {
    let run = RunId(run);
    let rooms = parts.rooms.clone();
    let last = *parts.driver.watch(&run).await?.borrow();
    answer(&rooms, async move {
        let end = query.before.map_or(last, |before| before.saturating_sub(1)).min(last);
        let limit = query.limit.unwrap_or(EVENTS).min(EVENTS_MAX);
        let mut after = end.saturating_sub(limit);
        let mut events = Vec::new();
        while after < end {
            let rows = parts.ledger.events_after(&run, after, AT_ONCE.min(end - after)).await?;
            let Some(latest) = rows.last() else { break };
            after = latest.sequence;
            events.extend(rows.into_iter().map(EventSummary::of));
        }
        Ok::<_, Problem>(Events { run, last, events })
    })
    .await
}

impl EventSummary {
    fn of(row: EventRecord) -> Self {
        // A row that cannot be read is told by its kind alone.
        let told = serde_json::from_str::<Told>(&row.event).ok();
        let text = told.as_ref().and_then(Told::text);
        Self {
            sequence: row.sequence,
            at_unix_ms: row.at.0,
            kind: row.kind,
            unit: told.as_ref().and_then(|told| told.unit).map(|unit| unit.to_string()),
            worker: told.and_then(|told| told.worker),
            text: text.map(cut),
        }
    }
}

impl Told {
    fn text(&self) -> Option<String> {
        let of_steps = self.steps.map(|steps| format!("{steps} steps"));
        let of_rollback = self.to.map(|step| format!("to step {step}"));
        let of_absence = self
            .away_ms
            .map(|away| format!("after {} s without a coordinator", away / 1_000));
        self.reason.clone().or(of_steps).or(of_rollback).or(of_absence)
    }
}
