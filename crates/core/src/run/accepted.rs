//! Which results count, and whose they are. The commits of a long run are most of them: each takes some sixteen bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{Fence, Step, WorkerId};
use crate::work::Unit;

/// A result that counts: by which grant, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) fence: Fence,
    /// Shared by all results of the worker.
    pub(super) worker: Arc<WorkerId>,
}

/// The units whose results count.
#[derive(Debug, Clone, Default)]
pub(super) struct AcceptedUnits {
    /// Step n's commit at index n - 1. The last is never `None`.
    commits: Vec<Option<Accepted>>,
    others: BTreeMap<Unit, Accepted>,
    /// Each name once, as the results share it; a name that no result bears any more is forgotten with the next new one.
    names: BTreeSet<Arc<WorkerId>>,
}

impl AcceptedUnits {
    pub(super) fn get(&self, unit: &Unit) -> Option<&Accepted> {
        match *unit {
            Unit::Commit { step } => self.commits.get(index(step)?)?.as_ref(),
            _ => self.others.get(unit),
        }
    }

    pub(super) fn contains(&self, unit: &Unit) -> bool {
        self.get(unit).is_some()
    }

    pub(super) fn insert(&mut self, unit: Unit, fence: Fence, worker: WorkerId) {
        let worker = self.shared(worker);
        let accepted = Accepted { fence, worker };
        match unit {
            Unit::Commit { step } => {
                let Some(index) = index(step) else { return };
                if self.commits.len() <= index {
                    self.commits.resize(index + 1, None);
                }
                self.commits[index] = Some(accepted);
            }
            _ => {
                self.others.insert(unit, accepted);
            }
        }
    }

    /// Whether the unit was there.
    pub(super) fn remove(&mut self, unit: &Unit) -> bool {
        let was_there = match *unit {
            Unit::Commit { step } => {
                let commit = index(step).and_then(|index| self.commits.get_mut(index));
                commit.and_then(Option::take).is_some()
            }
            _ => self.others.remove(unit).is_some(),
        };
        self.cut_empty_end();
        was_there
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Unit) -> bool) {
        for (step, commit) in (1..).map(Step).zip(&mut self.commits) {
            if !keep(&Unit::Commit { step }) {
                *commit = None;
            }
        }
        self.cut_empty_end();
        self.others.retain(|unit, _| keep(unit));
    }

    /// The accepted commits, in order.
    pub(super) fn commits(&self) -> impl Iterator<Item = (Step, &Accepted)> {
        let numbered = (1..).map(Step).zip(&self.commits);
        numbered.filter_map(|(step, commit)| Some((step, commit.as_ref()?)))
    }

    /// Every other accepted unit, in order.
    pub(super) fn others(&self) -> impl Iterator<Item = (Unit, &Accepted)> {
        self.others.iter().map(|(unit, accepted)| (*unit, accepted))
    }

    fn cut_empty_end(&mut self) {
        while self.commits.last().is_some_and(Option::is_none) {
            self.commits.pop();
        }
    }

    fn shared(&mut self, worker: WorkerId) -> Arc<WorkerId> {
        if let Some(name) = self.names.get(&worker) {
            return Arc::clone(name);
        }
        self.names.retain(|name| Arc::strong_count(name) > 1);
        let name = Arc::new(worker);
        self.names.insert(Arc::clone(&name));
        name
    }
}

/// The names are kept for their own sake: two that accepted the same results are equal.
impl PartialEq for AcceptedUnits {
    fn eq(&self, other: &Self) -> bool {
        (&self.commits, &self.others) == (&other.commits, &other.others)
    }
}

fn index(step: Step) -> Option<usize> {
    (step.0 as usize).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(step: u32) -> Unit {
        Unit::Commit { step: Step(step) }
    }

    #[test]
    fn a_worker_is_named_once_and_forgotten_with_its_results() {
        let mut units = AcceptedUnits::default();
        for step in 1..=3 {
            units.insert(commit(step), Fence(step.into()), WorkerId("one".into()));
        }
        let workers: Vec<_> = units.commits().map(|(_, accepted)| &accepted.worker).collect();
        assert!(workers.iter().all(|worker| Arc::ptr_eq(worker, workers[0])));

        units.retain(|unit| *unit != commit(1) && *unit != commit(2) && *unit != commit(3));
        assert_eq!(units, AcceptedUnits::default());
        units.insert(Unit::Initialise, Fence(4), WorkerId("two".into()));
        assert_eq!(units.names.len(), 1);
    }

    #[test]
    fn commits_and_other_units_are_found_as_they_were_put_in() {
        let mut units = AcceptedUnits::default();
        let sample = Unit::Sample {
            step: Step(2),
            chunk: 0,
        };
        units.insert(commit(2), Fence(7), WorkerId("trainer".into()));
        units.insert(sample, Fence(5), WorkerId("sampler".into()));

        assert_eq!(units.get(&commit(2)).map(|accepted| accepted.fence), Some(Fence(7)));
        assert_eq!(units.get(&sample).map(|accepted| accepted.fence), Some(Fence(5)));
        assert!(!units.contains(&commit(1)) && !units.contains(&commit(0)) && !units.contains(&commit(3)));
        assert_eq!(units.commits().map(|(step, _)| step).collect::<Vec<_>>(), [Step(2)]);

        assert!(units.remove(&commit(2)) && !units.remove(&commit(2)));
        assert!(units.remove(&sample) && !units.contains(&sample));
    }
}
