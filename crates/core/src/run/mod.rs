//! The run's state machine: `(state, event, time) -> (state, effects)`.
//!
//! Every decision about a run is made here: which unit is leased next, whether a result counts, when a step is committed,
//! when the run ends. The driver carries events in, writes the accepted ones to the ledger, and carries effects out. Applying
//! the ledger's events again rebuilds an equal run.

mod accept;
mod assignment;
mod check;
mod event;
mod flight;
mod lease;
mod reopen;
mod results;
mod retention;
mod status;
mod waiting;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

pub use event::{Effect, Event, Refusal};
pub use flight::StepInFlight;
pub use lease::Lease;
pub use results::{CandidateResult, GroupResult, Results, ShardResult, StepRecord, StepResult, StepSeconds};
pub use status::{EvaluationStatus, JudgeMeasure, LeaseStatus, Progress, RunStatus, WinRate};
pub use waiting::{Waiting, WaitingFor};

use crate::assets::{ModelFingerprints, RunAssets};
use crate::ids::{Digest, Fence, Millis, RunId, Step, WorkerId};
use crate::schedule;
use crate::spec::RunSpec;
use crate::work::{Arm, Policy, Role, Unit};
use lease::{Board, Trouble};

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Phase {
    /// The initial adapter is being made.
    Preparing,
    /// Steps are being taken; the base's held-out pictures and the judge's calibration fill idle time.
    Training,
    /// All steps are committed; held-out pictures of the base or labelled pairs are still missing.
    EvaluatingBase,
    /// The tuned policy is being compared with the base.
    EvaluatingTuned,
    /// Everything is done.
    Finished,
    /// Somebody stopped the run; it can be resumed.
    Stopped {
        /// Why.
        reason: String,
    },
    /// The run could not go on; it can be resumed once the reason is gone.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Phase {
    /// Whether no work is handed out any more.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Finished | Self::Stopped { .. } | Self::Failed { .. })
    }
}

/// The phase in a word or two, with the reason of an early end.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing => f.write_str("preparing"),
            Self::Training => f.write_str("training"),
            Self::EvaluatingBase => f.write_str("evaluating the base"),
            Self::EvaluatingTuned => f.write_str("evaluating the adapter"),
            Self::Finished => f.write_str("finished"),
            Self::Stopped { reason } => write!(f, "stopped ({reason})"),
            Self::Failed { reason } => write!(f, "failed ({reason})"),
        }
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    id: RunId,
    spec: RunSpec,
    spec_sha256: Digest,
    assets: RunAssets,
    created: Option<Millis>,
    /// `Stopped` or `Failed`; every other phase follows from the results.
    halted: Option<Phase>,
    grants: u64,
    board: Board,
    accepted: BTreeMap<Unit, Accepted>,
    troubles: BTreeMap<Unit, Trouble>,
    /// The steps that are not committed yet: the first is being trained, those behind it are sampled and judged ahead.
    flights: VecDeque<StepInFlight>,
    /// Workers whose results contradicted their units, and how.
    quarantined: BTreeMap<WorkerId, String>,
    models: ModelFingerprints,
    missing: Missing,
    pairs_judged: u64,
    pairs_skipped: u32,
    /// Pairs skipped since the run was last resumed; `limits.skipped_pairs` bounds these.
    pairs_skipped_lately: u32,
    results: Results,
}

/// A result that counts: by which grant, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Accepted {
    fence: Fence,
    worker: WorkerId,
}

/// Evaluation units that are not done yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Missing {
    base: u32,
    tuned: u32,
    comparisons: u32,
    calibration: u32,
}

