//! Details of committed steps (candidates, verdicts, gradients) in the ledger, where they go on being at hand when a run has let
//! them go.

use gavel_core::ids::{RunId, Step};
use gavel_core::run::{Effect, Run, StepResult};

use crate::ledger::{DetailsRecord, Ledger, LedgerError, write};

/// The steps that an event has committed, with their details; none of a run that keeps all of them itself.
pub(crate) fn committed<'a>(run: &'a Run, effects: &'a [Effect]) -> impl Iterator<Item = &'a StepResult> {
    let steps = effects.iter().filter_map(|effect| match effect {
        Effect::StepCommitted(step, _) if run.is_lean() && step.0 > 0 => Some(*step),
        _ => None,
    });
    steps.filter_map(|step| run.results().steps.get(step.0 as usize - 1))
}

/// As the ledger keeps them. What does not read back is left out, with a warning.
pub(crate) fn records(run: &RunId, steps: impl Iterator<Item = StepResult>) -> Vec<DetailsRecord> {
    let record = |result: StepResult| match write(&result) {
        Ok(written) => Some(DetailsRecord::new(run.clone(), result.record.step, written.text)),
        Err(error) => {
            tracing::warn!(%run, step = %result.record.step, %error, "the details of a step could not be written");
            None
        }
    };
    steps.filter_map(record).collect()
}

/// The committed steps of a run from `first` on, in order, `most` at most, that the ledger has details of. A step whose details are
/// not as they were written is left out, with a warning.
///
/// To be asked for steps before `Run::details_from` alone: of a later one, a step that was taken back may still be there.
///
/// # Errors
/// The ledger does not answer.
pub(crate) async fn read(
    ledger: &dyn Ledger,
    run: &RunId,
    first: Step,
    most: u64,
) -> Result<Vec<StepResult>, LedgerError> {
    let records = ledger.details(run, first, most).await?;
    let result = |record: DetailsRecord| {
        let read = record.check().map_err(|error| error.to_string());
        let read = read.and_then(|()| serde_json::from_str(&record.result).map_err(|error| error.to_string()));
        if let Err(problem) = &read {
            tracing::warn!(%run, step = %record.step, problem, "the details of a step cannot be read");
        }
        read.ok()
    };
    Ok(records.into_iter().filter_map(result).collect())
}
