//! What an event says about its worker and its run: counts for people, and whether the worker is kept from the run.

use gavel_core::ids::{Millis, RunId, WorkerId};
use gavel_core::run::{Event, Refusal, Run};
use gavel_core::work::{Role, Unit};

use super::backoff::Backoffs;
use crate::metrics::{self, JudgedCounts};
use crate::worker::Workers;

/// What an event adds to the counts, taken before the event is applied and counted after.
pub(super) enum Reported {
    Completed {
        unit: Unit,
        worker: WorkerId,
        judged: JudgedCounts,
        seconds: f64,
    },
    Failed {
        role: Role,
        worker: WorkerId,
        /// Not for want of an input: then the worker is not to blame.
        held_off: bool,
    },
    /// The worker could not get what it needs from outside of the fleet.
    GivenBack {
        worker: WorkerId,
    },
    Expired {
        role: Role,
    },
    Other,
}

impl Reported {
    pub(super) fn of(event: &Event, run: &Run, now: Millis) -> Self {
        match event {
            Event::Completed {
                unit, worker, outcome, ..
            } => {
                let granted = run.lease(unit).map_or(now, |lease| lease.granted);
                let seconds = now.since(granted) as f64 / 1000.0;
                Self::Completed {
                    unit: *unit,
                    worker: worker.clone(),
                    judged: JudgedCounts::of(unit, outcome),
                    seconds,
                }
            }
            Event::Failed {
                unit, worker, unusable, ..
            } => Self::Failed {
                role: unit.role(),
                worker: worker.clone(),
                held_off: unusable.is_empty(),
            },
            Event::Released {
                worker,
                reason: Some(_),
                ..
            } => Self::GivenBack { worker: worker.clone() },
            Event::Expired { unit, .. } => Self::Expired { role: unit.role() },
            _ => Self::Other,
        }
    }

    pub(super) fn count(&self, workers: &mut Workers) {
        match self {
            Self::Completed {
                unit,
                worker,
                judged,
                seconds,
            } => {
                metrics::completed(unit.role(), *judged, *seconds);
                workers.count_completed(worker);
            }
            Self::Failed { role, worker, .. } => {
                metrics::failed(*role);
                workers.count_failed(worker);
            }
            Self::Expired { role } => metrics::expired(*role),
            Self::GivenBack { .. } | Self::Other => {}
        }
    }

    /// Keeps a worker from a run whose work it could not do.
    pub(super) fn hold_off(&self, backoffs: &mut Backoffs, run: &RunId, now: Millis) {
        match self {
            Self::Completed { worker, .. } => backoffs.succeeded(worker, run),
            Self::Failed {
                worker, held_off: true, ..
            }
            | Self::GivenBack { worker } => backoffs.failed(worker, run, now),
            Self::Failed { .. } | Self::Expired { .. } | Self::Other => {}
        }
    }
}

/// An event's kind, as the ledger's column shows it.
pub(crate) fn kind(event: &Event) -> &'static str {
    match event {
        Event::Granted { .. } => "granted",
        Event::Completed { .. } => "completed",
        Event::Failed { .. } => "failed",
        Event::Released { .. } => "released",
        Event::Expired { .. } => "expired",
        Event::GivenUp { .. } => "given_up",
        Event::Quarantined { .. } => "quarantined",
        Event::Cancelled { .. } => "cancelled",
        Event::Paused { .. } => "paused",
        Event::StepsChanged { .. } => "steps_changed",
        Event::RolledBack { .. } => "rolled_back",
        Event::Resumed => "resumed",
        Event::Recovered { .. } => "recovered",
    }
}

/// A refusal's kind, as a label.
pub(super) fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::StaleFence { .. } => "stale_fence",
        Refusal::Repeated { .. } => "repeated",
        Refusal::NotLeased { .. } => "not_leased",
        Refusal::OtherWorker { .. } => "other_worker",
        Refusal::Quarantined { .. } => "quarantined",
        Refusal::NotReady { .. } => "not_ready",
        Refusal::FenceOutOfSequence { .. } => "fence_out_of_sequence",
        Refusal::WrongOutcome { .. } => "wrong_outcome",
        Refusal::InvalidOutcome { .. } => "invalid_outcome",
        Refusal::Ended => "ended",
        Refusal::NotStopped => "not_stopped",
        Refusal::Paused => "paused",
        Refusal::StepsCommitted { .. } => "steps_committed",
        Refusal::InvalidSteps { .. } => "invalid_steps",
        Refusal::NotCommitted { .. } => "not_committed",
        Refusal::NotKept { .. } => "not_kept",
        Refusal::NeedsPast => "needs_past",
    }
}
