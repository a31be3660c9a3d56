//! Leases: who works on what, until when, and what happens when that ends badly.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Fence, Millis, WorkerId};
use crate::unit::{Role, Unit};

/// A unit in a worker's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The holder.
    pub worker: WorkerId,
    /// The number of the grant.
    pub fence: Fence,
    /// When it was granted.
    pub granted: Millis,
    /// When it expires unless a heartbeat comes. Soft state: heartbeats are not in the ledger.
    pub deadline: Millis,
}

/// What went wrong with a unit so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Attempts that a worker reported as failed; `limits.attempts` bounds them.
    pub(super) failures: u32,
    /// Times that the result was lost or turned out unusable, and was made again; `limits.attempts` bounds them too.
    pub(super) losses: u32,
    /// Leases that expired. Not bounded: a worker that dies is no fault of the unit, but waiting tells about them.
    pub(super) expiries: u32,
    /// The last failure's reason.
    pub(super) last: String,
}

/// Which units can be leased and which are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Board {
    /// By role; the first is the next to be leased, because the order of [`Unit`] is the order of urgency.
    ready: BTreeMap<Role, BTreeSet<Unit>>,
    leases: BTreeMap<Unit, Lease>,
    /// Since when a role has work that nobody holds any of.
    unattended: BTreeMap<Role, Millis>,
}

impl Board {
    pub(super) fn add(&mut self, unit: Unit) {
        self.ready.entry(unit.role()).or_default().insert(unit);
    }

    pub(super) fn next(&self, role: Role) -> Option<Unit> {
        self.ready.get(&role)?.first().copied()
    }

    pub(super) fn is_ready(&self, unit: &Unit) -> bool {
        self.ready.get(&unit.role()).is_some_and(|units| units.contains(unit))
    }

    pub(super) fn ready_count(&self, role: Role) -> usize {
        self.ready.get(&role).map_or(0, BTreeSet::len)
    }

    pub(super) fn lease(&self, unit: &Unit) -> Option<&Lease> {
        self.leases.get(unit)
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = (&Unit, &Lease)> {
        self.leases.iter()
    }

    pub(super) fn unattended_since(&self, role: Role) -> Option<Millis> {
        self.unattended.get(&role).copied()
    }

    pub(super) fn grant(&mut self, unit: Unit, lease: Lease) {
        if let Some(units) = self.ready.get_mut(&unit.role()) {
            units.remove(&unit);
        }
        self.leases.insert(unit, lease);
    }

    /// Ends a lease; the unit is neither ready nor leased after it.
    pub(super) fn end(&mut self, unit: &Unit) {
        self.leases.remove(unit);
    }

    /// Takes back every unit that `gone` picks, ready or leased.
    pub(super) fn withdraw(&mut self, gone: impl Fn(&Unit) -> bool) {
        for units in self.ready.values_mut() {
            units.retain(|unit| !gone(unit));
        }
        self.leases.retain(|unit, _| !gone(unit));
    }

    /// What a worker holds.
    pub(super) fn held_by(&self, worker: &WorkerId) -> Vec<Unit> {
        let held = self.leases.iter().filter(|(_, lease)| lease.worker == *worker);
        held.map(|(unit, _)| *unit).collect()
    }

    /// Ends every lease; the units are ready again.
    pub(super) fn end_all(&mut self) {
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

    /// Notes since when each role's work lies unattended.
    pub(super) fn observe(&mut self, now: Millis) {
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            let held = self.leases.keys().any(|unit| unit.role() == role);
            if self.ready_count(role) > 0 && !held {
                self.unattended.entry(role).or_insert(now);
            } else {
                self.unattended.remove(&role);
            }
        }
    }
}
