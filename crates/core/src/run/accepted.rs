//! Which results count, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{Fence, WorkerId};
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
    units: BTreeMap<Unit, Accepted>,
    /// Each name once, as the results share it; a name that no result bears any more is forgotten with the next new one.
    names: BTreeSet<Arc<WorkerId>>,
}

impl AcceptedUnits {
    pub(super) fn get(&self, unit: &Unit) -> Option<&Accepted> {
        self.units.get(unit)
    }

    pub(super) fn contains(&self, unit: &Unit) -> bool {
        self.get(unit).is_some()
    }

    pub(super) fn insert(&mut self, unit: Unit, fence: Fence, worker: WorkerId) {
        let worker = self.shared(worker);
        self.units.insert(unit, Accepted { fence, worker });
    }

    /// Whether the unit was there.
    pub(super) fn remove(&mut self, unit: &Unit) -> bool {
        self.units.remove(unit).is_some()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Unit) -> bool) {
        self.units.retain(|unit, _| keep(unit));
    }

    /// The accepted units, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Unit, &Accepted)> {
        self.units.iter().map(|(unit, accepted)| (*unit, accepted))
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
        self.units == other.units
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Step;

    fn commit(step: u32) -> Unit {
        Unit::Commit { step: Step(step) }
    }

    #[test]
    fn a_worker_is_named_once_and_forgotten_with_its_results() {
        let mut units = AcceptedUnits::default();
        for step in 1..=3 {
            units.insert(commit(step), Fence(step.into()), WorkerId("one".into()));
        }
        let workers: Vec<_> = units.iter().map(|(_, accepted)| &accepted.worker).collect();
        assert!(workers.iter().all(|worker| Arc::ptr_eq(worker, workers[0])));

        units.retain(|unit| *unit != commit(1) && *unit != commit(2) && *unit != commit(3));
        assert_eq!(units, AcceptedUnits::default());
        units.insert(Unit::Initialise, Fence(4), WorkerId("two".into()));
        assert_eq!(units.names.len(), 1);
    }
}
