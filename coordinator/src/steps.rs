//! What committed steps came to, in the ledger: commits (figures, policy, whose result that is) and details (candidates, verdicts,
//! gradients). Both go on being at hand there when a run has let them go.

use std::fmt::Debug;

use gavel_core::ids::{RunId, Step};
use gavel_core::run::{Commit, Effect, Run, StepRecord, StepResult};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ledger::{CommitRecord, DetailsRecord, Ledger, LedgerError, Row, StepRecords, write};

/// Commits that are read at a time.
const COMMITS_AT_ONCE: u32 = 256;

/// A step that has just been committed.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) commit: Commit,
    details: StepResult,
}

/// The step that an event has committed; none of a run that keeps all of them itself.
pub(crate) fn committed(run: &Run, effects: &[Effect]) -> Option<Committed> {
    let step = effects.iter().find_map(|effect| match effect {
        Effect::StepCommitted(step, _) if run.is_lean() => Some(*step),
        _ => None,
    })?;
    Some(Committed {
        commit: run.commit_of(step)?,
        details: run.results().steps.last()?.clone(),
    })
}

/// As the ledger keeps them. What does not read back is left out, with a warning.
pub(crate) fn records(run: &RunId, steps: impl IntoIterator<Item = Committed>) -> StepRecords {
    let mut records = StepRecords::default();
    for Committed { commit, details } in steps {
        let step = commit.record.step;
        let text = written(run, Row::Details(step), &details);
        let details = text.map(|text| DetailsRecord::new(run.clone(), step, text));
        records.details.extend(details);
        records.commits.extend(commit_record(run, &commit));
    }
    records
}

/// The same of commits alone.
pub(crate) fn commit_records(run: &RunId, commits: &[Commit]) -> StepRecords {
    StepRecords {
        commits: commits.iter().filter_map(|commit| commit_record(run, commit)).collect(),
        details: Vec::new(),
    }
}

fn commit_record(run: &RunId, commit: &Commit) -> Option<CommitRecord> {
    let step = commit.record.step;
    let text = written(run, Row::Commit(step), commit)?;
    Some(CommitRecord::new(run.clone(), step, text))
}

fn written<T: Serialize + DeserializeOwned + PartialEq + Debug>(run: &RunId, row: Row, value: &T) -> Option<String> {
    let written = write(value).inspect_err(|error| tracing::warn!(%run, %row, %error, "it could not be written"));
    Some(written.ok()?.text)
}

/// The committed steps of a run from `first` on with their details, in order, `most` at most, that the ledger has details of. A step whose
/// details are not as they were written is left out, with a warning.
///
/// To be asked for steps before `Run::details_from` alone: of a later one, a step that was taken back may still be there.
///
/// # Errors
/// The ledger does not answer.
pub(crate) async fn details(
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

/// The commits of all steps before `end`, in order.
///
/// To be asked for steps before `Run::commits_from` alone: of a later one, a step that was taken back may still be there.
///
/// # Errors
/// The ledger does not answer; [`LedgerError::Corrupt`] names the first commit that is missing or not as it was written.
pub(crate) async fn past(ledger: &dyn Ledger, run: &RunId, end: Step) -> Result<Vec<Commit>, LedgerError> {
    let commits = commits(ledger, run, Step(1), end).await?;
    commits.into_iter().collect()
}

/// The figures of the steps from `first` to before `end`, in order, as [`past`] reads them; a step whose commit cannot be read is left out, with
/// a warning.
///
/// # Errors
/// The ledger does not answer.
pub(crate) async fn figures(
    ledger: &dyn Ledger,
    run: &RunId,
    first: Step,
    end: Step,
) -> Result<Vec<StepRecord>, LedgerError> {
    let commits = commits(ledger, run, first, end).await?;
    let legible = commits.into_iter().filter_map(|commit| legible(run, commit));
    Ok(legible.map(|commit| commit.record).collect())
}

/// The commit of a step; `None` where it cannot be read, with a warning.
///
/// # Errors
/// The ledger does not answer.
pub(crate) async fn commit(ledger: &dyn Ledger, run: &RunId, step: Step) -> Result<Option<Commit>, LedgerError> {
    let mut found = commits(ledger, run, step, Step(step.0 + 1)).await?;
    Ok(found.pop().and_then(|commit| legible(run, commit)))
}

/// One for each step; of steps that are read together and cannot be told apart, one error for all.
async fn commits(
    ledger: &dyn Ledger,
    run: &RunId,
    first: Step,
    end: Step,
) -> Result<Vec<Result<Commit, LedgerError>>, LedgerError> {
    let mut commits = Vec::new();
    let mut next = first.0.max(1);
    while next < end.0 {
        let count = (end.0 - next).min(COMMITS_AT_ONCE);
        match ledger.commits(run, Step(next), count.into()).await {
            Ok(rows) => {
                let mut rows = rows.into_iter().peekable();
                commits.extend((next..next + count).map(Step).map(|step| {
                    let row = rows.next_if(|row| row.step == step);
                    row.map_or_else(|| Err(unreadable(run, step, "it is missing".into())), read)
                }));
            }
            Err(error) if error.is_damage() => commits.push(Err(error)),
            Err(error) => return Err(error),
        }
        next += count;
    }
    Ok(commits)
}

fn legible(run: &RunId, commit: Result<Commit, LedgerError>) -> Option<Commit> {
    let commit = commit.inspect_err(|error| tracing::warn!(%run, %error, "the commit of a step cannot be read"));
    commit.ok()
}

fn read(record: CommitRecord) -> Result<Commit, LedgerError> {
    record.check()?;
    let read = serde_json::from_str(&record.commit);
    read.map_err(|error| unreadable(&record.run, record.step, error.to_string()))
}

fn unreadable(run: &RunId, step: Step, problem: String) -> LedgerError {
    LedgerError::Corrupt {
        run: run.clone(),
        row: Row::Commit(step),
        problem,
    }
}
