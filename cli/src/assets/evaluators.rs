//! Evaluators that judge: their rules have to understand whatever they are asked about.

use gavel_core::LabelledPair;
use gavel_core::spec::{NamedJudge, RunSpec};
use gavel_core::work::Task;
use gavel_eval::{EvalError, Evaluator};

use super::{Pictures, check_task};
use crate::diagnostic::{Context as _, Diagnostic, Result};

/// The tasks of a run whose pictures are judged.
pub(super) struct Judged<'a> {
    pub(super) prompts: &'a [Task],
    pub(super) held_out: &'a [Task],
    pub(super) labelled: &'a [LabelledPair],
}

/// Says whether the rules of every evaluator that judges understand its tasks, and are made for pictures of this size. A held-out
/// judge sees the prompts of the steps alone.
///
/// # Errors
/// The first evaluator that cannot be used, by its key.
pub(super) fn check(spec: &RunSpec, judged: &Judged<'_>, pictures: &Pictures) -> Result<()> {
    for named in spec.judge.evaluators() {
        let evaluator = gavel_eval::named(named.spec.evaluator);
        let fits = painted_size(spec, evaluator.as_ref()).and_then(|()| {
            let labelled = judged.labelled.iter().map(|pair| &pair.task);
            let others = judged.held_out.iter().chain(labelled).filter(|_| !named.is_held_out);
            let mut tasks = judged.prompts.iter().chain(others);
            tasks.try_for_each(|task| check_task(evaluator.as_ref(), task, pictures))
        });
        fits.map_err(|error| remedy(error, &named))
            .with_context(|| format!("`{}.evaluator` cannot be used", named.at()))?;
    }
    Ok(())
}

/// The evaluator's own remedy speaks of an evaluation.
fn remedy<Spec>(error: Diagnostic, named: &NamedJudge<'_, Spec>) -> Diagnostic {
    error.with_hint(format!(
        "give this judge what its rules read (docs/judges.md), or name another family in `{}.family`",
        named.at()
    ))
}

/// Says whether the run paints pictures of the size that the evaluator's rules are made for.
///
/// # Errors
/// [`EvalError::Size`].
pub(super) fn painted_size(spec: &RunSpec, evaluator: &dyn Evaluator) -> Result<()> {
    let (width, height) = (spec.sampling.width, spec.sampling.height);
    let expected = evaluator.side();
    if (width, height) == (expected as usize, expected as usize) {
        return Ok(());
    }
    Err(EvalError::Size {
        evaluator: evaluator.name(),
        width: width as u32,
        height: height as u32,
        expected,
    }
    .into())
}
