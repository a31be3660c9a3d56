//! A run's committed steps for those who look back: the latest from the run, earlier ones from the ledger, where the run has left them.

use std::sync::Arc;

use gavel_core::ids::{RunId, Step};
use gavel_core::run::{Run, RunStatus, StepRecord, StepResult};
use gavel_core::work::Policy;

use super::{DriverError, DriverHandle};
use crate::ledger::LedgerError;
use crate::steps;

impl DriverHandle {
    /// A run's state, with all of its steps. A step whose figures the ledger has lost is left out.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`]; [`DriverError::NotRead`] where the ledger does not answer.
    pub async fn status(&self, run: &RunId) -> Result<RunStatus, DriverError> {
        self.status_since(run, Step(0)).await
    }

    /// The same for somebody who was told the steps up to this one: with all steps where that one was taken back since, and else with those
    /// after it.
    ///
    /// # Errors
    /// As [`DriverHandle::status`].
    pub(crate) async fn status_after(&self, run: &RunId, told: Option<StepRecord>) -> Result<RunStatus, DriverError> {
        let Some(told) = told else {
            return self.status(run).await;
        };
        // What keeps these from being read is told with the state.
        let present = self.figures(run, told.step, 1).await.unwrap_or_default();
        let known = if present.first() == Some(&told) {
            told.step
        } else {
            Step(0)
        };
        self.status_since(run, known).await
    }

    async fn status_since(&self, run: &RunId, known: Step) -> Result<RunStatus, DriverError> {
        let id = run.clone();
        let mut status = self.look(run, move |state, now| state.status(&id, known, now)).await?;
        let end = status.steps.first().map_or(status.step.0 + 1, |step| step.step.0);
        let mut steps = self.earlier_figures(run, Step(known.0 + 1), Step(end)).await?;
        steps.append(&mut status.steps);
        status.steps = steps;
        Ok(status)
    }

    /// The figures of a run's committed steps from `first` on, in order, `most` at most. A step whose figures the ledger has lost is left out.
    ///
    /// # Errors
    /// As [`DriverHandle::status`].
    pub async fn figures(&self, run: &RunId, first: Step, most: usize) -> Result<Vec<StepRecord>, DriverError> {
        let first = first.max(Step(1));
        let look = move |run: &Run| {
            let present = run.results().steps.from_index(first.0 as usize - 1);
            let present = present.map(|step| step.record.clone());
            (run.commits_from(), present.take(most).collect::<Vec<_>>())
        };
        let (from, present) = self.inspect(run, look).await?;
        let most_end = first.0.saturating_add(u32::try_from(most).unwrap_or(u32::MAX));
        let mut steps = self.earlier_figures(run, first, from.min(Step(most_end))).await?;
        steps.extend(present.into_iter().filter(|step| step.step.0 < most_end));
        Ok(steps)
    }

    /// Those of the steps from `first` to before `end`, all of which the run has let go.
    async fn earlier_figures(&self, run: &RunId, first: Step, end: Step) -> Result<Vec<StepRecord>, DriverError> {
        let figures = steps::figures(self.ledger.as_ref(), run, first, end).await;
        figures.map_err(not_read)
    }

    /// The policy that a step committed; `None` of a step that is not committed, or whose commit the ledger has lost.
    ///
    /// # Errors
    /// As [`DriverHandle::status`].
    pub async fn policy(&self, run: &RunId, step: Step) -> Result<Option<Policy>, DriverError> {
        let look = move |run: &Run| {
            let policy = run.results().policies.get(step.0 as usize).cloned();
            (policy, run.commits_from())
        };
        let (present, from) = self.inspect(run, look).await?;
        if present.is_some() || step >= from || step == Step(0) {
            return Ok(present);
        }
        let commit = steps::commit(self.ledger.as_ref(), run, step).await;
        Ok(commit.map_err(not_read)?.map(|commit| commit.policy))
    }

    /// The committed steps of a run from `first` on with their candidates, verdicts and gradients, in order, `most` at most: from the run, and
    /// from the ledger where the run has let them go. A step whose details the ledger has lost is left out.
    ///
    /// # Errors
    /// As [`DriverHandle::status`].
    pub async fn steps(&self, run: &RunId, first: Step, most: usize) -> Result<Vec<StepResult>, DriverError> {
        let first = first.max(Step(1));
        let look = move |run: &Run| {
            let from = run.details_from();
            let index = first.max(from).0 as usize - 1;
            let present = run.results().steps.from_index(index).take(most).cloned();
            (from, present.collect::<Vec<_>>())
        };
        let (from, present) = self.inspect(run, look).await?;
        if from <= first {
            return Ok(present);
        }
        let gone = most.min((from.0 - first.0) as usize);
        let read = steps::details(self.ledger.as_ref(), run, first, gone as u64).await;
        let mut steps = read.map_err(not_read)?;
        steps.retain(|step| step.record.step < from);
        steps.extend(present.into_iter().take(most - gone));
        Ok(steps)
    }
}

fn not_read(error: LedgerError) -> DriverError {
    DriverError::NotRead(Arc::new(error))
}
