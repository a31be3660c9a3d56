//! The run's state machine: `(state, event, time) -> (state, effects)`.
//!
//! Every decision about a run is made here: which unit is leased next, whether a result counts, when a step is committed,
//! when the run ends. The driver carries events in, writes the accepted ones to the ledger, and carries effects out. Applying
//! the ledger's events again rebuilds an equal run.

mod accept;
mod accepted;
mod asking;
mod assignment;
mod board;
mod check;
mod completion;
mod conditionings;
mod control;
mod details;
mod event;
mod flight;
mod lease;
mod lifecycle;
mod past;
mod probes;
mod questions;
mod reopen;
mod results;
mod retention;
mod rubrics;
mod series;
mod snapshot;
mod status;
mod stop;
mod trouble;
mod waiting;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

pub use event::{Effect, Event, Refusal};
pub use flight::StepInFlight;
pub use lease::Lease;
pub use lifecycle::Phase;
pub use past::{Commit, Commits};
pub use results::{CandidateResult, GroupResult, Probe, Results, ShardResult, StepRecord, StepResult, StepSeconds};
pub use series::Series;
pub use snapshot::{NotOfThisRun, Snapshot, VERSION as SNAPSHOT_VERSION};
pub use status::{EvaluationStatus, LeaseStatus, ProbeStatus, Progress, QuestionsStatus, RubricsStatus, RunStatus};
pub use waiting::{Waiting, WaitingFor};

use serde::{Deserialize, Serialize};

use crate::assets::{ModelFingerprints, RunAssets};
use crate::ids::{Digest, Fence, Millis, RunId, Step, WorkerId};
use crate::schedule;
use crate::spec::RunSpec;
use crate::work::{Arm, AskedMatches, Outcome, Policy, Spent, TaskList, Unit};
use accepted::AcceptedUnits;
use board::Board;
use conditionings::Conditionings;
use control::Pause;
use rubrics::Rubrics;
use trouble::Trouble;

/// The phase in a word or two, with the reason of an early end.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing => f.write_str("preparing"),
            Self::Training => f.write_str("training"),
            Self::EvaluatingBase => f.write_str("evaluating the base"),
            Self::EvaluatingTuned => f.write_str("evaluating the adapter"),
            Self::Finished => f.write_str("finished"),
            Self::Paused { reason } => write!(f, "paused ({reason})"),
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
    /// Megabytes, perhaps: whoever looks at them or copies the run shares them.
    assets: Arc<RunAssets>,
    created: Option<Millis>,
    /// `Stopped` or `Failed`; every other phase follows from the results.
    halted: Option<Phase>,
    /// The run hands out nothing.
    paused: Option<Pause>,
    /// When the run ended, for good or until it is resumed.
    ended: Option<Millis>,
    grants: u64,
    board: Board,
    accepted: AcceptedUnits,
    troubles: BTreeMap<Unit, Trouble>,
    /// The steps that are not committed yet: the first is being trained, those behind it are sampled and judged ahead.
    flights: VecDeque<StepInFlight>,
    /// Workers whose results contradicted their units, and how.
    quarantined: BTreeMap<WorkerId, String>,
    models: ModelFingerprints,
    missing: Missing,
    matches_judged: u64,
    /// How they were asked.
    asked: AskedMatches,
    pairs_skipped: u32,
    /// Pairs skipped since the run was last resumed; `limits.skipped_pairs` bounds these.
    pairs_skipped_lately: u32,
    /// What its judges have asked of servers.
    spent: Spent,
    /// What samplers are handed instead of encoding a task again.
    conditionings: Conditionings,
    /// What the steps before this one made was given away, but for their checkpoints.
    kept_from: Step,
    /// Steps whose policies are kept because a probe still measures them, or found the best of all in them. One that is let go
    /// does not come back.
    kept_for_probes: BTreeSet<Step>,
    /// The steps whose policies were kept at the latest commit.
    held_policies: BTreeSet<Step>,
    /// The steps whose policies the latest commit has let go.
    released_policies: BTreeSet<Step>,
    /// The rules of `[stop]` look at what came after this step: what somebody resumed from has been seen.
    watched_from: Step,
    /// Whether the run leaves details of its committed steps to the ledger.
    is_lean: bool,
    /// The details of the steps before this one are left to the ledger.
    details_from: Step,
    rubrics: Rubrics,
    results: Results,
}

