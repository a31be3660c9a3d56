//! Runs that pause themselves.

use gavel_core::ids::{Millis, RunId};
use gavel_core::run::{Event, Run};

use super::State;

impl State {
    /// Holds a run if a rule of its own says so. What the coordinator before had no time to decide is decided when it is asked next.
    pub(super) fn pause_by_rule(&mut self, id: &RunId, now: Millis) {
        let Some(reason) = self.run(id).ok().and_then(Run::stop_rule) else {
            return;
        };
        tracing::warn!(run = %id, reason, "the run pauses by its rules");
        if let Err(error) = self.apply(id, Event::Paused { reason }, now) {
            tracing::error!(run = %id, %error, "a run could not be paused by its rules");
        }
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::ids::Step;
    use gavel_core::run::Phase;
    use gavel_core::spec::StopSpec;

    use super::super::fixtures::{NOW, add_run, complete, grant, id};
    use super::*;

    #[test]
    fn a_run_is_held_with_the_commit_that_breaks_its_rule_and_goes_on_when_it_is_resumed() {
        let mut state = State::default();
        // Every made-up step has a KL of 0.25.
        add_run(&mut state, "run", |spec, _| {
            spec.stop = Some(StopSpec {
                kl_max: Some(0.125),
                ..StopSpec::default()
            });
        });
        let run = id("run");
        while state.run(&run).unwrap().committed() < Step(1) {
            let lease = grant(&mut state, &run);
            complete(&mut state, lease);
        }
        let Phase::Paused { reason } = state.run(&run).unwrap().phase() else {
            panic!("the run goes on");
        };
        assert!(reason.contains("`stop.kl_max`"), "{reason}");
        state.apply(&run, Event::Resumed, NOW).unwrap();
        while !state.run(&run).unwrap().phase().is_ended() {
            let lease = grant(&mut state, &run);
            complete(&mut state, lease);
        }
        assert_eq!(state.run(&run).unwrap().phase(), Phase::Finished);
    }

    #[test]
    fn what_a_coordinator_had_no_time_to_decide_the_next_one_decides() {
        let mut state = State::default();
        add_run(&mut state, "run", |_, _| {});
        let run = id("run");
        while state.run(&run).unwrap().committed() < Step(1) {
            let lease = grant(&mut state, &run);
            complete(&mut state, lease);
        }
        let mut spec = state.run(&run).unwrap().spec().clone();
        spec.stop = Some(StopSpec {
            kl_max: Some(0.125),
            ..StopSpec::default()
        });
        let mut taken_over = State::default();
        add_run(&mut taken_over, "run", |with, _| *with = spec);
        for record in state.take_batch().records {
            let event = serde_json::from_str(&record.event).unwrap();
            taken_over.apply(&run, event, NOW).unwrap();
        }
        assert_eq!(taken_over.run(&run).unwrap().phase(), Phase::Training);
        taken_over.recover(0, NOW);
        assert!(matches!(taken_over.run(&run).unwrap().phase(), Phase::Paused { .. }));
    }
}
