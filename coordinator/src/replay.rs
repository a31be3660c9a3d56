//! From the ledger back to a run. Recovery and normal running are the same code: `Run::apply`.

use gavel_core::hint::Hint;
use gavel_core::ids::RunId;
use gavel_core::panics::{Panicked, catch};
use gavel_core::run::{Event, Refusal, Run};

use crate::ledger::{EventRecord, Ledger, LedgerError, Row, RunRecord};

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
    /// The state machine panics at what the ledger holds.
    #[error("run `{run}`, {row}: cannot be taken up")]
    Panicked {
        /// The run.
        run: RunId,
        /// What it was about to take up.
        row: Row,
        /// What the panic said.
        #[source]
        panicked: Panicked,
    },
}

impl Hint for ReplayError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Ledger(error) => error.hint(),
            Self::NoSuchRun { .. } => Some("`gavel status` lists the runs".to_owned()),
            Self::Refused { .. } | Self::Panicked { .. } => Some(
                "open the ledger with the Gavel version that wrote it; if that fails too, this is a defect".to_owned(),
            ),
        }
    }
}

impl ReplayError {
    /// Whether this one run is damaged, while the ledger itself answers.
    pub(crate) fn is_of_this_run(&self) -> bool {
        match self {
            Self::Ledger(error) => error.is_damage(),
            Self::NoSuchRun { .. } | Self::Refused { .. } | Self::Panicked { .. } => true,
        }
    }
}

/// Rebuilds a run from its row and its events, each of which must be as it was written.
///
/// # Errors
/// [`LedgerError::Corrupt`], [`ReplayError::Refused`] and [`ReplayError::Panicked`].
pub fn replay(record: &RunRecord, events: &[EventRecord]) -> Result<Run, ReplayError> {
    let corrupt = |row, problem: String| LedgerError::Corrupt {
        run: record.run.clone(),
        row,
        problem,
    };
    let panicked = |row, panicked| ReplayError::Panicked {
        run: record.run.clone(),
        row,
        panicked,
    };
    record.check()?;
    let spec = serde_json::from_str(&record.spec).map_err(|error| corrupt(Row::Spec, error.to_string()))?;
    let assets = serde_json::from_str(&record.assets).map_err(|error| corrupt(Row::Assets, error.to_string()))?;
    let made = catch(|| Run::new(record.run.clone(), spec, assets).created(record.created));
    let mut run = made.map_err(|caught| panicked(Row::Run, caught))?;
    let mut chain = record.chain;
    for (expected, stored) in (1..).zip(events) {
        let row = Row::Event(expected);
        if stored.sequence != expected {
            return Err(corrupt(row, "it is missing".to_owned()).into());
        }
        stored.check(&chain)?;
        chain = stored.chain;
        let event: Event = serde_json::from_str(&stored.event).map_err(|error| corrupt(row, error.to_string()))?;
        // What followed from it was carried out when it happened, or does not matter any more.
        let applied = catch(|| run.apply(event, stored.at)).map_err(|caught| panicked(row, caught))?;
        applied.map_err(|refusal| ReplayError::Refused {
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
    let (record, events) = read_rows(ledger, run).await?;
    replay(&record, &events)
}

/// What the ledger holds of one run, as it stands there.
///
/// # Errors
/// [`ReplayError::NoSuchRun`]; the ledger cannot be read.
pub async fn read_rows(ledger: &dyn Ledger, run: &RunId) -> Result<(RunRecord, Vec<EventRecord>), ReplayError> {
    let record = ledger.run(run).await?;
    let record = record.ok_or_else(|| ReplayError::NoSuchRun { run: run.clone() })?;
    Ok((record, ledger.events(run).await?))
}
