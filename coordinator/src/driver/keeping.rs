//! What the driver keeps in the ledger besides events, and what it reads again of it.

use std::sync::Arc;

use gavel_core::ids::{RunId, Step};
use gavel_core::run::Commit;

use super::{Driver, DriverError};
use crate::error::Error;
use crate::ledger::{LedgerError, SnapshotRecord, StepRecords};
use crate::recovery;
use crate::replay::ReplayError;
use crate::snapshots::Occasion;
use crate::state::Batch;
use crate::steps;

/// Rows of steps that may wait for a ledger that takes events and nothing else: two for each step. Beyond, the coordinator ends: the
/// next one finds them in the events again.
const UNWRITTEN_MAX: usize = 128;

impl Driver {
    /// Spares the next coordinator the events so far, and keeps what steps came to for those who look back. Everybody has been
    /// answered; and as all of it follows from events that are in the ledger, what fails here is a warning, unless it goes on failing.
    pub(super) async fn keep(&mut self, batch: &mut Batch) -> Result<(), Error> {
        for (run, step) in std::mem::take(&mut batch.committed) {
            self.unwritten.append(steps::records(&run, [step]));
        }
        let due = self.state.due_after(batch, self.options.snapshot_events);
        self.keep_snapshots(due).await
    }

    pub(super) async fn keep_snapshots_of_all(&mut self, occasion: Occasion) -> Result<(), Error> {
        let due = self.state.due_of_all(occasion, self.options.snapshot_events);
        self.keep_snapshots(due).await
    }

    /// Steps come first: who begins at a snapshot never sees again what was committed before it.
    async fn keep_snapshots(&mut self, due: Vec<SnapshotRecord>) -> Result<(), Error> {
        match self.keep_steps().await {
            Ok(()) => {}
            Err(error) if self.unwritten.len() < UNWRITTEN_MAX => {
                tracing::warn!(%error, "what some steps came to could not be kept, and will be tried again with the next");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        for snapshot in due {
            let (run, events) = (&snapshot.run, snapshot.position.events);
            match self.ledger.keep_snapshot(&snapshot).await {
                Ok(()) => tracing::debug!(%run, events, bytes = snapshot.state.len(), "snapshot written"),
                Err(error) => tracing::warn!(%run, %error, "a snapshot could not be written"),
            }
        }
        Ok(())
    }

    async fn keep_steps(&mut self) -> Result<(), LedgerError> {
        if !self.unwritten.is_empty() {
            self.ledger.keep_steps(&self.unwritten).await?;
            self.unwritten = StepRecords::default();
        }
        Ok(())
    }

    /// The commits of a run's steps before `end`, which the run has let go of. Where the ledger's own are damaged, they are found in its
    /// events again, and written anew.
    ///
    /// # Errors
    /// [`DriverError::NotRead`].
    pub(super) async fn past(&mut self, id: &RunId, end: Step) -> Result<Vec<Commit>, DriverError> {
        let not_read = |error: LedgerError| DriverError::NotRead(Arc::new(error));
        self.keep_steps().await.map_err(not_read)?;
        let damaged = match steps::past(self.ledger.as_ref(), id, end).await {
            Err(error) if error.is_damage() => error,
            past => return past.map_err(not_read),
        };
        tracing::warn!(run = %id, %damaged, "a commit is of no use, every event is replayed");
        let mut past = match recovery::commits(self.ledger.as_ref(), id).await {
            Ok(commits) => commits,
            Err(ReplayError::Ledger(error)) => return Err(not_read(error)),
            // The events that made the run do not make it again.
            Err(_) => return Err(not_read(damaged)),
        };
        past.truncate(end.0.saturating_sub(1) as usize);
        let written = self.ledger.keep_steps(&steps::commit_records(id, &past)).await;
        if let Err(error) = written {
            tracing::warn!(run = %id, %error, "the commits could not be written anew");
        }
        Ok(past)
    }
}
