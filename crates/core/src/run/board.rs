//! The board: which units can be leased, and which are.

use std::collections::{BTreeMap, BTreeSet};

use super::Lease;
use crate::ids::{Millis, WorkerId};
use crate::work::{Role, Unit};

/// Which units can be leased and which are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Board {
    /// By role, none without units; the first is the next to be leased, because the order of [`Unit`] is the order of urgency.
    ready: BTreeMap<Role, BTreeSet<Unit>>,
    leases: BTreeMap<Unit, Lease>,
    /// The units among `leases` by their holders, and how many there are of each role that has any: no event may cost more
    /// in a larger fleet.
    held: BTreeMap<WorkerId, BTreeSet<Unit>>,
    leased: BTreeMap<Role, usize>,
    /// Since when a role has work that nobody holds any of.
    unattended: BTreeMap<Role, Millis>,
}

impl Board {
    /// A board with these units.
    pub(super) fn restored(
        ready: BTreeSet<Unit>,
        leases: BTreeMap<Unit, Lease>,
        unattended: BTreeMap<Role, Millis>,
    ) -> Self {
        let mut board = Self::default();
        ready.into_iter().for_each(|unit| board.add(unit));
        leases.into_iter().for_each(|(unit, lease)| board.grant(unit, lease));
        board.unattended = unattended;
        board
    }

    pub(super) fn add(&mut self, unit: Unit) {
        self.ready.entry(unit.role()).or_default().insert(unit);
    }

    /// The units that can be leased, the most urgent first.
    pub(super) fn ready(&self, role: Role) -> impl Iterator<Item = &Unit> {
        self.ready.get(&role).into_iter().flatten()
    }

    /// The units of all roles that can be leased.
    pub(super) fn all_ready(&self) -> impl Iterator<Item = Unit> {
        self.ready.values().flatten().copied()
    }

    pub(super) fn is_ready(&self, unit: &Unit) -> bool {
        self.ready.get(&unit.role()).is_some_and(|units| units.contains(unit))
    }

    pub(super) fn ready_count(&self, role: Role) -> usize {
        self.ready.get(&role).map_or(0, BTreeSet::len)
    }

    pub(super) fn leased_count(&self, role: Role) -> usize {
        self.leased.get(&role).copied().unwrap_or_default()
    }

    pub(super) fn lease(&self, unit: &Unit) -> Option<&Lease> {
        self.leases.get(unit)
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = (&Unit, &Lease)> {
        self.leases.iter()
    }

    pub(super) fn unattended(&self) -> &BTreeMap<Role, Millis> {
        &self.unattended
    }

    pub(super) fn unattended_since(&self, role: Role) -> Option<Millis> {
        self.unattended.get(&role).copied()
    }

    pub(super) fn grant(&mut self, unit: Unit, lease: Lease) {
        if let Some(units) = self.ready.get_mut(&unit.role()) {
            units.remove(&unit);
            if units.is_empty() {
                self.ready.remove(&unit.role());
            }
        }
        self.end(&unit);
        self.held.entry(lease.worker.clone()).or_default().insert(unit);
        *self.leased.entry(unit.role()).or_default() += 1;
        self.leases.insert(unit, lease);
    }

    /// Ends a lease; the unit is neither ready nor leased after it.
    pub(super) fn end(&mut self, unit: &Unit) {
        let Some(lease) = self.leases.remove(unit) else { return };
        if let Some(units) = self.held.get_mut(&lease.worker) {
            units.remove(unit);
            if units.is_empty() {
                self.held.remove(&lease.worker);
            }
        }
        if let Some(count) = self.leased.get_mut(&unit.role()) {
            *count -= 1;
            if *count == 0 {
                self.leased.remove(&unit.role());
            }
        }
    }

    /// Takes back every unit that `gone` picks, ready or leased.
    pub(super) fn withdraw(&mut self, gone: impl Fn(&Unit) -> bool) {
        self.ready.retain(|_, units| {
            units.retain(|unit| !gone(unit));
            !units.is_empty()
        });
        let leased: Vec<Unit> = self.leases.keys().filter(|unit| gone(unit)).copied().collect();
        leased.iter().for_each(|unit| self.end(unit));
    }

    /// What a worker holds.
    pub(super) fn held_by(&self, worker: &WorkerId) -> Vec<Unit> {
        let held = self.held.get(worker).into_iter().flatten();
        held.copied().collect()
    }

    /// Ends every lease; the units are ready again.
    pub(super) fn end_all(&mut self) {
        self.held.clear();
        self.leased.clear();
        for unit in std::mem::take(&mut self.leases).into_keys() {
            self.add(unit);
        }
    }

    pub(super) fn renew(&mut self, unit: &Unit, deadline: Millis) {
        if let Some(lease) = self.leases.get_mut(unit) {
            lease.deadline = deadline;
        }
    }

    pub(super) fn renew_all(&mut self, deadline: Millis) {
        for lease in self.leases.values_mut() {
            lease.deadline = deadline;
        }
    }

    /// Moves the moments since which something lasts.
    pub(super) fn skip(&mut self, skipped: impl Fn(Millis) -> Millis) {
        let granted = self.leases.values_mut().map(|lease| &mut lease.granted);
        for since in granted.chain(self.unattended.values_mut()) {
            *since = skipped(*since);
        }
    }

    /// Notes since when each role's work lies unattended.
    pub(super) fn observe(&mut self, now: Millis) {
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            if self.ready_count(role) > 0 && self.leased_count(role) == 0 {
                self.unattended.entry(role).or_insert(now);
            } else {
                self.unattended.remove(&role);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Fence, Step};

    fn lease(worker: &str) -> Lease {
        Lease {
            worker: WorkerId(worker.into()),
            fence: Fence(1),
            granted: Millis(0),
            deadline: Millis(1),
        }
    }

    fn judge(chunk: u32) -> Unit {
        Unit::Judge { step: Step(1), chunk }
    }

    /// Whether the indexes say what the leases say.
    fn check(board: &Board) {
        for (worker, units) in &board.held {
            assert!(!units.is_empty());
            assert!(units.iter().all(|unit| board.leases[unit].worker == *worker));
        }
        assert_eq!(
            board.held.values().map(BTreeSet::len).sum::<usize>(),
            board.leases.len()
        );
        assert_eq!(board.leased.values().sum::<usize>(), board.leases.len());
    }

    #[test]
    fn what_is_held_by_whom_follows_every_grant_and_every_end() {
        let mut board = Board::default();
        for chunk in 0..6 {
            board.add(judge(chunk));
            board.grant(judge(chunk), lease(if chunk % 2 == 0 { "even" } else { "odd" }));
            check(&board);
        }
        let even = WorkerId("even".into());
        assert_eq!(board.held_by(&even), [judge(0), judge(2), judge(4)]);
        board.end(&judge(2));
        board.end(&judge(2));
        check(&board);
        board.withdraw(|unit| *unit == judge(4));
        check(&board);
        assert_eq!(board.held_by(&even), [judge(0)]);
        board.grant(judge(1), lease("even"));
        check(&board);
        assert_eq!(board.held_by(&even), [judge(0), judge(1)]);
        board.end_all();
        check(&board);
        assert_eq!((board.held_by(&even), board.ready_count(Role::Judge)), (vec![], 4));
    }
}
