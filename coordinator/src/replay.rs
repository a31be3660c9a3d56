//! From the ledger back to a run. Recovery and normal running are the same code: `Run::apply`.

use gavel_core::hint::Hint;
use gavel_core::ids::RunId;
use gavel_core::run::{Event, Refusal, Run};

use crate::ledger::{EventRecord, Ledger, LedgerError, RunRecord};

/// Why the ledger does not give a run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No run of this name.
    #[error("the ledger has no run `{run}`")]
    NoSuchRun {
        /// The name.
        run: RunId,
    },
    /// The state machine refuses what it accepted once.
    #[error("run `{run}`, event {sequence}: the ledger holds an event that does not apply")]
    Refused {
        /// The run.
        run: RunId,
        /// The event's number.
        sequence: u64,
        /// Why not.
        #[source]
        refusal: Refusal,
    },
}

impl Hint for ReplayError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Ledger(error) => error.hint(),
            Self::NoSuchRun { .. } => Some("`gavel status` lists the runs".to_owned()),
            Self::Refused { .. } => Some(
                "open the ledger with the Gavel version that wrote it; if that fails too, this is a defect".to_owned(),
            ),
        }
    }
}

/// Rebuilds a run from its row and its events.
///
/// # Errors
/// [`LedgerError::Corrupt`] and [`ReplayError::Refused`].
pub fn replay(record: &RunRecord, events: &[EventRecord]) -> Result<Run, ReplayError> {
    let corrupt = |sequence, problem: String| LedgerError::Corrupt {
        run: record.run.clone(),
        sequence,
        problem,
    };
    let spec = serde_json::from_str(&record.spec).map_err(|error| corrupt(0, format!("spec: {error}")))?;
    let assets = serde_json::from_str(&record.assets).map_err(|error| corrupt(0, format!("assets: {error}")))?;
    let mut run = Run::new(record.run.clone(), spec, assets).created(record.created);
    for (expected, stored) in (1..).zip(events) {
        if stored.sequence != expected {
            return Err(corrupt(stored.sequence, format!("event {expected} is missing")).into());
        }
        let event: Event = serde_json::from_str(&stored.event).map_err(|error| corrupt(expected, error.to_string()))?;
        // What followed from it was carried out when it happened, or does not matter any more.
        run.apply(event, stored.at).map_err(|refusal| ReplayError::Refused {
            run: record.run.clone(),
            sequence: expected,
            refusal,
        })?;
    }
    Ok(run)
}

/// Reads one run from a ledger, also while a coordinator writes to it.
///
/// # Errors
/// [`ReplayError::NoSuchRun`], and as [`replay`].
pub async fn read_run(ledger: &dyn Ledger, run: &RunId) -> Result<Run, ReplayError> {
    let records = ledger.runs().await?;
    let record = records.iter().find(|record| record.run == *run);
    let record = record.ok_or_else(|| ReplayError::NoSuchRun { run: run.clone() })?;
    replay(record, &ledger.events(run).await?)
}
