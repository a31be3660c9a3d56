//! From the ledger back to a run. Recovery and normal running are the same code: `Run::apply`.

use gavel_core::RunAssets;
use gavel_core::hint::Hint;
use gavel_core::ids::{Millis, RunId};
use gavel_core::panics::{Panicked, catch};
use gavel_core::run::{Commit, Commits, Effect, Event, Refusal, Run};
use gavel_core::spec::RunSpec;

use crate::ledger::{EventRecord, Ledger, LedgerError, Position, Row, RunRecord};

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

/// A run on its way back from the ledger, row by row, each of which must be as it was written.
#[derive(Debug)]
pub(crate) struct Replay {
    run: Run,
    /// What the run has let go, of one that is lean and was begun with its first event.
    commits: Option<Commits>,
    position: Position,
    at: Millis,
}

impl Replay {
    /// The run before its first event.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] and [`ReplayError::Panicked`].
    pub(crate) fn begin(record: &RunRecord) -> Result<Self, ReplayError> {
        let (spec, assets) = contents(record)?;
        let made = catch(|| Run::new(record.run.clone(), spec, assets).created(record.created));
        let run = made.map_err(|panicked| ReplayError::Panicked {
            run: record.run.clone(),
            row: Row::Run,
            panicked,
        })?;
        Ok(Self {
            run,
            commits: None,
            position: record.position(&[]),
            at: record.created,
        })
    }

    /// The run after the events that are in a snapshot of it. Should an event take steps back, it is refused: what the run has let go
    /// is not here.
    pub(crate) fn after(run: Run, position: Position, at: Millis) -> Self {
        Self {
            run,
            commits: None,
            position,
            at,
        }
    }

    /// The same for a coordinator, which looks back at few steps; to be said before the first event.
    #[must_use]
    pub(crate) fn lean(mut self) -> Self {
        self.run = self.run.lean();
        self.commits = Some(Commits::default());
        self
    }

    /// Applies the event that follows. Returns the effects: what followed from them was carried out when it happened, or does not
    /// matter any more.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`], [`ReplayError::Refused`] and [`ReplayError::Panicked`].
    pub(crate) fn take(&mut self, stored: &EventRecord) -> Result<Vec<Effect>, ReplayError> {
        let sequence = self.position.events + 1;
        let row = Row::Event(sequence);
        let corrupt = |problem| LedgerError::Corrupt {
            run: self.run.id().clone(),
            row,
            problem,
        };
        if stored.sequence != sequence {
            return Err(corrupt("it is missing".to_owned()).into());
        }
        stored.check(&self.position.chain)?;
        let event: Event = serde_json::from_str(&stored.event).map_err(|error| corrupt(error.to_string()))?;
        let (run, at) = (&mut self.run, stored.at);
        let applied = catch(|| match &mut self.commits {
            Some(commits) => commits.apply(run, event, at),
            None => run.apply(event, at),
        });
        let id = self.run.id();
        let applied = applied.map_err(|panicked| ReplayError::Panicked {
            run: id.clone(),
            row,
            panicked,
        })?;
        let effects = applied.map_err(|refusal| ReplayError::Refused {
            run: id.clone(),
            sequence,
            refusal,
        })?;
        self.position = Position {
            events: sequence,
            chain: stored.chain,
        };
        self.at = stored.at;
        Ok(effects)
    }

    /// The run after the events so far.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// The last of these events.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// The time of the last of these events, or that of the submission.
    pub(crate) fn at(&self) -> Millis {
        self.at
    }

    /// The commits of the steps so far, of a lean run that was begun with its first event.
    pub(crate) fn into_commits(self) -> Vec<Commit> {
        self.commits.unwrap_or_default().into_vec()
    }

    /// The run when the events are through.
    pub(crate) fn into_run(self) -> Run {
        self.run
    }
}

/// What a run's row, which must be as it was written, says of the run.
///
/// # Errors
/// [`LedgerError::Corrupt`].
pub(crate) fn contents(record: &RunRecord) -> Result<(RunSpec, RunAssets), LedgerError> {
    let corrupt = |row| {
        move |error: serde_json::Error| LedgerError::Corrupt {
            run: record.run.clone(),
            row,
            problem: error.to_string(),
        }
    };
    record.check()?;
    let spec = serde_json::from_str(&record.spec).map_err(corrupt(Row::Spec))?;
    let assets = serde_json::from_str(&record.assets).map_err(corrupt(Row::Assets))?;
    Ok((spec, assets))
}

/// Rebuilds a run with its whole history from its row and its events, each of which must be as it was written.
///
/// # Errors
/// [`LedgerError::Corrupt`], [`ReplayError::Refused`] and [`ReplayError::Panicked`].
pub fn replay(record: &RunRecord, events: &[EventRecord]) -> Result<Run, ReplayError> {
    let mut replay = Replay::begin(record)?;
    for event in events {
        replay.take(event)?;
    }
    Ok(replay.into_run())
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
