//! Blobs that a run's commit made superfluous, until nobody else can come to need them.
//!
//! Blobs are named by their contents, so that two runs may make the same one. A worker stores a result's blobs before it hands
//! the result in; a commit of another run between the two would have them deleted under a result that is then accepted. So
//! what a commit releases waits until the leases have ended that other runs had open at that moment.

use std::collections::BTreeSet;

use gavel_core::ids::{Digest, RunId};
use gavel_core::run::Run;
use gavel_core::work::LeaseKey;

use super::State;

/// What one commit released.
#[derive(Debug)]
pub(super) struct Release {
    blobs: BTreeSet<Digest>,
    /// Leases of other runs whose results may name these blobs.
    leases: Vec<LeaseKey>,
}

impl State {
    /// Notes the blobs that a run's latest commit made superfluous.
    pub(crate) fn release(&mut self, id: &RunId) {
        let blobs = self.run(id).map(Run::released).unwrap_or_default();
        let others = self.runs().filter(|(run, _)| run.id() != id);
        let leases = others.flat_map(|(run, _)| {
            run.leases().map(|(unit, lease)| LeaseKey {
                run: run.id().clone(),
                unit: *unit,
                fence: lease.fence,
            })
        });
        let leases = leases.collect();
        self.releases.push(Release { blobs, leases });
    }

    /// The released blobs that nobody can come to need any more: none while a run is set aside, whose needs are not known.
    pub(crate) fn garbage(&mut self) -> BTreeSet<Digest> {
        let mut releases = std::mem::take(&mut self.releases);
        for release in &mut releases {
            release.leases.retain(|lease| self.is_open(lease));
        }
        let (waiting, over): (Vec<_>, Vec<_>) = releases.into_iter().partition(|release| !release.leases.is_empty());
        self.releases = waiting;
        if !self.is_whole() {
            return BTreeSet::new();
        }
        let mut garbage: BTreeSet<Digest> = over.into_iter().flat_map(|release| release.blobs).collect();
        if !garbage.is_empty() {
            for (run, _) in self.runs() {
                let needed = run.retained();
                garbage.retain(|blob| !needed.contains(blob));
            }
        }
        garbage
    }

    fn is_open(&self, key: &LeaseKey) -> bool {
        let lease = self.run(&key.run).ok().and_then(|run| run.lease(&key.unit));
        lease.is_some_and(|lease| lease.fence == key.fence)
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::forecast::rehearsal;
    use gavel_core::ids::{Millis, WorkerId};
    use gavel_core::run::Event;
    use gavel_core::spec::RunSpec;
    use gavel_core::work::{Role, Unit};
    use gavel_core::{RubricText, RunAssets};

    use super::*;
    use crate::ledger::Position;

    const NOW: Millis = Millis(1);

    /// A coordinator of two runs that differ in nothing but their names.
    fn two_runs() -> State {
        let mut state = State::default();
        for name in ["one", "two"] {
            let mut spec = RunSpec::default();
            spec.run.name = name.into();
            spec.run.steps = 2;
            spec.prompts.per_step = 1;
            spec.checkpoints.every = 0;
            spec.coordinator.keep_steps = 0;
            let assets = RunAssets {
                prompts: vec!["a cat".into()],
                rubric: RubricText::new("the first"),
                ..RunAssets::default()
            };
            let position = Position {
                events: 0,
                chain: Digest::of(name.as_bytes()),
            };
            state.insert(Run::new(spec.id(), spec, assets), NOW, position);
        }
        state
    }

    fn worker() -> WorkerId {
        WorkerId("trainer-1".into())
    }

    fn grant(state: &mut State, run: &RunId) -> LeaseKey {
        let ready = state.run(run).unwrap();
        let roles = [Role::Sampler, Role::Judge, Role::Trainer];
        let unit: Unit = roles.into_iter().find_map(|role| ready.next_unit(role)).unwrap();
        let fence = ready.next_fence();
        let worker = worker();
        state.apply(run, Event::Granted { unit, worker, fence }, NOW).unwrap();
        let run = run.clone();
        LeaseKey { run, unit, fence }
    }

    fn complete(state: &mut State, LeaseKey { run, unit, fence }: LeaseKey) {
        let leased = state.run(&run).unwrap();
        let assignment = leased.assignment(&unit).unwrap();
        let outcome = rehearsal::work(leased.spec(), leased.assets().rubric.digest, &assignment);
        let completed = Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome: rehearsal::decided(outcome),
        };
        state.apply(&run, completed, NOW).unwrap();
    }

    fn commit_a_step(state: &mut State, run: &RunId) {
        while state.run(run).unwrap().committed().0 == 0 {
            let lease = grant(state, run);
            complete(state, lease);
        }
        state.release(run);
    }

    #[test]
    fn what_another_run_is_about_to_name_is_not_deleted() {
        let (one, two) = (RunId("one".into()), RunId("two".into()));
        let mut state = two_runs();
        // The second run's first policy is the first run's, byte for byte. It is stored, and its result is on the way.
        let on_the_way = grant(&mut state, &two);
        commit_a_step(&mut state, &one);
        let initial = state.run(&one).unwrap().results().policies[0].clone();
        assert!(state.run(&one).unwrap().released().contains(&initial.adapter));
        assert!(state.garbage().is_empty());
        complete(&mut state, on_the_way);
        let garbage = state.garbage();
        assert!(!garbage.is_empty(), "the first step's pictures are needed by nobody");
        assert_eq!(state.run(&two).unwrap().policy(), Some(&initial));
        assert!(garbage.is_disjoint(&state.retained()));
    }

    #[test]
    fn what_a_lost_lease_held_back_is_deleted() {
        let (one, two) = (RunId("one".into()), RunId("two".into()));
        let mut state = two_runs();
        let LeaseKey { unit, fence, .. } = grant(&mut state, &two);
        commit_a_step(&mut state, &one);
        let initial = state.run(&one).unwrap().results().policies[0].adapter;
        assert!(state.garbage().is_empty());
        state.apply(&two, Event::Expired { unit, fence }, NOW).unwrap();
        assert!(state.garbage().contains(&initial));
    }
}
