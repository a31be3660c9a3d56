//! Evaluators that judge: their rules have to understand whatever they are asked about.

use gavel_core::LabelledPair;
use gavel_core::spec::{Duty, NamedJudge, RunSpec};
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
            let others = judged
                .held_out
                .iter()
                .chain(labelled)
                .filter(|_| named.duty == Duty::Judge);
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

#[cfg(test)]
mod tests {
    use gavel_core::ids::Digest;
    use gavel_core::work::Side;

    use super::*;

    /// The quickstart, with another judge.
    fn run(judge: &str) -> RunSpec {
        let mut table: toml::Table = include_str!("../../../configs/quickstart.toml").parse().unwrap();
        table.insert("judge".into(), judge.parse::<toml::Table>().unwrap().into());
        RunSpec::from_value(table).unwrap()
    }

    const ALONE: &str = r#"family = "evaluator"
template = "t"
rubric = "r"
"#;

    const HELD_OUT: &str = r#"family = "clip"
path = "clip"
template = "t"
rubric = "r"
held_out = { family = "evaluator", template = "t", rubric = "r" }
"#;

    const MEMBER: &str = r#"family = "ensemble"
template = "t"
rubric = "r"
members = [{ path = "m" }, { family = "evaluator", veto = true, weight = 0.0 }]
"#;

    #[test]
    fn an_evaluator_judges_only_what_its_rules_understand_and_the_run_is_refused_before_it_starts() {
        let scene = [Task::new("a red circle on a white background")];
        let other = [Task::new("a cat")];
        let labelled = |task: &Task| {
            let picture = Digest::of(b"picture");
            [LabelledPair {
                task: task.clone(),
                first: picture,
                second: picture,
                preferred: Side::First,
            }]
        };
        let [of_scene, of_other] = [labelled(&scene[0]), labelled(&other[0])];
        let judged = |prompts, held_out, labelled| Judged {
            prompts,
            held_out,
            labelled,
        };
        let sound = judged(&scene[..], &scene[..], &of_scene[..]);
        for (spec, at) in [
            (run(ALONE), "judge"),
            (run(HELD_OUT), "judge.held_out"),
            (run(MEMBER), "judge.members[1]"),
        ] {
            let check = |spec: &RunSpec, judged: &Judged<'_>| check(spec, judged, &Pictures::new());
            assert_eq!(check(&spec, &sound), Ok(()), "{at}");
            let told = check(&spec, &judged(&other, &scene, &of_scene)).unwrap_err();
            assert_eq!(told.error, format!("`{at}.evaluator` cannot be used"));
            assert!(told.causes[0].contains("`a cat` is not a scene"), "{told:?}");
            assert!(told.hint.unwrap().contains(&format!("`{at}.family`")));
            let is_held_out = at == "judge.held_out";
            for more in [judged(&scene, &other, &of_scene), judged(&scene, &scene, &of_other)] {
                assert_eq!(
                    check(&spec, &more).is_ok(),
                    is_held_out,
                    "{at} sees the prompts of steps alone"
                );
            }
            let mut large = spec.clone();
            large.sampling.width = 128;
            let told = check(&large, &sound).unwrap_err();
            assert!(told.causes[0].contains("128x64"), "{told:?}");
        }
    }
}
