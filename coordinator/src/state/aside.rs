//! Runs that cannot be read from the ledger, or at whose event the state machine panicked.

use gavel_core::Diagnostic;
use gavel_core::hint::Hint;
use gavel_core::ids::{Millis, RunId, Step};
use gavel_core::panics::Panicked;
use gavel_core::run::{Run, RunStatus};
use tokio::sync::watch;

use super::State;
use crate::driver::DriverError;

/// Why a run was set aside.
#[derive(Debug)]
pub(super) struct SetAside {
    reason: String,
    /// Nothing changes; whoever watches is told once.
    changed: watch::Sender<u64>,
}

/// The state machine panicked at an event, and what it made of the run is unknown.
#[derive(Debug, thiserror::Error)]
#[error("event {sequence} (`{kind}`) could not be applied")]
pub(super) struct NotApplied {
    /// The number that the event would have had.
    pub(super) sequence: u64,
    pub(super) kind: &'static str,
    #[source]
    pub(super) panicked: Panicked,
}

impl Hint for NotApplied {
    fn hint(&self) -> Option<String> {
        Some(
            "this is a defect, please report it; the ledger does not hold the event, so a coordinator that starts anew takes the run \
             up as it was before"
                .to_owned(),
        )
    }
}

impl State {
    /// Notes a run that cannot be read or that has broken. It is shown, and nothing else is done with it.
    pub(crate) fn set_aside<E: std::error::Error + Hint>(&mut self, run: RunId, error: &E) {
        let reason = Diagnostic::of(error).in_full();
        tracing::error!(%run, reason, "run set aside");
        self.order.retain(|known| *known != run);
        let awake = self.runs.remove(&run).map(|state| state.changed);
        let asleep = self.asleep.remove(&run).map(|asleep| asleep.changed);
        let changed = awake.or(asleep).unwrap_or_else(|| watch::Sender::new(0));
        changed.send_modify(|events| *events += 1);
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

    /// A run's status, also of one that is set aside, with those of the steps after `known` that the run has.
    pub(crate) fn status(&self, id: &RunId, known: Step, now: Millis) -> Result<RunStatus, DriverError> {
        self.status_by(id, now, |run| run.status_since(known, now))
    }

    /// The same, where `status` says what of a run that can be read.
    pub(crate) fn status_by(
        &self,
        id: &RunId,
        now: Millis,
        status: impl FnOnce(&Run) -> RunStatus,
    ) -> Result<RunStatus, DriverError> {
        match self.run(id) {
            Err(DriverError::SetAside { run, reason }) => Ok(RunStatus::unreadable(run, &reason, now)),
            known => known.map(status),
        }
    }

    /// Every run's status [in short](Run::status_in_short): the runs in the order of submission, then those that are set aside.
    pub(crate) fn statuses(&self, now: Millis) -> Vec<RunStatus> {
        let known = self.order.iter().filter_map(|id| match self.runs.get(id) {
            Some(awake) => Some(awake.run.status_in_short(now)),
            None => self.asleep.get(id).map(|asleep| asleep.status(now)),
        });
        let unreadable = |(run, aside): (&RunId, &SetAside)| RunStatus::unreadable(run.clone(), &aside.reason, now);
        known.chain(self.aside.iter().map(unreadable)).collect()
    }

    pub(crate) fn watch(&self, id: &RunId) -> Result<watch::Receiver<u64>, DriverError> {
        let known = self.runs.get(id).map(|state| &state.changed);
        let asleep = self.asleep.get(id).map(|asleep| &asleep.changed);
        let changed = known.or(asleep).or(self.aside.get(id).map(|aside| &aside.changed));
        Ok(changed.ok_or_else(|| self.absence(id))?.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::RunAssets;
    use gavel_core::run::Phase;
    use gavel_core::spec::RunSpec;

    use super::super::fixtures::{NOW, add_run, complete, completed, grant, id, small};
    use super::super::kind;
    use super::*;
    use crate::ledger::{EventRecord, Ledger, RunRecord, SqliteLedger, write};
    use crate::recovery::recover;

    /// The reason for which a run is set aside.
    fn reason(state: &State, run: &RunId) -> String {
        match state.status(run, Step(0), NOW).unwrap().phase {
            Phase::Failed { reason } if reason.starts_with("set aside: ") => reason,
            phase => panic!("{run} is not set aside: {phase:?}"),
        }
    }

    #[test]
    fn a_run_whose_state_machine_panics_is_set_aside_and_the_others_go_on() {
        let mut state = State::default();
        let (broken, good) = (id("broken"), id("good"));
        // A run without a prompt is never taken: to draw the first step's prompts from none is an invariant that does not hold.
        add_run(&mut state, "broken", |_, assets| assets.prompts.clear());
        add_run(&mut state, "good", |_, _| {});
        let lease = grant(&mut state, &broken);
        let holder = state.run(&broken).unwrap().lease(&lease.unit).unwrap().worker.clone();
        let watching = state.watch(&broken).unwrap();
        let written = state.batch.records.len();

        let event = completed(&state, lease.clone());
        let refused = state.report(&broken, event, None, NOW).unwrap_err();
        assert!(matches!(refused, DriverError::SetAside { .. }), "{refused}");
        assert_eq!(state.batch.records.len(), written, "nothing of the event is written");
        let reason = reason(&state, &broken);
        for part in [
            "event 2 (`completed`)",
            "a run needs at least one prompt",
            "starts anew",
        ] {
            assert!(reason.contains(part), "{reason}");
        }
        assert!(watching.has_changed().unwrap(), "whoever watches is told");
        assert_eq!(state.keep_alive(&holder, vec![lease.clone()], NOW), [lease]);
        state.expire(NOW.plus(u64::MAX / 2));

        while state.run(&good).unwrap().committed().0 == 0 {
            let lease = grant(&mut state, &good);
            complete(&mut state, lease);
        }
        for (run, blobs) in state.take_batch().released {
            state.release(&run, blobs);
        }
        assert!(state.garbage().is_empty(), "nobody knows what the broken run needs");
    }

    async fn store(ledger: &SqliteLedger, spec: &RunSpec, assets: &RunAssets) -> RunRecord {
        let (spec_text, assets) = (write(spec).unwrap().text, write(assets).unwrap().text);
        let record = RunRecord::new(spec.id(), spec_text, assets, spec.digest().to_string(), NOW);
        ledger.create_run(&record).await.unwrap();
        record
    }

    #[tokio::test]
    async fn a_ledger_is_read_up_to_an_event_that_panics_and_its_other_runs_are_served() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(&folder.path().join("ledger.sqlite")).await.unwrap();
        let (broken, good) = (id("broken"), id("good"));
        let (spec, assets) = small("broken", |_, assets| assets.prompts.clear());
        let record = store(&ledger, &spec, &assets).await;
        let (spec, assets) = small("good", |_, _| {});
        store(&ledger, &spec, &assets).await;

        let (mut state, _) = recover(&ledger).await.unwrap();
        let lease = grant(&mut state, &broken);
        let event = completed(&state, lease);
        state.report(&broken, event.clone(), None, NOW).unwrap_err();
        let granted = state.take_batch().records;
        ledger.append(&granted).await.unwrap();

        // The ledger does not hold the event, so the next coordinator finds the run as it was before.
        let (state, _) = recover(&ledger).await.unwrap();
        assert_eq!(state.run(&broken).unwrap().phase(), Phase::Preparing);
        assert_eq!(state.run(&broken).unwrap().leases().count(), 1);

        // A version that got over it may have written it.
        let chain = record.position(&granted).chain;
        let text = write(&event).unwrap().text;
        let written = EventRecord::new(&chain, broken.clone(), 2, NOW, kind(&event).to_owned(), text);
        ledger.append(&[written]).await.unwrap();
        let (state, _) = recover(&ledger).await.unwrap();
        let reason = reason(&state, &broken);
        assert!(
            reason.contains("event 2") && reason.contains("a run needs at least one prompt"),
            "{reason}"
        );
        assert_eq!(state.run(&good).unwrap().phase(), Phase::Preparing);
    }
}
