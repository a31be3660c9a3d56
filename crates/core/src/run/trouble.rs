//! What went wrong with a unit, and what follows from it: it rests, or nobody is asked to do it any more.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Refusal, Run};
use crate::ids::{Millis, WorkerId};
use crate::work::Unit;

/// How long a unit rests when its lease was lost for the second time in a row; each further loss doubles it.
const REST_MS: u64 = 1_000;
/// The longest rest.
const REST_MS_MAX: u64 = 60_000;

/// What went wrong with a unit so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trouble {
    /// Attempts that a worker reported as failed; `limits.attempts` bounds them.
    pub(super) failures: u32,
    /// Times that the result was lost or turned out unusable, and was made again; `limits.attempts` bounds them too.
    pub(super) losses: u32,
    /// Leases in a row that ended with their workers; `limits.lost_leases` bounds them.
    lost_leases: u32,
    /// Times that a worker gave the unit back because something outside of the fleet is unavailable. Not bounded: it comes back.
    returns: u32,
    /// Until then nobody is asked to do the unit.
    rests_until: Option<Millis>,
    /// The last failure's reason, with the worker's name where one told it.
    pub(super) last: String,
}

impl Trouble {
    /// Its lease was lost with its worker. Once is an accident; a unit that it happens to again may be what ends its workers,
    /// and rests, so that it does not take one after the other from everybody else.
    pub(super) fn lease_lost(&mut self, now: Millis) {
        self.lost_leases += 1;
        self.rests_until = self.lost_leases.checked_sub(2).map(|doublings| {
            let rest = REST_MS.saturating_mul(1 << doublings.min(16));
            now.plus(rest.min(REST_MS_MAX))
        });
    }

    /// A worker gave it back, because something that it needs is unavailable.
    pub(super) fn returned(&mut self, worker: &WorkerId, reason: &str) {
        self.returns += 1;
        // Its worker lived.
        self.lost_leases = 0;
        self.last = format!("{worker}: {reason}");
    }

    /// A worker's attempt at it has failed.
    pub(super) fn failed(&mut self, worker: &WorkerId, reason: &str) {
        self.failures += 1;
        self.lost_leases = 0;
        self.last = format!("{worker}: {reason}");
    }

    /// Its result was lost, or was not what it should have been.
    pub(super) fn result_lost(&mut self, reason: &str) {
        self.losses += 1;
        reason.clone_into(&mut self.last);
    }

    /// What is left of it when the unit is done: results that get lost are counted over all of them.
    pub(super) fn done(self) -> Option<Self> {
        let Self { losses, last, .. } = self;
        (losses > 0).then(|| Self {
            losses,
            last,
            ..Self::default()
        })
    }
}

/// In brackets, for people; nothing where nothing went wrong.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = &self.last;
        let parts = [
            (
                self.failures,
                format!("{} failed attempts, the last: {last}", self.failures),
            ),
            (
                self.losses,
                format!(
                    "its result was lost or unusable {} times, the last: {last}",
                    self.losses
                ),
            ),
            (
                self.returns,
                format!("given back {} times, the last: {last}", self.returns),
            ),
            (
                self.lost_leases,
                format!("{} leases lost with their workers", self.lost_leases),
            ),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(_, text)| text)
            .collect();
        match parts.is_empty() {
            true => Ok(()),
            false => write!(f, " [{}]", parts.join("; ")),
        }
    }
}

impl Run {
    /// Whether nobody is to be asked to do the unit yet.
    pub(super) fn rests(&self, unit: &Unit, now: Millis) -> bool {
        let until = self.troubles.get(unit).and_then(|trouble| trouble.rests_until);
        until.is_some_and(|until| now < until)
    }

    /// Why nobody should be asked to do the unit any more: it has lost `limits.lost_leases` workers in a row.
    pub fn hopeless(&self, unit: &Unit) -> Option<String> {
        let lost = self.troubles.get(unit)?.lost_leases;
        (lost >= self.spec.limits.lost_leases).then(|| {
            format!(
                "{lost} workers in a row died or fell silent over it (`limits.lost_leases`): look at the ends of their logs, and \
                 whether the unit needs more memory than they have"
            )
        })
    }

    /// The run cannot go on without a unit that nobody can do.
    pub(super) fn give_up(&mut self, unit: Unit, reason: &str) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        self.fail(format!("{unit}: {reason}"));
        Ok(())
    }
}
