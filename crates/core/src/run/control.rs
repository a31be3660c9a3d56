//! What people do to a run while it lives: stop it, hold it, let it go on, change how far it goes, take steps back.

use serde::{Deserialize, Serialize};

use super::{Phase, Refusal, Run};
use crate::ids::{Millis, Step};
use crate::schedule;
use crate::work::{Arm, Unit, rules};

/// A run that hands out nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pause {
    pub(super) reason: String,
    pub(super) since: Millis,
}

impl Run {
    /// Somebody stops the run.
    pub(super) fn cancel(&mut self, reason: String) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        self.halt(Phase::Stopped { reason });
        Ok(())
    }

    /// The run is held: nothing more is handed out, and what is in work comes to its end.
    pub(super) fn pause(&mut self, reason: String, now: Millis) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        if self.paused.is_some() {
            return Err(Refusal::Paused);
        }
        self.paused = Some(Pause { reason, since: now });
        Ok(())
    }

    /// Somebody lets a paused, stopped or failed run go on.
    pub(super) fn resume(&mut self, now: Millis) -> Result<(), Refusal> {
        let (halted, paused) = (self.halted.take(), self.paused.take());
        if halted.is_none() && paused.is_none() {
            return Err(if self.is_ended() {
                Refusal::Ended
            } else {
                Refusal::NotStopped
            });
        }
        let ended = if halted.is_some() { self.ended.take() } else { None };
        if let Some(since) = ended.into_iter().chain(paused.map(|pause| pause.since)).min() {
            self.skip(since, now);
        }
        self.begin_anew();
        Ok(())
    }

    /// Forgets what stood in the way.
    fn begin_anew(&mut self) {
        self.troubles.clear();
        self.quarantined.clear();
        self.watched_from = self.committed();
        self.pairs_skipped_lately = 0;
        // A step that nobody could judge is judged again; its samples are still good.
        let mut steps = Vec::new();
        for flight in self.flights.iter_mut().filter(|flight| flight.unjudgeable().is_some()) {
            flight.forget_verdicts();
            steps.push(flight.step);
        }
        let chunks = schedule::chunks(self.spec.prompts.per_step, self.spec.judge.batch);
        for step in steps {
            for chunk in 0..chunks {
                self.open_judge_unit(Unit::Judge { step, chunk });
            }
        }
    }

    /// The run is to end after `steps` steps. One that is trained already goes on, and is measured anew at its new end; one
    /// that is given fewer drops what was begun behind them.
    ///
    /// Learning rates of a falling schedule follow the new number from here on. A commit that is in work is taken back, because
    /// its worker reckons with the old one.
    pub(super) fn change_steps(&mut self, steps: u32, now: Millis) -> Result<(), Refusal> {
        let committed = self.committed();
        if steps < committed.0 {
            return Err(Refusal::StepsCommitted {
                found: steps,
                committed,
            });
        }
        let mut spec = self.spec.clone();
        spec.run.steps = steps;
        spec.check_steps().map_err(|problems| Refusal::InvalidSteps {
            problem: problems.to_string(),
        })?;
        let was_trained = self.is_trained();
        // The last policy is measured at the end, and no policy is measured twice.
        self.forget_probes(Step(steps));
        self.spec_sha256 = spec.digest();
        self.spec = spec;
        self.flights.retain(|flight| flight.step.0 <= steps);
        self.let_conditionings_go();
        let leased = self.leases().map(|(unit, _)| *unit);
        let commits: Vec<Unit> = leased.filter(|unit| matches!(unit, Unit::Commit { .. })).collect();
        commits.into_iter().for_each(|unit| self.give_back(unit));
        self.forget(|unit| match *unit {
            Unit::Sample { step, .. }
            | Unit::Judge { step, .. }
            | Unit::HeldOutJudge { step, .. }
            | Unit::Gradient { step, .. } => step.0 > steps,
            _ => false,
        });
        match (was_trained, self.is_trained()) {
            (true, false) => {
                if self.halted.is_none() {
                    self.ended = None;
                }
                self.forget_tuned();
                self.begin_probe();
                self.begin_steps(now);
            }
            (false, true) => self.begin_tuned(),
            (false, false) => self.begin_steps(now),
            (true, true) => {}
        }
        Ok(())
    }

    /// Takes back the steps after `to`, and pauses there: whoever did it decides how the run goes on.
    pub(super) fn roll_back(&mut self, to: Step, now: Millis) -> Result<(), Refusal> {
        let committed = self.committed();
        if to >= committed {
            return Err(Refusal::NotCommitted { step: to, committed });
        }
        if !self.can_go_on_from(to) {
            return Err(Refusal::NotKept { step: to });
        }
        if let Some(ended) = self.ended.take() {
            self.skip(ended, now);
        }
        self.halted = None;
        self.begin_anew();
        self.rewind(to.0 + 1, now);
        let reason = format!("taken back to step {to}, from {committed}");
        self.paused = Some(Pause { reason, since: now });
        Ok(())
    }

    /// Whether the policies are kept that the step after `step` is sampled from and trains.
    pub(super) fn can_go_on_from(&self, step: Step) -> bool {
        let sampled_from = rules::sampling_version(&self.spec, Step(step.0 + 1));
        (sampled_from..=step.0).all(|version| self.keeps_policy(version))
    }

    /// Asks for the held-out pictures of the trained policy.
    pub(super) fn begin_tuned(&mut self) {
        for chunk in 0..self.missing.tuned {
            self.board.add(Unit::EvaluateSample { arm: Arm::Tuned, chunk });
        }
    }

    /// Forgets what was painted by a policy that is the run's last no more, and what was said of it.
    pub(super) fn forget_tuned(&mut self) {
        self.forget(|unit| match *unit {
            Unit::EvaluateSample { arm, .. } => arm == Arm::Tuned,
            Unit::EvaluateJudge { probe, .. } => probe.is_none(),
            _ => false,
        });
        self.forget_answers(Arm::Tuned, &(0..self.results.tuned_answers.len() as u32));
        self.results.tuned_images.fill(None);
        self.results.comparisons.fill(None);
        let held_out = self.results.base_images.len() as u32;
        self.missing.tuned = schedule::chunks(held_out, self.spec.evaluation_batch());
        self.missing.comparisons = schedule::chunks(held_out, self.spec.judge.batch);
    }
}
