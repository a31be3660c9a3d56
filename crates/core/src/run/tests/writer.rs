//! Rubrics that are written while the run goes on: one for each prompt, before the prompt's first comparison.

use std::collections::{BTreeMap, BTreeSet};

use super::super::fixtures::{assets, spec, watched};
use super::*;
use crate::spec::{InProcessSpec, WriterSpec};
use crate::work::{Fault, PromptPlace, TaskList, Unusable};
use crate::{PromptRubric, PromptRubrics};

fn place(list: TaskList, index: u32) -> PromptPlace {
    PromptPlace { list, index }
}

/// A run in which one training prompt has a rubric in the files already, and a labelled pair is of a training prompt.
fn fleet() -> Fleet {
    fleet_with(WriterSpec::default())
}

fn fleet_with(writer: WriterSpec) -> Fleet {
    let mut run_spec = spec();
    run_spec.judge.writer = Some(writer);
    let mut assets = assets();
    assets.labelled[1].task = assets.prompts[3].clone();
    assets.writer_template = Some("asks".into());
    assets.prompt_rubrics = PromptRubrics::new(vec![PromptRubric {
        task: assets.prompts[0].clone(),
        rubric: Digest::of(b"of the files"),
    }]);
    Fleet::new(Run::new(RunId("small".into()), run_spec, assets).created(Millis(0)))
}

fn written(run: &Run) -> BTreeMap<PromptPlace, Option<Digest>> {
    run.written_rubrics().collect()
}

#[test]
fn each_prompts_rubric_is_written_once_and_before_its_first_comparison() {
    let mut fleet = fleet();
    let mut done: BTreeSet<PromptPlace> = BTreeSet::new();
    let mut first_of_step = 0;
    while fleet.run.phase() != Phase::Finished {
        fleet.now.0 += 1;
        // The judge first, so that nothing is written before somebody needs it by chance.
        let roles = [Role::Judge, Role::Trainer, Role::Sampler];
        let (unit, _) = roles.into_iter().find_map(|role| fleet.lease(role, "w")).unwrap();
        if let Unit::WriteRubric { place } = unit {
            assert!(done.insert(place), "{unit} is asked for twice");
        }
        if let Some(Assignment::Judge { pairs }) = fleet.run.assignment(&unit) {
            for pair in &pairs {
                assert!(pair.rubric.is_some(), "{unit}: `{}` has no rubric", pair.task.words);
            }
            first_of_step += 1;
        }
        fleet.complete(unit);
    }
    assert!(first_of_step > 0);
    let prompts = (1..5).map(|index| place(TaskList::Prompts, index));
    let held_out = (0..5).map(|index| place(TaskList::HeldOut, index));
    let labelled = [0, 2].map(|index| place(TaskList::Labelled, index));
    let expected: BTreeSet<PromptPlace> = prompts.chain(held_out).chain(labelled).collect();
    assert_eq!(
        done, expected,
        "what the files have is not written, and a prompt of two lists is written once"
    );
    let written = written(&fleet.run);
    assert_eq!(written.keys().copied().collect::<BTreeSet<_>>(), expected);
    let results = fleet.run.results();
    for group in results.steps.iter().flat_map(|step| &step.groups) {
        let expected = match group.line {
            0 => Some(Digest::of(b"of the files")),
            line => written[&place(TaskList::Prompts, line)],
        };
        assert_eq!(Some(group.verdicts[0].rubric), expected);
    }
    let of_two_lists = results.calibration[1].as_ref().unwrap().rubric;
    assert_eq!(Some(of_two_lists), written[&place(TaskList::Prompts, 3)]);
    assert!(
        fleet
            .run
            .retained()
            .is_superset(&written.values().copied().flatten().collect())
    );
    assert!(fleet.replay() == fleet.run);
    assert_eq!(fleet.run.own_rubrics(), expected.len() + 1);
}

#[test]
fn the_held_out_judge_goes_by_rubrics_of_its_own() {
    let run = watched(spec(), 1.0);
    let mut run_spec = run.spec().clone();
    run_spec.judge.writer = Some(WriterSpec::default());
    let mut fleet = Fleet::new(Run::new(run.id().clone(), run_spec, run.assets().clone()).created(Millis(0)));
    fleet.finish_with(|_, _| {});
    let general = fleet.run.assets().held_out_judge.as_ref().unwrap().rubric.digest;
    for group in fleet.run.results().steps.iter().flat_map(|step| &step.groups) {
        assert_eq!(group.held_out[0].rubric, general);
        assert_ne!(group.verdicts[0].rubric, fleet.run.assets().rubric.digest);
    }
}

