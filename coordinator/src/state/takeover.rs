//! What a coordinator does with the runs of the one before it.

use gavel_core::ids::{Millis, RunId};
use gavel_core::run::Event;

use super::State;

impl State {
    /// Takes the runs over that have not ended, after a time in which no coordinator served them.
    pub(crate) fn recover(&mut self, away_ms: u64, now: Millis) {
        let open: Vec<RunId> = self
            .runs()
            .filter(|(run, _)| !run.phase().is_ended())
            .map(|(run, _)| run.id().clone())
            .collect();
        for id in open {
            if let Err(error) = self.apply(&id, Event::Recovered { away_ms }, now) {
                tracing::error!(run = %id, %error, "a run could not be taken over");
            }
            // What the coordinator before had no time to decide.
            self.pause_by_rule(&id, now);
        }
    }

    /// Ends every lease, as if its worker had given the unit back: nobody of before works any more.
    pub(crate) fn release_leases(&mut self, now: Millis) {
        let held = self.runs().flat_map(|(run, _)| {
            run.leases().map(|(unit, lease)| {
                let released = Event::Released {
                    unit: *unit,
                    worker: lease.worker.clone(),
                    fence: lease.fence,
                    reason: None,
                };
                (run.id().clone(), released)
            })
        });
        for (id, released) in held.collect::<Vec<_>>() {
            if let Err(error) = self.apply(&id, released, now) {
                tracing::error!(run = %id, %error, "a lease of before could not be ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{NOW, add_run, complete, grant, id};
    use super::*;

    #[test]
    fn what_workers_of_before_held_is_handed_out_at_once_and_counts_as_no_loss() {
        let mut state = State::default();
        add_run(&mut state, "run", |_, _| {});
        let run = id("run");
        let lost = grant(&mut state, &run);
        state.recover(0, NOW);
        state.release_leases(NOW);
        assert_eq!(state.run(&run).unwrap().leases().count(), 0);
        let again = grant(&mut state, &run);
        assert!(again.unit == lost.unit && again.fence != lost.fence);
        complete(&mut state, again);
    }
}
