//! States that are followed: first the whole, then what changes of it, as server-sent events.
//!
//! A reader is told of the state as it is when the reader is ready for it: whoever reads slowly is told less often, and nothing piles up. Each
//! message `state` is whole; `patch` is a JSON merge patch (RFC 7386) on the state before it; `end` says that the coordinator ends. Whoever takes
//! gzip gets one that is flushed after each message.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use gavel_core::ids::RunId;
use gavel_core::run::{Phase, RunStatus};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::is_same;
use super::ask::{Asked, Named, Nothing};
use super::merge_patch::diff;
use super::overview::Overview;
use super::{Parts, Problem};
use crate::driver::{DriverError, DriverHandle};

/// How often a state is looked at. All who follow it share the look.
const LOOK: Duration = Duration::from_millis(500);
/// After so long a reader has to ask again, with a token or session that still counts.
const LASTS: Duration = Duration::from_secs(3_600);
/// Leases in a run's state: thousands would say no more than these.
const LEASES: usize = 100;

/// A run as its stream tells it: of its steps the latest alone, and of its leases some.
pub(super) async fn in_short(driver: &DriverHandle, run: &RunId) -> Result<RunStatus, DriverError> {
    let mut status = driver.status_in_short(run).await?;
    status.leases.truncate(LEASES);
    Ok(status)
}

/// What `end` says.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct End {
    /// Whether every run has finished.
    finished: bool,
    /// Whether every run has ended, be it finished, stopped or failed.
    ended: bool,
    /// The folder in which the results of the runs lie, where somebody leaves them there.
    results: Option<PathBuf>,
}

/// The states that are followed, each looked at once for all.
#[derive(Clone)]
pub(super) struct Streams {
    driver: DriverHandle,
    results: Option<PathBuf>,
    shutdown: CancellationToken,
    looks: Arc<Mutex<BTreeMap<Subject, Look>>>,
}

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    All,
    Run(RunId),
}

/// A state with the moment at which it was looked at.
#[derive(Clone)]
struct Look {
    at: Instant,
    state: Arc<Value>,
}

impl Streams {
    pub(super) fn new(driver: DriverHandle, results: Option<PathBuf>, shutdown: CancellationToken) -> Self {
        Self {
            driver,
            results,
            shutdown,
            looks: Arc::default(),
        }
    }

    /// The state, of now or of a moment ago.
    async fn look(&self, subject: &Subject) -> Result<Arc<Value>, DriverError> {
        let now = Instant::now();
        {
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            looks.retain(|_, look| now.duration_since(look.at) < LOOK);
            if let Some(look) = looks.get(subject) {
                return Ok(Arc::clone(&look.state));
            }
        }
        let state = match subject {
            Subject::All => serde_json::to_value(Overview::of(&self.driver).await?),
            Subject::Run(run) => serde_json::to_value(in_short(&self.driver, run).await?),
        };
        // Both are made of what JSON has.
        let state = Arc::new(state.unwrap_or_default());
        let look = Look {
            at: now,
            state: Arc::clone(&state),
        };
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.insert(subject.clone(), look);
        Ok(state)
    }

    async fn end(&self) -> End {
        let runs = self.driver.statuses().await.unwrap_or_default();
        End {
            finished: runs.iter().all(|run| run.phase == Phase::Finished),
            ended: runs.iter().all(|run| run.phase.is_ended()),
            results: self.results.clone(),
        }
    }
}

/// One reader.
struct Reader {
    streams: Streams,
    subject: Subject,
    since: Instant,
    /// What was told last, and its number.
    told: Option<(Arc<Value>, u64)>,
    has_ended: bool,
}

impl Reader {
    /// The next message; `None` at the end.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        let mut is_first = self.told.is_none();
        while !self.has_ended && self.since.elapsed() < LASTS {
            if !is_first {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = self.streams.shutdown.cancelled() => {
                        self.has_ended = true;
                        let end = self.streams.end().await;
                        return Some((Ok(message("end", 0, &end)), self));
                    }
                }
            }
            is_first = false;
            let state = self.streams.look(&self.subject).await.ok()?;
            let message = match &self.told {
                Some((told, _)) if is_same(told, &state) => continue,
                Some((told, number)) => message("patch", number + 1, &diff(told, &state)),
                None => message("state", 1, &*state),
            };
            let number = self.told.as_ref().map_or(1, |(_, number)| number + 1);
            self.told = Some((state, number));
            return Some((Ok(message), self));
        }
        None
    }
}

fn message(name: &str, id: u64, data: &impl Serialize) -> Event {
    let event = Event::default().event(name).id(id.to_string());
    // What is told is made of what JSON has.
    event.json_data(data).unwrap_or_default()
}

async fn follow(parts: Parts, subject: Subject) -> Result<Response, Problem> {
    let room = parts.rooms.stream()?;
    // Whoever asks for what there is not is told so, and not by a stream that ends.
    parts.streams.look(&subject).await?;
    let reader = Reader {
        streams: parts.streams,
        subject,
        since: Instant::now(),
        told: None,
        has_ended: false,
    };
    let mut response = Sse::new(stream::unfold(reader, Reader::next).fuse())
        .keep_alive(KeepAlive::default())
        .into_response();
    response.extensions_mut().insert(room);
    Ok(response)
}

/// `GET /api/v1/stream`.
pub(super) async fn all(State(parts): State<Parts>, _: Asked<Nothing>) -> Result<Response, Problem> {
    follow(parts, Subject::All).await
}

/// `GET /api/v1/runs/{run}/stream`.
pub(super) async fn run(State(parts): State<Parts>, Named(run): Named, _: Asked<Nothing>) -> Result<Response, Problem> {
    follow(parts, Subject::Run(RunId(run))).await
}
