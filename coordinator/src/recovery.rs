//! The runs of a ledger at the start of a coordinator.
//!
//! A run that cannot be read is set aside with the reason: it is shown as failed, nothing is taken for it, and nothing is deleted
//! while it is there, since nobody knows what it needs. The others go on.

use gavel_core::ids::{Millis, RunId};

use crate::error::Error;
use crate::ledger::Ledger;
use crate::metrics;
use crate::replay::{ReplayError, read_rows, replay};
use crate::state::State;

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
    let (record, events) = read_rows(ledger, id).await?;
    let run = replay(&record, &events)?;
    tracing::info!(run = %id, events = events.len(), phase = ?run.phase(), "run read from the ledger");
    if let Some(step) = run.results().steps.last() {
        metrics::step(id, &step.record);
    }
    state.insert(run, record.created, record.position(&events));
    Ok(events.last().map_or(record.created, |event| event.at))
}