impl Run {
    /// A run that has not begun. `spec` has passed its checks and `assets` hold at least one prompt.
    pub fn new(id: RunId, spec: RunSpec, assets: RunAssets) -> Self {
        let held_out = spec.evaluation.as_ref().map_or(0, |evaluation| {
            let most = evaluation.prompts.map_or(usize::MAX, |prompts| prompts as usize);
            assets.held_out.len().min(most)
        });
        let labelled = if spec.evaluation.is_some() {
            assets.labelled.len()
        } else {
            0
        };
        let arm = spec
            .evaluation
            .as_ref()
            .map_or(0, |evaluation| schedule::chunks(held_out as u32, evaluation.batch));
        let missing = Missing {
            base: arm,
            tuned: arm,
            comparisons: schedule::chunks(held_out as u32, spec.judge.batch),
            calibration: schedule::chunks(labelled as u32, spec.judge.batch),
        };
        let mut board = Board::default();
        board.add(Unit::Initialise);
        for chunk in 0..missing.base {
            board.add(Unit::EvaluateSample { arm: Arm::Base, chunk });
        }
        for chunk in 0..missing.calibration {
            board.add(Unit::CalibrateJudge { chunk });
        }
        let results = Results {
            base_images: vec![None; held_out],
            tuned_images: vec![None; held_out],
            comparisons: vec![None; held_out],
            calibration: vec![None; labelled],
            ..Results::default()
        };
        Self {
            id,
            spec_sha256: spec.digest(),
            spec,
            models: assets.models,
            assets,
            created: None,
            halted: None,
            grants: 0,
            board,
            accepted: BTreeMap::new(),
            troubles: BTreeMap::new(),
            flights: VecDeque::new(),
            quarantined: BTreeMap::new(),
            missing,
            pairs_judged: 0,
            pairs_skipped: 0,
            pairs_skipped_lately: 0,
            results,
        }
    }

    /// Says when the run was submitted: since when it waits for its first worker.
    #[must_use]
    pub fn created(mut self, now: Millis) -> Self {
        self.created = Some(now);
        self.board.observe(now);
        self
    }

    /// The run's name.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// What is to be done.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Fingerprint of the spec.
    pub fn spec_sha256(&self) -> Digest {
        self.spec_sha256
    }

    /// The contents of the files that the spec names.
    pub fn assets(&self) -> &RunAssets {
        &self.assets
    }

    /// What has been produced.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// The steps that are not committed yet, in order: the first is being trained, the others are sampled ahead.
    pub fn in_flight(&self) -> impl Iterator<Item = &StepInFlight> {
        self.flights.iter()
    }

    fn flight(&self, step: Step) -> Option<&StepInFlight> {
        self.flights.iter().find(|flight| flight.step == step)
    }

    fn flight_mut(&mut self, step: Step) -> Option<&mut StepInFlight> {
        self.flights.iter_mut().find(|flight| flight.step == step)
    }

    /// Why the run takes nothing more from this worker.
    pub fn quarantine(&self, worker: &WorkerId) -> Option<&str> {
        self.quarantined.get(worker).map(String::as_str)
    }

    /// Whether a result of the unit counts. One that did may be taken back, to be made again.
    pub fn is_accepted(&self, unit: &Unit) -> bool {
        self.accepted.contains_key(unit)
    }

    /// The latest committed policy.
    pub fn policy(&self) -> Option<&Policy> {
        self.results.policies.last()
    }

    /// The latest committed step; 0 before the first.
    pub fn committed(&self) -> Step {
        Step(self.results.steps.len() as u32)
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        let trained = self.committed().0 == self.spec.run.steps;
        match &self.halted {
            Some(phase) => phase.clone(),
            None if self.results.policies.is_empty() => Phase::Preparing,
            None if !trained => Phase::Training,
            None if self.missing.base + self.missing.calibration > 0 => Phase::EvaluatingBase,
            None if self.missing.tuned + self.missing.comparisons > 0 => Phase::EvaluatingTuned,
            None => Phase::Finished,
        }
    }

    fn is_ended(&self) -> bool {
        self.halted.is_some() || (self.committed().0 == self.spec.run.steps && self.missing == Missing::default())
    }

