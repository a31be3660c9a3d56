//! A ledger in memory that fails on demand: before or after the write is durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gavel_core::ids::{Digest, RunId, Step};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::driver::DriverError;
use crate::ledger::{
    CommitRecord, DetailsRecord, EventRecord, Ledger, LedgerError, RunRecord, SnapshotRecord, StepRecords,
};
use crate::state::LeaseAnswer;

/// What becomes of the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    /// It is stored and reported as stored.
    #[default]
    Stored,
    /// It fails and nothing is stored.
    Lost,
    /// It is stored and reported as failed.
    StoredAndReportedLost,
}

#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) runs: Vec<RunRecord>,
    pub(super) events: Vec<EventRecord>,
    /// Of the next batch of events.
    pub(super) append: Fate,
    /// Of the next run.
    pub(super) creation: Fate,
    pub(super) snapshots: BTreeMap<RunId, SnapshotRecord>,
    pub(super) details: BTreeMap<(RunId, Step), DetailsRecord>,
    pub(super) commits: BTreeMap<(RunId, Step), CommitRecord>,
    /// Of the next snapshot, or of what steps came to.
    pub(super) kept: Fate,
    /// Callers that wait for work and are gone by the time that the next batch is written.
    pub(super) hang_up_while_writing: Vec<oneshot::Receiver<Result<LeaseAnswer, DriverError>>>,
}

/// Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub(super) struct SimulatedLedger(Arc<Mutex<Pages>>);

impl SimulatedLedger {
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure() -> LedgerError {
    LedgerError::Database {
        location: "simulation".into(),
        action: "write",
        source: "the disk is gone".into(),
    }
}

#[async_trait]
impl Ledger for SimulatedLedger {
    async fn create_run(&self, record: &RunRecord) -> Result<(), LedgerError> {
        let mut pages = self.pages();
        if pages.runs.iter().any(|known| known.run == record.run) {
            return Err(LedgerError::RunExists {
                run: record.run.clone(),
            });
        }
        let fate = std::mem::take(&mut pages.creation);
        if fate != Fate::Lost {
            pages.runs.push(record.clone());
        }
        if fate == Fate::Stored { Ok(()) } else { Err(failure()) }
    }

    async fn append(&self, events: &[EventRecord]) -> Result<(), LedgerError> {
        let mut pages = self.pages();
        for event in events {
            let taken = |known: &EventRecord| known.run == event.run && known.sequence == event.sequence;
            if pages.events.iter().rev().take(64).any(taken) {
                return Err(LedgerError::Conflict {
                    run: event.run.clone(),
                    sequence: event.sequence,
                });
            }
        }
        pages.hang_up_while_writing.clear();
        let fate = std::mem::take(&mut pages.append);
        if fate != Fate::Lost {
            pages.events.extend_from_slice(events);
        }
        if fate == Fate::Stored { Ok(()) } else { Err(failure()) }
    }

    async fn identity(&self) -> Result<Uuid, LedgerError> {
        Ok(Uuid::nil())
    }

    async fn runs(&self) -> Result<Vec<RunId>, LedgerError> {
        let mut runs = self.pages().runs.clone();
        runs.sort_by(|a, b| (a.created, &a.run).cmp(&(b.created, &b.run)));
        Ok(runs.into_iter().map(|record| record.run).collect())
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>, LedgerError> {
        let pages = self.pages();
        Ok(pages.runs.iter().find(|record| record.run == *run).cloned())
    }

    async fn events_after(&self, run: &RunId, after: u64, most: u64) -> Result<Vec<EventRecord>, LedgerError> {
        let pages = self.pages();
        let events = pages
            .events
            .iter()
            .filter(|event| event.run == *run && event.sequence > after);
        Ok(events
            .take(usize::try_from(most).unwrap_or(usize::MAX))
            .cloned()
            .collect())
    }

    async fn chain(&self, run: &RunId, sequence: u64) -> Result<Option<Digest>, LedgerError> {
        let pages = self.pages();
        let event = |event: &&EventRecord| event.run == *run && event.sequence == sequence;
        Ok(match sequence {
            0 => pages
                .runs
                .iter()
                .find(|record| record.run == *run)
                .map(|record| record.chain),
            _ => pages.events.iter().find(event).map(|event| event.chain),
        })
    }

    async fn snapshot(&self, run: &RunId) -> Result<Option<SnapshotRecord>, LedgerError> {
        Ok(self.pages().snapshots.get(run).cloned())
    }

    async fn keep_snapshot(&self, snapshot: &SnapshotRecord) -> Result<(), LedgerError> {
        let mut pages = self.pages();
        let fate = std::mem::take(&mut pages.kept);
        if fate != Fate::Lost {
            pages.snapshots.insert(snapshot.run.clone(), snapshot.clone());
        }
        if fate == Fate::Stored { Ok(()) } else { Err(failure()) }
    }

    async fn details(&self, run: &RunId, first: Step, most: u64) -> Result<Vec<DetailsRecord>, LedgerError> {
        let pages = self.pages();
        let of_run = pages
            .details
            .values()
            .filter(|record| record.run == *run && record.step >= first);
        Ok(of_run
            .take(usize::try_from(most).unwrap_or(usize::MAX))
            .cloned()
            .collect())
    }

    async fn commits(&self, run: &RunId, first: Step, most: u64) -> Result<Vec<CommitRecord>, LedgerError> {
        let pages = self.pages();
        let of_run = pages
            .commits
            .values()
            .filter(|record| record.run == *run && record.step >= first);
        Ok(of_run
            .take(usize::try_from(most).unwrap_or(usize::MAX))
            .cloned()
            .collect())
    }

    async fn keep_steps(&self, steps: &StepRecords) -> Result<(), LedgerError> {
        let mut pages = self.pages();
        let fate = std::mem::take(&mut pages.kept);
        if fate != Fate::Lost {
            let details = steps.details.iter();
            let details = details.map(|record| ((record.run.clone(), record.step), record.clone()));
            pages.details.extend(details);
            let commits = steps.commits.iter();
            let commits = commits.map(|record| ((record.run.clone(), record.step), record.clone()));
            pages.commits.extend(commits);
        }
        if fate == Fate::Stored { Ok(()) } else { Err(failure()) }
    }

    async fn ready(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn close(&self) {}
}