/// Evaluation units that are not done yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Missing {
    base: u32,
    tuned: u32,
    comparisons: u32,
    calibration: u32,
    answers: u32,
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
        let asked = assets.questions.iter().take(held_out);
        let asked = asked.filter(|questions| !questions.is_empty()).count() as u32;
        let answers = vec![None; if asked > 0 { held_out } else { 0 }];
        let missing = Missing {
            base: arm,
            tuned: arm,
            comparisons: schedule::chunks(held_out as u32, spec.judge.batch),
            calibration: schedule::chunks(labelled as u32, spec.judge.batch),
            answers: 2 * asked,
        };
        let mut board = Board::default();
        board.add(Unit::Initialise);
        for chunk in 0..missing.base {
            board.add(Unit::EvaluateSample { arm: Arm::Base, chunk });
        }
        let results = Results {
            base_images: vec![None; held_out],
            tuned_images: vec![None; held_out],
            comparisons: vec![None; held_out],
            calibration: vec![None; labelled],
            base_answers: answers.clone(),
            tuned_answers: answers,
            ..Results::default()
        };
        let mut run = Self {
            id,
            rubrics: Rubrics::new(&spec, &assets),
            spec_sha256: spec.digest(),
            spec,
            models: assets.models,
            assets: Arc::new(assets),
            created: None,
            halted: None,
            paused: None,
            ended: None,
            grants: 0,
            board,
            accepted: AcceptedUnits::default(),
            troubles: BTreeMap::new(),
            flights: VecDeque::new(),
            quarantined: BTreeMap::new(),
            missing,
            matches_judged: 0,
            asked: AskedMatches::default(),
            pairs_skipped: 0,
            pairs_skipped_lately: 0,
            kept_from: Step(1),
            kept_for_probes: BTreeSet::new(),
            held_policies: BTreeSet::new(),
            released_policies: BTreeSet::new(),
            watched_from: Step(0),
            spent: Spent::default(),
            conditionings: Conditionings::default(),
            is_lean: false,
            details_from: Step(1),
            results,
        };
        run.ask_for_rubrics(TaskList::HeldOut, 0..held_out as u32);
        run.ask_for_rubrics(TaskList::Labelled, 0..labelled as u32);
        for chunk in 0..missing.calibration {
            run.open_judge_unit(Unit::CalibrateJudge { chunk });
        }
        run
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

    /// The same, for somebody who looks at them without the run.
    pub fn shared_assets(&self) -> Arc<RunAssets> {
        Arc::clone(&self.assets)
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

    /// What its judges have asked of servers, as far as results were accepted.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Why the run takes nothing more from this worker.
    pub fn quarantine(&self, worker: &WorkerId) -> Option<&str> {
        self.quarantined.get(worker).map(String::as_str)
    }

    /// Whether a result of the unit counts. One that did may be taken back, to be made again.
    pub fn is_accepted(&self, unit: &Unit) -> bool {
        self.accepted.contains(unit)
    }

    /// The fingerprint of the denoiser's folder that samplers and trainers loaded; `None` before one of them has said it.
    pub fn denoiser(&self) -> Option<Digest> {
        self.models.transformer
    }

    /// The latest committed policy.
    pub fn policy(&self) -> Option<&Policy> {
        self.results.policies.last()
    }

    /// The latest committed step; 0 before the first.
    pub fn committed(&self) -> Step {
        Step(self.results.steps.len() as u32)
    }

    /// Applies one event that happens at `now`. On `Err` nothing has changed.
    ///
    /// # Errors
    /// Says why the event does not apply; [`Refusal::NeedsPast`] asks for [`Run::apply_with_past`].
    pub fn apply(&mut self, event: Event, now: Millis) -> Result<Vec<Effect>, Refusal> {
        if self.needs_past(&event) {
            return Err(Refusal::NeedsPast);
        }
        let (versions, was_ended) = (self.results.policies.len(), self.is_ended());
        self.take(event, now)?;
        self.board.observe(now);
        let mut effects = Vec::new();
        if self.results.policies.len() > versions {
            effects.extend(
                self.policy()
                    .map(|policy| Effect::StepCommitted(self.committed(), policy.clone())),
            );
        }
        if self.is_ended() && !was_ended {
            self.ended = Some(now);
            effects.push(Effect::Ended);
        }
        Ok(effects)
    }

    /// Whether a result may be looked at: its worker holds the unit, and its numbers are numbers. [`Run::apply`] asks the same;
    /// who wants to write the event down first finds out here whether it can be written.
    ///
    /// # Errors
    /// As [`Run::apply`].
    pub fn precheck(&self, event: &Event) -> Result<(), Refusal> {
        match event {
            Event::Completed {
                unit,
                worker,
                fence,
                outcome,
            } => self.check_completed(*unit, *fence, worker, outcome),
            _ => Ok(()),
        }
    }

    fn check_completed(&self, unit: Unit, fence: Fence, worker: &WorkerId, outcome: &Outcome) -> Result<(), Refusal> {
        if self.accepted.get(&unit).is_some_and(|accepted| accepted.fence == fence) {
            return Err(Refusal::Repeated { unit, fence });
        }
        self.check_lease(&unit, fence, Some(worker))?;
        match outcome.unusable_number() {
            Some(problem) => Err(Refusal::InvalidOutcome { unit, problem }),
            None => Ok(()),
        }
    }

    fn take(&mut self, event: Event, now: Millis) -> Result<(), Refusal> {
        match event {
            Event::Granted { unit, worker, fence } => self.grant(unit, worker, fence, now),
            Event::Completed {
                unit,
                worker,
                fence,
                outcome,
            } => {
                self.check_completed(unit, fence, &worker, &outcome)?;
                self.accept(unit, fence, worker, outcome, now)
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
                    self.attempt_failed(unit, &worker, reason, fatal);
                } else {
                    self.make_again(unit, &worker, &unusable, &reason, now);
                }
                Ok(())
            }
            Event::Quarantined { worker, reason } => self.set_apart(worker, reason),
            Event::Released {
                unit,
                worker,
                fence,
                reason,
            } => {
                self.check_lease(&unit, fence, Some(&worker))?;
                if let Some(reason) = reason {
                    self.troubles.entry(unit).or_default().returned(&worker, &reason);
                }
                self.give_back(unit);
                Ok(())
            }
            Event::Expired { unit, fence } => {
                self.check_lease(&unit, fence, None)?;
                self.troubles.entry(unit).or_default().lease_lost(now);
                self.give_back(unit);
                Ok(())
            }
            Event::GivenUp { unit, reason } => self.give_up(unit, &reason),
            Event::Cancelled { reason } => self.cancel(reason),
            Event::Paused { reason } => self.pause(reason, now),
            Event::StepsChanged { steps } => self.change_steps(steps, now),
            Event::RolledBack { to } => self.roll_back(to, now),
            Event::Resumed => self.resume(now),
            Event::Recovered { away_ms } => self.recover(away_ms, now),
        }
    }

    /// Ends a lease; the unit is ready again.
    fn give_back(&mut self, unit: Unit) {
        self.board.end(&unit);
        self.board.add(unit);
    }
}
