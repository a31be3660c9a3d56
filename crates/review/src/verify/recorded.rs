//! A step as the ledger has it: what each worker was given, and what was accepted of it.

use std::collections::BTreeMap;

use gavel_core::ids::{Fence, Step};
use gavel_core::run::{Event, Phase, Run};
use gavel_core::work::{Assignment, Outcome, Unit};

use super::Part;
use crate::{Error, History};

/// One unit that was done and accepted.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) unit: Unit,
    /// What the worker was given with its lease.
    pub(super) assignment: Assignment,
    /// What was accepted.
    pub(super) outcome: Outcome,
    /// How many steps the run was to have when it was given.
    pub(super) steps: u32,
}

/// The part of a step that a unit belongs to; `None` for evaluations, and for the rubrics of single prompts, which belong to many steps.
pub(super) fn part(unit: &Unit) -> Option<Part> {
    match unit {
        Unit::Initialise => Some(Part::Initialise),
        Unit::Sample { .. } => Some(Part::Sample),
        Unit::Judge { .. } => Some(Part::Judge),
        Unit::HeldOutJudge { .. } => Some(Part::HeldOut),
        Unit::Gradient { .. } => Some(Part::Gradient),
        Unit::Commit { .. } => Some(Part::Commit),
        Unit::WriteRubric { .. }
        | Unit::EvaluateSample { .. }
        | Unit::EvaluateJudge { .. }
        | Unit::CalibrateJudge { .. }
        | Unit::AnswerQuestions { .. } => None,
    }
}

/// The step that needs a unit: the initial policy belongs to the first.
fn step_of(unit: &Unit) -> Option<Step> {
    match *unit {
        Unit::Initialise => Some(Step(1)),
        Unit::Sample { step, .. }
        | Unit::Judge { step, .. }
        | Unit::HeldOutJudge { step, .. }
        | Unit::Gradient { step, .. }
        | Unit::Commit { step } => Some(step),
        Unit::WriteRubric { .. }
        | Unit::EvaluateSample { .. }
        | Unit::EvaluateJudge { .. }
        | Unit::CalibrateJudge { .. }
        | Unit::AnswerQuestions { .. } => None,
    }
}

/// The run at its end, the step to look at (the latest committed one unless `step` names another), and its accepted units.
///
/// # Errors
/// The ledger does not replay, or there is nothing of that step in it.
pub(super) fn read(history: &History, step: Option<Step>) -> Result<(Run, Step, Vec<Recorded>), Error> {
    let step = match step {
        Some(step) => step,
        // Which step is the latest is known at the end only, and what its workers were given on the way there.
        None => history.replay(|_, _| {}, |_, _| {})?.committed().max(Step(1)),
    };
    let mut given: BTreeMap<(Unit, Fence), (Assignment, u32)> = BTreeMap::new();
    let mut accepted: BTreeMap<Unit, (Fence, Outcome)> = BTreeMap::new();
    let run = history.replay(
        |run, event| {
            if let Event::Granted { unit, fence, .. } = event
                && step_of(unit) == Some(step)
                && let Some(assignment) = run.assignment(unit)
            {
                given.insert((*unit, *fence), (assignment, run.spec().run.steps));
            }
        },
        |run, event| {
            if let Event::Completed {
                unit, fence, outcome, ..
            } = event
                && step_of(unit) == Some(step)
                // A result with which the run could not go on was not accepted.
                && !matches!(run.phase(), Phase::Failed { .. })
            {
                accepted.insert(*unit, (*fence, outcome.clone()));
            }
        },
    )?;
    let recorded: Vec<Recorded> = accepted
        .into_iter()
        .filter_map(|(unit, (fence, outcome))| {
            let (assignment, steps) = given.remove(&(unit, fence))?;
            Some(Recorded {
                unit,
                assignment,
                outcome,
                steps,
            })
        })
        .collect();
    if recorded.is_empty() {
        return Err(Error::NothingAccepted {
            run: run.id().clone(),
            step,
            committed: run.committed(),
        });
    }
    Ok((run, step, recorded))
}
