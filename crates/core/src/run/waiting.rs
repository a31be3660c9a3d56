//! What a run waits for, since when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lease, Phase, Run};
use crate::ids::{Millis, WorkerId};
use crate::work::{Role, Unit};

/// A role's work that lies unattended for longer than this many heartbeats is what the run waits for; between two leases
/// a role is without any for a moment, which means nothing.
const PATIENCE_HEARTBEATS: u32 = 2;

/// What the run waits for, typed and in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    /// What for.
    #[serde(rename = "for")]
    pub cause: WaitingFor,
    /// Since when.
    pub since_unix_ms: u64,
    /// One line for people.
    pub text: String,
}

/// What a run can wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum WaitingFor {
    /// No worker of this role holds a lease although work is ready.
    Worker {
        /// The role.
        role: Role,
        /// Units that are ready.
        ready: u32,
    },
    /// A worker is at it; of the leases that everything else waits for, this is the oldest.
    Completion {
        /// The unit.
        unit: Unit,
        /// Its holder.
        worker: WorkerId,
    },
    /// The run has ended, or is paused and nothing is in work.
    Nothing,
}

impl Run {
    /// Says what the run waits for at `now`.
    pub fn waiting_for(&self, now: Millis) -> Waiting {
        let phase = self.phase();
        let idle = self.paused.is_some() && self.board.leases().next().is_none();
        if phase.is_ended() || idle {
            let text = match phase {
                Phase::Paused { reason } => format!("nothing: the run is paused ({reason})"),
                Phase::Stopped { reason } => format!("nothing: the run was stopped ({reason})"),
                Phase::Failed { reason } => format!("nothing: the run failed ({reason})"),
                _ => "nothing: the run has finished".into(),
            };
            return Waiting {
                cause: WaitingFor::Nothing,
                since_unix_ms: now.0,
                text,
            };
        }
        let patience = (self.spec.fleet.heartbeat * PATIENCE_HEARTBEATS).as_millis() as u64;
        let unattended = [Role::Sampler, Role::Judge, Role::Trainer]
            .into_iter()
            .filter(|_| self.paused.is_none())
            .filter_map(|role| Some((self.board.unattended_since(role)?, role)))
            .min();
        let oldest = self.oldest_of_first_kind();
        match (unattended, oldest) {
            (Some((since, role)), held) if held.is_none() || now.since(since) > patience => {
                self.waiting_for_worker(role, since)
            }
            (_, Some((unit, lease))) => self.waiting_for_completion(unit, lease),
            // Before the first event nothing has been observed yet; a run that has not ended has work.
            (since, None) => {
                let (since, role) = since.unwrap_or((self.created.unwrap_or(now), Role::Trainer));
                self.waiting_for_worker(role, since)
            }
        }
    }

    /// Units are ordered as the work flows, so the first leased kind is what the rest depends on.
    fn oldest_of_first_kind(&self) -> Option<(&Unit, &Lease)> {
        let (first, _) = self.board.leases().next()?;
        self.board
            .leases()
            .filter(|(unit, _)| std::mem::discriminant(*unit) == std::mem::discriminant(first))
            .min_by_key(|(_, lease)| lease.fence)
    }

    fn waiting_for_worker(&self, role: Role, since: Millis) -> Waiting {
        let ready = self.board.ready_count(role) as u32;
        let units = if ready == 1 {
            "1 unit is".to_owned()
        } else {
            format!("{ready} units are")
        };
        let next = self.next_unit(role);
        let first = next.map_or(String::new(), |unit| {
            format!(", first: {unit}{}", self.trouble_text(&unit))
        });
        Waiting {
            cause: WaitingFor::Worker { role, ready },
            since_unix_ms: since.0,
            text: format!("a {role}: {units} ready and nobody works on any{first}"),
        }
    }

    fn waiting_for_completion(&self, unit: &Unit, lease: &Lease) -> Waiting {
        let others = self
            .board
            .leases()
            .filter(|(other, _)| other.role() == unit.role())
            .count()
            - 1;
        let others = if others == 0 {
            String::new()
        } else {
            format!(" (and {others} more in the hands of {}s)", unit.role())
        };
        Waiting {
            cause: WaitingFor::Completion {
                unit: *unit,
                worker: lease.worker.clone(),
            },
            since_unix_ms: lease.granted.0,
            text: format!(
                "worker {} to finish {unit}{others}{}",
                lease.worker,
                self.trouble_text(unit)
            ),
        }
    }

    fn trouble_text(&self, unit: &Unit) -> String {
        self.troubles.get(unit).map(ToString::to_string).unwrap_or_default()
    }
}
