//! Runs that cannot be read from the ledger.

use gavel_core::hint::Hint as _;
use gavel_core::ids::{Millis, RunId};
use gavel_core::run::RunStatus;
use tokio::sync::watch;

use super::State;
use crate::driver::DriverError;
use crate::replay::ReplayError;

/// Why a run was set aside.
#[derive(Debug)]
pub(super) struct SetAside {
    reason: String,
    /// Nothing changes; whoever watches is told once.
    changed: watch::Sender<u64>,
}

impl State {
    /// Notes a run that cannot be read. It is shown, and nothing else is done with it.
    pub(crate) fn set_aside(&mut self, run: RunId, error: &ReplayError) {
        let reason = match error.hint() {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        };
        let changed = watch::Sender::new(0);
        self.aside.insert(run, SetAside { reason, changed });
    }

    /// Whether every run of the ledger is known. Only then can it be said which blobs nobody needs.
    pub(crate) fn is_whole(&self) -> bool {
        self.aside.is_empty()
    }

    /// Why there is no such run here.
    pub(super) fn absence(&self, id: &RunId) -> DriverError {
        match self.aside.get(id) {
            Some(SetAside { reason, .. }) => DriverError::SetAside {
                run: id.clone(),
                reason: reason.clone(),
            },
            None => DriverError::UnknownRun(id.clone()),
        }
    }

    /// A run's status, also of one that is set aside.
    pub(crate) fn status(&self, id: &RunId, now: Millis) -> Result<RunStatus, DriverError> {
        match self.run(id) {
            Err(DriverError::SetAside { run, reason }) => Ok(RunStatus::unreadable(run, &reason, now)),
            known => Ok(known?.status(now)),
        }
    }

    /// Every run's status: the runs in the order of submission, then those that are set aside.
    pub(crate) fn statuses(&self, now: Millis) -> Vec<RunStatus> {
        let known = self.runs().map(|(run, _)| run.status(now));
        let unreadable = |(run, aside): (&RunId, &SetAside)| RunStatus::unreadable(run.clone(), &aside.reason, now);
        known.chain(self.aside.iter().map(unreadable)).collect()
    }

    pub(crate) fn watch(&self, id: &RunId) -> Result<watch::Receiver<u64>, DriverError> {
        let known = self.runs.get(id).map(|state| &state.changed);
        let changed = known.or(self.aside.get(id).map(|aside| &aside.changed));
        Ok(changed.ok_or_else(|| self.absence(id))?.subscribe())
    }
}
