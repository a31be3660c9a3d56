//! Leases: who works on what and until when.

use super::{Refusal, Run};
use crate::ids::{Fence, Millis, WorkerId};
use crate::work::{Role, Unit};

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

impl Run {
    /// The unit that a worker of this role should lease next: training before evaluation, earlier before later. Changes nothing.
    pub fn next_unit(&self, role: Role) -> Option<Unit> {
        self.ready(role).next()
    }

    /// As [`Run::next_unit`], but for the units that rest at `now` because their leases were lost.
    pub fn next_unit_at(&self, role: Role, now: Millis) -> Option<Unit> {
        self.ready(role).find(|unit| !self.rests(unit, now))
    }

    fn ready(&self, role: Role) -> impl Iterator<Item = Unit> {
        let ready = (!self.is_ended() && self.paused.is_none()).then(|| self.board.ready(role));
        ready.into_iter().flatten().copied()
    }

    /// The fence that the next grant must carry.
    pub fn next_fence(&self) -> Fence {
        Fence(self.grants + 1)
    }

    /// The open lease on a unit.
    pub fn lease(&self, unit: &Unit) -> Option<&Lease> {
        self.board.lease(unit)
    }

    /// Every open lease.
    pub fn leases(&self) -> impl Iterator<Item = (&Unit, &Lease)> {
        self.board.leases()
    }

    /// How many units of a role can be leased.
    pub fn ready_count(&self, role: Role) -> usize {
        self.ready(role).count()
    }

    /// How many units of a role are leased.
    pub fn leased_count(&self, role: Role) -> usize {
        self.board.leased_count(role)
    }

    /// The units that a worker holds, with their fences.
    pub fn leases_of(&self, worker: &WorkerId) -> Vec<(Unit, Fence)> {
        let held = self.board.held_by(worker).into_iter();
        held.filter_map(|unit| Some((unit, self.board.lease(&unit)?.fence)))
            .collect()
    }

    /// Leases whose deadline has passed.
    pub fn expired(&self, now: Millis) -> Vec<(Unit, Fence)> {
        self.board
            .leases()
            .filter(|(_, lease)| lease.deadline < now)
            .map(|(unit, lease)| (*unit, lease.fence))
            .collect()
    }

    /// Renews a worker's leases and returns those that are not the worker's any more.
    pub fn keep_alive(&mut self, worker: &WorkerId, leases: &[(Unit, Fence)], now: Millis) -> Vec<(Unit, Fence)> {
        let deadline = self.deadline(now);
        let mut lost = Vec::new();
        for (unit, fence) in leases {
            match self.board.lease(unit) {
                Some(lease) if lease.fence == *fence && lease.worker == *worker => self.board.renew(unit, deadline),
                _ => lost.push((*unit, *fence)),
            }
        }
        lost
    }

    pub(super) fn deadline(&self, now: Millis) -> Millis {
        now.plus(self.spec.fleet.lease.as_millis() as u64)
    }

    pub(super) fn grant(&mut self, unit: Unit, worker: WorkerId, fence: Fence, now: Millis) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        if self.paused.is_some() {
            return Err(Refusal::Paused);
        }
        if let Some(reason) = self.quarantined.get(&worker).cloned() {
            return Err(Refusal::Quarantined { worker, reason });
        }
        if !self.board.is_ready(&unit) {
            return Err(Refusal::NotReady { unit });
        }
        let expected = self.next_fence();
        if fence != expected {
            return Err(Refusal::FenceOutOfSequence {
                unit,
                expected,
                found: fence,
            });
        }
        self.grants += 1;
        let deadline = self.deadline(now);
        self.board.grant(
            unit,
            Lease {
                worker,
                fence,
                granted: now,
                deadline,
            },
        );
        Ok(())
    }

    /// Checks that a lease is open under this fence and, where one is given, that this worker holds it.
    ///
    /// # Errors
    /// Says who holds the unit, or that it is done.
    pub fn check_lease(&self, unit: &Unit, found: Fence, worker: Option<&WorkerId>) -> Result<(), Refusal> {
        let unit = *unit;
        if let Some(accepted) = self.accepted.get(&unit) {
            let latest = accepted.fence;
            return Err(Refusal::StaleFence { unit, found, latest });
        }
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        match self.board.lease(&unit) {
            None => Err(Refusal::NotLeased { unit, found }),
            Some(lease) if lease.fence != found => Err(Refusal::StaleFence {
                unit,
                found,
                latest: lease.fence,
            }),
            Some(lease) if worker.is_some_and(|worker| *worker != lease.worker) => Err(Refusal::OtherWorker {
                unit,
                fence: found,
                holder: lease.worker.clone(),
                found: worker.cloned().unwrap_or_else(|| lease.worker.clone()),
            }),
            Some(_) => Ok(()),
        }
    }
}
