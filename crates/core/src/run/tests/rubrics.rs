//! Prompts with a rubric of their own: each verdict names the rubric that decided about its prompt, and no other is accepted.

use super::super::fixtures::{spec, watched};
use super::*;
use crate::work::{Part, Task, VerdictRecord};
use crate::{PromptRubric, PromptRubrics, RunAssets};

fn own(task: &str) -> PromptRubric {
    PromptRubric {
        task: Task::new(task),
        rubric: Digest::of(format!("rubric of {task}").as_bytes()),
    }
}

fn fleet() -> Fleet {
    let run = watched(spec(), 1.0);
    let mut assets: RunAssets = run.assets().clone();
    assets.prompt_rubrics = PromptRubrics::new(["prompt 1", "prompt 4", "held-out 2", "labelled 0"].map(own).into());
    let held_out_judge = assets.held_out_judge.as_mut().unwrap();
    held_out_judge.prompt_rubrics = PromptRubrics::new(vec![own("prompt 2")]);
    Fleet::new(Run::new(run.id().clone(), run.spec().clone(), assets).created(Millis(0)))
}

#[test]
fn every_verdict_of_a_run_names_the_rubric_of_its_prompt() {
    let mut fleet = fleet();
    fleet.finish_with(|_, _| {});
    let (assets, results) = (fleet.run.assets(), fleet.run.results());
    let named = |words: &str| Digest::of(format!("rubric of {words}").as_bytes());
    let expected = |words: &str, own: &[&str], general: Digest| match own.contains(&words) {
        true => named(words),
        false => general,
    };
    let mut by_own = 0;
    for group in results.steps.iter().flat_map(|step| &step.groups) {
        let words = &assets.prompts[group.line as usize].words;
        let rubric = expected(words, &["prompt 1", "prompt 4"], assets.rubric.digest);
        assert_eq!(group.verdicts[0].rubric, rubric, "{words}");
        by_own += u32::from(rubric != assets.rubric.digest);
        let of_held_out = assets.held_out_judge.as_ref().unwrap().rubric.digest;
        assert_eq!(
            group.held_out[0].rubric,
            expected(words, &["prompt 2"], of_held_out),
            "{words}"
        );
    }
    assert!(by_own > 0, "no step has a prompt with a rubric of its own");
    let rubrics = |records: &[Option<VerdictRecord>]| -> Vec<bool> {
        let own = |record: &Option<VerdictRecord>| record.as_ref().unwrap().rubric != assets.rubric.digest;
        records.iter().map(own).collect()
    };
    assert_eq!(rubrics(&results.comparisons), [false, false, true, false, false]);
    assert_eq!(rubrics(&results.calibration), [true, false, false]);
}

#[test]
fn a_verdict_by_the_general_rubric_is_none_of_a_prompt_with_its_own() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::EvaluateJudge { chunk: 1, .. }));
    let Some(Assignment::Judge { pairs }) = fleet.run.assignment(&unit) else {
        panic!("{unit} judges pairs");
    };
    assert_eq!(pairs[0].task, Task::new("held-out 2"));
    assert_eq!(
        (pairs[0].rubric, pairs[1].rubric),
        (Some(own("held-out 2").rubric), None)
    );
    // Whoever keeps blobs keeps this one: it is read for the unit, and belongs to the run.
    let is_it = |(blob, part): (Digest, Part)| Some(blob) == pairs[0].rubric && matches!(part, Part::Rubric { .. });
    let assignment = fleet.run.assignment(&unit).unwrap();
    assert!(assignment.inputs().any(is_it) && fleet.run.assets().blobs().any(is_it));
    let by_the_general = [2, 3].map(|prompt| record(prompt, Verdict::Preferred { side: Side::First }, &fleet.run));
    let mut by_its_own = by_the_general.clone();
    by_its_own[0].rubric = own("held-out 2").rubric;
    let complete = |verdicts: &[VerdictRecord]| Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome: judged(verdicts.to_vec()),
    };
    let refused = fleet.apply(complete(&by_the_general));
    assert!(
        matches!(&refused, Err(Refusal::InvalidOutcome { problem, .. }) if problem.contains("for this prompt")),
        "{refused:?}"
    );
    fleet.apply(complete(&by_its_own)).unwrap();
}