#[test]
fn a_writer_of_another_model_is_known_by_that_and_not_by_the_judges() {
    let writer = || WriterSpec {
        back_end: Some(InProcessSpec::default().into()),
        ..WriterSpec::default()
    };
    let mut fleet = fleet_with(writer());
    fleet.finish_with(|_, outcome| {
        if let Outcome::RubricWritten { model, .. } = outcome {
            *model = Digest::of(b"writer");
        }
    });
    let models = fleet.run.models;
    assert_eq!(
        (models.writer, models.judge),
        (Some(Digest::of(b"writer")), Some(Digest::of(b"judge")))
    );
    assert!(fleet.replay() == fleet.run);

    // The next must be of the same model.
    let mut fleet = fleet_with(writer());
    let is_writing = |unit: &Unit| matches!(unit, Unit::WriteRubric { .. });
    fleet.work_until(|run| {
        let ready = (0..5).map(|index| place(TaskList::Prompts, index));
        let mut ready = ready.filter(|place| run.board.is_ready(&Unit::WriteRubric { place: *place }));
        run.models.writer.is_some() && ready.next().is_some()
    });
    let (unit, fence) = lease(&mut fleet, is_writing);
    let refused = fleet.apply(Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome: Outcome::RubricWritten {
            rubric: None,
            model: Digest::of(b"another model"),
            spent: None,
            seconds: 0.0,
        },
    });
    assert!(
        matches!(&refused, Err(Refusal::InvalidOutcome { problem, .. }) if problem.contains("writer of rubrics has fingerprint")),
        "{refused:?}"
    );
}

#[test]
fn where_nothing_came_of_the_writing_the_general_rubric_decides() {
    let mut fleet = fleet();
    let attempts = fleet.run.spec().limits.attempts;
    let unwritable = place(TaskList::Prompts, 2);
    fleet.work_until(|run| run.board.is_ready(&Unit::WriteRubric { place: unwritable }));
    for _ in 0..attempts {
        let (unit, fence) = lease(&mut fleet, |unit| *unit == Unit::WriteRubric { place: unwritable });
        fleet
            .apply(Event::Failed {
                unit,
                worker: worker(),
                fence,
                reason: "no words".into(),
                fatal: false,
                unusable: vec![],
            })
            .unwrap();
    }
    let unreadable = place(TaskList::Labelled, 0);
    fleet.finish_with(|unit, outcome| {
        if let (Unit::WriteRubric { place }, Outcome::RubricWritten { rubric, .. }) = (unit, outcome)
            && place == unreadable
        {
            *rubric = None;
        }
    });
    let (run, general) = (&fleet.run, fleet.run.assets().rubric.digest);
    assert_eq!([written(run)[&unwritable], written(run)[&unreadable]], [None; 2]);
    assert_eq!(run.results().calibration[0].as_ref().unwrap().rubric, general);
    for group in run.results().steps.iter().flat_map(|step| &step.groups) {
        assert_eq!(group.verdicts[0].rubric == general, group.line == 2);
    }
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn a_rubric_whose_text_is_lost_is_written_again_before_anybody_judges_by_it() {
    let mut fleet = fleet();
    fleet.work_until(|run| run.committed() == Step(1));
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { step: Step(2), .. }));
    let assignment = fleet.run.assignment(&unit).unwrap();
    let Assignment::Judge { pairs } = &assignment else {
        panic!("{unit} judges pairs");
    };
    let of_the_files = &fleet.run.assets().prompts[0];
    let pair = pairs.iter().find(|pair| pair.task != *of_the_files).unwrap();
    let (task, blob) = (pair.task.clone(), pair.rubric.unwrap());
    let fails = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "gone".into(),
        fatal: false,
        unusable: vec![Unusable {
            blob,
            fault: Fault::Storage,
        }],
    };
    fleet.apply(fails).unwrap();
    let index = fleet
        .run
        .assets()
        .prompts
        .iter()
        .position(|prompt| *prompt == task)
        .unwrap();
    let writes = Unit::WriteRubric {
        place: place(TaskList::Prompts, index as u32),
    };
    assert!(fleet.run.board.is_ready(&writes) && !fleet.run.board.is_ready(&unit));
    assert_eq!(fleet.run.assignment(&unit), None);
    let (again, _) = lease(&mut fleet, |unit| *unit == writes);
    fleet.complete(again);
    assert!(fleet.run.board.is_ready(&unit));
    assert_eq!(fleet.run.assignment(&unit).as_ref(), Some(&assignment));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn what_was_written_stays_when_steps_are_taken_back_or_added() {
    let mut fleet = fleet();
    fleet.work_until(|run| run.committed() == Step(2));
    let before = written(&fleet.run);
    fleet.apply(Event::RolledBack { to: Step(1) }).unwrap();
    fleet.apply(Event::Resumed).unwrap();
    fleet.apply(Event::StepsChanged { steps: 4 }).unwrap();
    let mut asked = Vec::new();
    fleet.finish_with(|unit, _| {
        if let Unit::WriteRubric { place } = unit {
            asked.push(place);
        }
    });
    assert!(asked.iter().all(|place| !before.contains_key(place)), "{asked:?}");
    assert!(
        before
            .iter()
            .all(|(place, rubric)| written(&fleet.run).get(place) == Some(rubric))
    );
}
