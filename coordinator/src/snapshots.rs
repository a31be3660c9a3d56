//! Snapshots of runs in the ledger: when one is due, what is in it, and how a run comes back from it.
//!
//! A snapshot spares the next coordinator the events before it. It is a kept replay and nothing more: one that is of another
//! version, damaged, or of events that the ledger does not have is left alone with a warning, and every event is replayed.

use gavel_core::Diagnostic;
use gavel_core::ids::{Digest, Millis, RunId};
use gavel_core::panics::{Panicked, catch};
use gavel_core::run::{NotOfThisRun, Run, SNAPSHOT_VERSION};

use crate::ledger::{
    EventRecord, Ledger, LedgerError, NotReadable, Position, Row, RunRecord, SnapshotRecord, Written, write,
};
use crate::replay::{Replay, ReplayError, contents};

/// Events from one snapshot to the next, unless somebody says otherwise. So many are replayed in some tens of milliseconds, and are
/// several times as many bytes as the state of a usual run.
pub(crate) const EVENTS: u64 = 4096;
/// A run that ends, and a coordinator that does, leave no more than this part of them to be replayed.
const PART_AT_END: u64 = 16;
/// An event for every so many bytes of the snapshot before: where steps are large the state is, and writing it again and again must
/// not be more work than writing the events.
const BYTES_PER_EVENT: u64 = 400;

/// How far the snapshot of a run reaches, and how large it was.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kept {
    events: u64,
    bytes: u64,
    /// Whoever began at it could not apply the events since.
    is_outdated: bool,
}

/// What brings a snapshot about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// So many events have come.
    Events,
    /// The run or the coordinator ends: soon somebody may start from there.
    End,
}

impl Kept {
    /// Of a snapshot that is in the ledger, or that could not be written there: the next is due as long after it.
    pub(crate) fn of(snapshot: &SnapshotRecord) -> Self {
        Self {
            events: snapshot.position.events,
            bytes: snapshot.state.len() as u64,
            is_outdated: false,
        }
    }

    /// The run has taken steps back, with what it had let go of: a start is not to do that again.
    pub(crate) fn outdated(self) -> Self {
        Self {
            is_outdated: true,
            ..self
        }
    }

    /// Whether a snapshot is due after so many events; `every` is the number between two of them.
    pub(crate) fn is_due(self, occasion: Occasion, events: u64, every: u64) -> bool {
        let since = events.saturating_sub(self.events);
        if self.is_outdated {
            return true;
        }
        match occasion {
            Occasion::Events => since >= every.max(self.bytes / BYTES_PER_EVENT),
            Occasion::End => since >= (every / PART_AT_END).max(1),
        }
    }
}

/// A lean run's snapshot; `None` of a run that is not lean.
///
/// # Errors
/// What would be written does not read back.
pub(crate) fn of(run: &Run, position: Position, at: Millis) -> Result<Option<SnapshotRecord>, NotReadable> {
    let Some(snapshot) = run.snapshot() else {
        return Ok(None);
    };
    let Written { text, .. } = write(&snapshot)?;
    let record = SnapshotRecord::new(run.id().clone(), position, at, SNAPSHOT_VERSION, text);
    Ok(Some(record))
}

/// The snapshot that these events, from the first on, come to.
///
/// # Errors
/// As [`crate::replay`].
pub fn replayed(record: &RunRecord, events: &[EventRecord]) -> Result<SnapshotRecord, ReplayError> {
    let mut replay = Replay::begin(record)?.lean();
    for event in events {
        replay.take(event)?;
    }
    let snapshot = of(replay.run(), replay.position(), replay.at());
    let unreadable = |problem: String| LedgerError::Corrupt {
        run: record.run.clone(),
        row: Row::Snapshot,
        problem,
    };
    let snapshot = snapshot.map_err(|error| unreadable(error.to_string()))?;
    Ok(snapshot.ok_or_else(|| unreadable("the run is not lean".to_owned()))?)
}

/// Why a snapshot is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// Another Gavel wrote it.
    #[error("it has version {found}, this Gavel writes {SNAPSHOT_VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// Bytes have changed.
    #[error(transparent)]
    Damaged(#[from] LedgerError),
    /// The event that it ends with is another one in the ledger, or none.
    #[error("its last event, number {sequence}, is not the ledger's")]
    OtherEvents {
        /// The event's number.
        sequence: u64,
    },
    /// Its state is no state.
    #[error("its state cannot be read")]
    Unreadable(#[from] serde_json::Error),
    /// Its state is another run's.
    #[error(transparent)]
    OtherRun(#[from] NotOfThisRun),
    /// A run cannot be made of it.
    #[error("its state cannot be taken up")]
    Panicked(#[from] Panicked),
}

/// The run that a snapshot gives, to go on from there. `chain` is the ledger's checksum of the snapshot's last event. The text, which may
/// have megabytes, is gone before the run is made.
///
/// # Errors
/// Why nothing is to be begun with it.
pub(crate) fn restore(record: &RunRecord, snapshot: SnapshotRecord, chain: Option<Digest>) -> Result<Replay, Unusable> {
    snapshot.check()?;
    if snapshot.version != SNAPSHOT_VERSION {
        return Err(Unusable::Version {
            found: snapshot.version,
        });
    }
    if chain != Some(snapshot.position.chain) {
        return Err(Unusable::OtherEvents {
            sequence: snapshot.position.events,
        });
    }
    let SnapshotRecord {
        position, at, state, ..
    } = snapshot;
    let read = serde_json::from_str(&state)?;
    drop(state);
    let (spec, assets) = contents(record)?;
    let run = catch(|| Run::restore(record.run.clone(), spec, assets, record.created, read))??;
    Ok(Replay::after(run, position, at))
}

/// The run as its snapshot has it; `None` where there is none, or none that is of use.
///
/// # Errors
/// The ledger does not answer.
pub(crate) async fn read(ledger: &dyn Ledger, record: &RunRecord) -> Result<Option<(Replay, Kept)>, LedgerError> {
    let unusable = |run: &RunId, reason: Unusable| {
        let reason = Diagnostic::foreign(&reason).in_full();
        tracing::warn!(%run, reason, "the snapshot is of no use, every event is replayed");
    };
    let snapshot = match ledger.snapshot(&record.run).await {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => return Ok(None),
        Err(error) if error.is_damage() => {
            unusable(&record.run, error.into());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let chain = ledger.chain(&record.run, snapshot.position.events).await?;
    let kept = Kept::of(&snapshot);
    match restore(record, snapshot, chain) {
        Ok(replay) => Ok(Some((replay, kept))),
        Err(reason) => {
            unusable(&record.run, reason);
            Ok(None)
        }
    }
}
