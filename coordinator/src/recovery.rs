//! The runs of a ledger at the start of a coordinator: each from its snapshot, if it has one, and the events after it.
//!
//! A run that cannot be read is set aside with the reason: it is shown as failed, nothing is taken for it, and nothing is deleted
//! while it is there, since nobody knows what it needs. The others go on.

use std::collections::BTreeMap;

use gavel_core::ids::{Millis, RunId};
use gavel_core::run::Commit;

use crate::error::Error;
use crate::ledger::{Ledger, RunRecord};
use crate::metrics;
use crate::replay::{Replay, ReplayError};
use crate::snapshots::{self, Kept};
use crate::state::State;
use crate::steps;

/// Events in memory at a time.
const EVENTS_AT_ONCE: u64 = 1024;

/// Reads every run. Also returns the latest time that an event bears.
///
/// # Errors
/// The ledger as a whole does not answer.
pub(crate) async fn recover(ledger: &dyn Ledger) -> Result<(State, Millis), Error> {
    let mut state = State::default();
    let mut latest = Millis(0);
    for id in ledger.runs().await? {
        match take(ledger, &id, &mut state).await {
            Ok(at) => latest = latest.max(at),
            Err(error) if error.is_of_this_run() => state.set_aside(id, &error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((state, latest))
}

/// Takes over one run from the ledger. Returns the time of its last event.
pub(crate) async fn take(ledger: &dyn Ledger, id: &RunId, state: &mut State) -> Result<Millis, ReplayError> {
    let (record, replay, kept) = read(ledger, id).await?;
    let (at, position) = (replay.at(), replay.position());
    let run = replay.into_run();
    if let Some(step) = run.results().steps.last() {
        metrics::step(id, &step.record);
    }
    state.insert(run, record.created, position, at, kept);
    Ok(at)
}

/// A run as it stands, and how far the snapshot reached.
///
/// # Errors
/// The ledger does not answer; it has no such run; the run is damaged.
pub(crate) async fn read(ledger: &dyn Ledger, id: &RunId) -> Result<(RunRecord, Replay, Kept), ReplayError> {
    let record = ledger.run(id).await?;
    let record = record.ok_or_else(|| ReplayError::NoSuchRun { run: id.clone() })?;
    if let Some((mut replay, kept)) = snapshots::read(ledger, &record).await? {
        match go_on(ledger, &mut replay).await {
            Ok(()) => return Ok((record, replay, kept)),
            Err(error) if error.is_of_this_run() => {
                let run = &record.run;
                tracing::warn!(%run, %error, "the events after the snapshot do not follow from it, every event is replayed");
            }
            Err(error) => return Err(error),
        }
    }
    let mut replay = Replay::begin(&record)?.lean();
    go_on(ledger, &mut replay).await?;
    Ok((record, replay, Kept::default()))
}

/// The commits of all steps of a run, by a replay of all of its events: for the day on which the ledger's own are damaged.
///
/// # Errors
/// As [`read`].
pub(crate) async fn commits(ledger: &dyn Ledger, id: &RunId) -> Result<Vec<Commit>, ReplayError> {
    let record = ledger.run(id).await?;
    let record = record.ok_or_else(|| ReplayError::NoSuchRun { run: id.clone() })?;
    let mut replay = Replay::begin(&record)?.lean();
    loop {
        let after = replay.position().events;
        let events = ledger.events_after(id, after, EVENTS_AT_ONCE).await?;
        if events.is_empty() {
            return Ok(replay.into_commits());
        }
        for event in &events {
            replay.take(event)?;
        }
    }
}

/// Applies the events that follow, and keeps what the steps came to that they commit.
///
/// # Errors
/// The ledger does not answer or cannot be written; the events are damaged or do not apply.
async fn go_on(ledger: &dyn Ledger, replay: &mut Replay) -> Result<(), ReplayError> {
    let (run, begun) = (replay.run().id().clone(), replay.position().events);
    loop {
        let events = ledger
            .events_after(&run, replay.position().events, EVENTS_AT_ONCE)
            .await?;
        if events.is_empty() {
            break;
        }
        // A step that was taken back and taken again counts as it was taken last.
        let mut committed = BTreeMap::new();
        for event in &events {
            let effects = replay.take(event)?;
            let step = steps::committed(replay.run(), &effects);
            committed.extend(step.map(|step| (step.commit.record.step, step)));
        }
        // Those of the last step may not have been written before the coordinator before this one ended. A ledger that does not take
        // them takes no events either.
        let records = steps::records(&run, committed.into_values());
        ledger.keep_steps(&records).await?;
    }
    let (events, phase) = (replay.position().events, replay.run().phase());
    tracing::info!(%run, events, replayed = events - begun, ?phase, "run read from the ledger");
    Ok(())
}