    /// The unit that a worker of this role should lease next: training before evaluation, earlier before later. Changes nothing.
    pub fn next_unit(&self, role: Role) -> Option<Unit> {
        if self.is_ended() { None } else { self.board.next(role) }
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

    /// The units that a worker holds, with their fences.
    pub fn leases_of(&self, worker: &WorkerId) -> Vec<(Unit, Fence)> {
        let held = self.board.held_by(worker).into_iter();
        held.filter_map(|unit| Some((unit, self.board.lease(&unit)?.fence)))
            .collect()
    }

    /// Applies one event that happens at `now`. On `Err` nothing has changed.
    ///
    /// # Errors
    /// Says why the event does not apply.
    pub fn apply(&mut self, event: Event, now: Millis) -> Result<Vec<Effect>, Refusal> {
        let mut effects = Vec::new();
        match event {
            Event::Granted { unit, worker, fence } => self.grant(unit, worker, fence, now)?,
            Event::Completed {
                unit,
                worker,
                fence,
                outcome,
            } => {
                if self.accepted.get(&unit).is_some_and(|accepted| accepted.fence == fence) {
                    return Err(Refusal::Repeated { unit, fence });
                }
                self.check_lease(&unit, fence, Some(&worker))?;
                self.accept(unit, Accepted { fence, worker }, outcome, now, &mut effects)?;
            }
            Event::Failed {
                unit,
                worker,
                fence,
                reason,
                fatal,
                unusable,
            } => {
                self.check_lease(&unit, fence, Some(&worker))?;
                if fatal || unusable.is_empty() {
                    self.attempt_failed(unit, &worker, reason, fatal, &mut effects);
                } else {
                    self.make_again(unit, &worker, &unusable, &reason, now, &mut effects);
                }
            }
            Event::Quarantined { worker, reason } => self.set_apart(worker, reason, &mut effects)?,
            Event::Released { unit, worker, fence } => {
                self.check_lease(&unit, fence, Some(&worker))?;
                self.board.end(&unit);
                self.make_ready(unit, &mut effects);
            }
            Event::Expired { unit, fence } => {
                self.check_lease(&unit, fence, None)?;
                self.troubles.entry(unit).or_default().expiries += 1;
                self.board.end(&unit);
                self.make_ready(unit, &mut effects);
            }
            Event::Cancelled { reason } => {
                if self.is_ended() {
                    return Err(Refusal::Ended);
                }
                self.halt(Phase::Stopped { reason }, &mut effects);
            }
            Event::Resumed => self.resume(&mut effects)?,
        }
        self.board.observe(now);
        Ok(effects)
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

    /// Gives open leases a fresh deadline, after a replay: while the coordinator was away nobody could send heartbeats.
    pub fn recovered(&mut self, now: Millis) {
        let deadline = self.deadline(now);
        self.board.renew_all(deadline);
    }

    fn deadline(&self, now: Millis) -> Millis {
        Millis(now.0.saturating_add(self.spec.fleet.lease.as_millis() as u64))
    }

    fn grant(&mut self, unit: Unit, worker: WorkerId, fence: Fence, now: Millis) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
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

    fn make_ready(&mut self, unit: Unit, effects: &mut Vec<Effect>) {
        self.board.add(unit);
        let wake = Effect::Wake(unit.role());
        if !effects.contains(&wake) {
            effects.push(wake);
        }
    }

    fn halt(&mut self, phase: Phase, effects: &mut Vec<Effect>) {
        self.halted = Some(phase);
        self.board.end_all();
        effects.retain(|effect| !matches!(effect, Effect::Wake(_)));
        effects.push(Effect::Ended);
    }

    fn resume(&mut self, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        if self.halted.is_none() {
            return Err(if self.is_ended() {
                Refusal::Ended
            } else {
                Refusal::NotStopped
            });
        }
        self.halted = None;
        self.troubles.clear();
        self.quarantined.clear();
        self.pairs_skipped_lately = 0;
        // A step that nobody could judge is judged again; its samples are still good.
        for flight in self.flights.iter_mut().filter(|flight| flight.unjudgeable().is_some()) {
            flight.forget_verdicts();
            let step = flight.step;
            for chunk in 0..schedule::chunks(self.spec.prompts.per_step, self.spec.judge.batch) {
                self.board.add(Unit::Judge { step, chunk });
            }
        }
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            if self.board.ready_count(role) > 0 {
                effects.push(Effect::Wake(role));
            }
        }
        Ok(())
    }
}
