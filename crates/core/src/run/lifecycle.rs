//! Where a run stands: its phases, what halts it, and what a time without a coordinator means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Missing, Refusal, Run};
use crate::ids::Millis;

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Phase {
    /// The initial adapter is being made.
    Preparing,
    /// Steps are being taken; the base's held-out pictures and the judge's calibration fill idle time.
    Training,
    /// All steps are committed; held-out pictures of the base or labelled pairs are still missing.
    EvaluatingBase,
    /// The tuned policy, and what is left of the probes, is being compared with the base.
    EvaluatingTuned,
    /// Everything is done.
    Finished,
    /// The run is held: nothing is handed out, and what is in work comes to its end; it can be resumed.
    Paused {
        /// Why.
        reason: String,
    },
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
    /// What [`Phase::name`] can be.
    pub const NAMES: [&'static str; 8] = [
        "preparing",
        "training",
        "evaluating_base",
        "evaluating_tuned",
        "finished",
        "paused",
        "stopped",
        "failed",
    ];

    /// The kind of phase in a word, as its JSON has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Training => "training",
            Self::EvaluatingBase => "evaluating_base",
            Self::EvaluatingTuned => "evaluating_tuned",
            Self::Finished => "finished",
            Self::Paused { .. } => "paused",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
        }
    }

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
            None if self.is_ended() => Phase::Finished,
            None if let Some(pause) = &self.paused => Phase::Paused {
                reason: pause.reason.clone(),
            },
            None if self.results.policies.is_empty() => Phase::Preparing,
            None if !self.is_trained() => Phase::Training,
            None if self.missing.base + self.missing.calibration > 0 => Phase::EvaluatingBase,
            None => Phase::EvaluatingTuned,
        }
    }

    /// Whether the policy is there that the run ends with.
    pub(super) fn is_trained(&self) -> bool {
        self.policy().is_some() && self.committed().0 == self.spec.run.steps
    }

    pub(super) fn is_ended(&self) -> bool {
        self.halted.is_some() || (self.is_trained() && self.missing == Missing::default() && !self.has_open_probes())
    }

    /// The run cannot go on.
    pub(super) fn fail(&mut self, reason: String) {
        self.halt(Phase::Failed { reason });
    }

    pub(super) fn halt(&mut self, phase: Phase) {
        self.halted = Some(phase);
        self.board.end_all();
    }

    /// A coordinator has read the run from its ledger. Nobody could send heartbeats while none served, so that open leases get
    /// a fresh deadline.
    pub(super) fn recover(&mut self, away_ms: u64, now: Millis) -> Result<(), Refusal> {
        if self.is_ended() {
            return Err(Refusal::Ended);
        }
        self.skip(Millis(now.0.saturating_sub(away_ms)), now);
        if let Some(pause) = &mut self.paused {
            // Counted already.
            pause.since = pause.since.plus(away_ms);
        }
        self.board.renew_all(self.deadline(now));
        Ok(())
    }

    /// Counts the time from `from` to `now`, in which nobody served the run, into no duration that is under way.
    pub(super) fn skip(&mut self, from: Millis, now: Millis) {
        let skipped = |since: Millis| since.plus(now.since(since.max(from)));
        for flight in &mut self.flights {
            flight.started = skipped(flight.started);
        }
        self.board.skip(skipped);
    }
}
