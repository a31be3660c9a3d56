//! Whose turn it is: how runs share the workers of a role.
//!
//! The run that has the fewest units in other hands for its weight (`fleet.weight`) comes first, so that each run gets as many
//! workers as its weight says, however long its units take. Among equals a worker stays with the run that it works for until its
//! turn of [`TURN`] units times the weight is over,
//! because another run may mean another model to load; then it goes to the run that was served least recently. Soft state:
//! nothing of a result depends on it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use gavel_core::ids::{RunId, WorkerId};
use gavel_core::run::Run;
use gavel_core::work::Role;

/// Units of one run of weight 1 that a worker gets in a row while others wait.
pub(super) const TURN: u32 = 8;

/// Shares of a unit, so that integers divided by weights compare.
const WHOLE: u64 = 1_000_000;

/// Who was served when, and who works for whom.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Grants so far.
    grants: u64,
    /// The number of each run's latest grant.
    served: BTreeMap<Role, BTreeMap<RunId, u64>>,
    turns: BTreeMap<WorkerId, Turn>,
}

/// A worker's turn at a run.
#[derive(Debug)]
struct Turn {
    run: RunId,
    units: u32,
}

impl Turns {
    /// The run whose unit the worker gets: one of those that have one for it.
    pub(super) fn next<'a>(
        &self,
        role: Role,
        worker: &WorkerId,
        runs: impl Iterator<Item = &'a Run>,
    ) -> Option<&'a Run> {
        let (turn, served) = (self.turns.get(worker), self.served.get(&role));
        runs.min_by_key(|run| {
            let weight = run.spec().fleet.weight.max(1);
            let in_other_hands = run.leased_count(role).saturating_sub(run.leases_of(worker).len());
            let in_other_hands = in_other_hands as u64 * WHOLE / u64::from(weight);
            let stays = turn.is_some_and(|turn| turn.run == *run.id() && turn.units < TURN * weight);
            let latest = served.and_then(|served| served.get(run.id()));
            (in_other_hands, Reverse(stays), latest.copied())
        })
    }

    /// The worker got a unit of the run.
    pub(super) fn granted(&mut self, role: Role, worker: &WorkerId, run: &RunId) {
        self.grants += 1;
        self.served.entry(role).or_default().insert(run.clone(), self.grants);
        match self.turns.get_mut(worker) {
            Some(turn) if turn.run == *run => turn.units = turn.units.saturating_add(1),
            _ => {
                let run = run.clone();
                self.turns.insert(worker.clone(), Turn { run, units: 1 });
            }
        }
    }

    /// The worker has left.
    pub(super) fn forget(&mut self, worker: &WorkerId) {
        self.turns.remove(worker);
    }
}
