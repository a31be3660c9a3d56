//! Blobs that a run's commit made superfluous, until nobody else can come to need them.
//!
//! Blobs are named by their contents, so that two runs may make the same one. A worker stores a result's blobs before it hands
//! the result in; a commit of another run between the two would have them deleted under a result that is then accepted. So
//! what a commit releases waits until the leases have ended that other runs had open at that moment.

use std::collections::BTreeSet;

use gavel_core::ids::{Digest, RunId};
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
    /// Notes the blobs that a commit of a run made superfluous, once it is in the ledger.
    pub(crate) fn release(&mut self, id: &RunId, blobs: BTreeSet<Digest>) {
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
            for asleep in self.asleep.values() {
                for blob in asleep.retained() {
                    garbage.remove(blob);
                }
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
    use gavel_core::run::Event;

    use super::super::fixtures::{NOW, add_run, complete, grant, id};
    use super::*;

    /// A coordinator of two runs that differ in nothing but their names.
    fn two_runs() -> State {
        let mut state = State::default();
        for name in ["one", "two"] {
            add_run(&mut state, name, |_, _| {});
        }
        state
    }

    fn commit_a_step(state: &mut State, run: &RunId) {
        while state.run(run).unwrap().committed().0 == 0 {
            let lease = grant(state, run);
            complete(state, lease);
        }
        for (run, blobs) in state.take_batch().released {
            state.release(&run, blobs);
        }
    }

    #[test]
    fn what_another_run_is_about_to_name_is_not_deleted() {
        let (one, two) = (id("one"), id("two"));
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
        let (one, two) = (id("one"), id("two"));
        let mut state = two_runs();
        let LeaseKey { unit, fence, .. } = grant(&mut state, &two);
        commit_a_step(&mut state, &one);
        let initial = state.run(&one).unwrap().results().policies[0].adapter;
        assert!(state.garbage().is_empty());
        state.apply(&two, Event::Expired { unit, fence }, NOW).unwrap();
        assert!(state.garbage().contains(&initial));
    }
}
