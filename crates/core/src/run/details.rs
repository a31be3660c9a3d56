//! Details of committed steps: candidates, verdicts, gradients, and who made them. People and audits read them; the run itself
//! soon needs none of them.

use super::Run;
use crate::ids::Step;
use crate::schedule;
use crate::work::Unit;

impl Run {
    /// A run that leaves to its ledger what no unit of its can read again: the details of the steps behind the latest
    /// `coordinator.keep_steps`, and one more, and all else of earlier ones ([`Run::commits_from`]). It decides as any other does, and takes as
    /// much memory after ten thousand steps as after a hundred, but for the policies that are kept and the probes. A late result of a step
    /// that is gone is refused as one that nobody leased.
    ///
    /// To be said before the first event.
    #[must_use]
    pub fn lean(mut self) -> Self {
        self.is_lean = true;
        self
    }

    /// Whether the run is [lean](Run::lean).
    pub fn is_lean(&self) -> bool {
        self.is_lean
    }

    /// The first committed step whose candidates, verdicts and gradients the run still has; those of earlier ones are in its
    /// ledger alone. 1 in a run that is not [lean](Run::lean).
    pub fn details_from(&self) -> Step {
        self.details_from
    }

    /// To be called when the window has moved.
    pub(super) fn let_details_go(&mut self) {
        // `released` looks at the one step that has just left the window.
        let keep_from = self.kept_from.0.saturating_sub(1).max(1);
        if !self.is_lean || keep_from <= self.details_from.0 {
            return;
        }
        let per_step = self.spec.prompts.per_step;
        let chunks = |size: u32| 0..schedule::chunks(per_step, size);
        let (sampled, judged) = (chunks(self.spec.sampling.batch), chunks(self.spec.judge.batch));
        let trained = chunks(self.spec.trainer.shard);
        for step in (self.details_from.0..keep_from).map(Step) {
            let units = sampled.clone().map(|chunk| Unit::Sample { step, chunk });
            let units = units.chain(judged.clone().map(|chunk| Unit::Judge { step, chunk }));
            let units = units.chain(judged.clone().map(|chunk| Unit::HeldOutJudge { step, chunk }));
            for unit in units.chain(trained.clone().map(|shard| Unit::Gradient { step, shard })) {
                self.accepted.remove(&unit);
            }
            if let Some(result) = self.results.steps.get_mut(step.0 as usize - 1) {
                result.groups = Vec::new();
                result.shards = Vec::new();
            }
        }
        self.details_from = Step(keep_from);
    }
}
