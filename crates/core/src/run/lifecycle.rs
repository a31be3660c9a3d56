//! How a run begins, ends and goes on: its phases, what halts it and what resumes it.

use serde::{Deserialize, Serialize};

use super::{Missing, Refusal, Run};
use crate::ids::Millis;
use crate::schedule;
use crate::work::Unit;

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

impl Run {
    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        match &self.halted {
            Some(phase) => phase.clone(),
            None if self.results.policies.is_empty() => Phase::Preparing,
            None if !self.is_trained() => Phase::Training,
            None if self.missing.base + self.missing.calibration > 0 => Phase::EvaluatingBase,
            None if self.missing.tuned + self.missing.comparisons > 0 => Phase::EvaluatingTuned,
            None => Phase::Finished,
        }
    }

    /// Whether every step is committed.
    pub(super) fn is_trained(&self) -> bool {
        self.committed().0 == self.spec.run.steps
    }

    pub(super) fn is_ended(&self) -> bool {
        self.halted.is_some() || (self.is_trained() && self.missing == Missing::default())
    }

    /// Somebody stops the run.
    pub(super) fn cancel(&mut self, reason: String) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        self.halt(Phase::Stopped { reason });
        Ok(())
    }

    /// The run cannot go on.
    pub(super) fn fail(&mut self, reason: String) {
        self.halt(Phase::Failed { reason });
    }

    fn halt(&mut self, phase: Phase) {
        self.halted = Some(phase);
        self.board.end_all();
    }

    /// Somebody lets a stopped or failed run go on.
    pub(super) fn resume(&mut self, now: Millis) -> Result<(), Refusal> {
        if self.halted.is_none() {
            return Err(if self.is_ended() {
                Refusal::Ended
            } else {
                Refusal::NotStopped
            });
        }
        self.halted = None;
        if let Some(ended) = self.ended.take() {
            self.skip(now.since(ended));
        }
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
        Ok(())
    }
    /// A coordinator has read the run from its ledger. Nobody could send heartbeats while none served, so that open leases get
    /// a fresh deadline.
    pub(super) fn recover(&mut self, away_ms: u64, now: Millis) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        self.skip(away_ms);
        self.board.renew_all(self.deadline(now));
        Ok(())
    }

    /// Counts a time in which nobody served the run into no duration that is under way.
    fn skip(&mut self, away_ms: u64) {
        for flight in &mut self.flights {
            flight.started = flight.started.plus(away_ms);
        }
        self.board.skip(away_ms);
    }
}
