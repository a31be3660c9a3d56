//! Questions about single held-out pictures.

use std::collections::BTreeMap;

use super::super::fixtures::questioned;
use super::*;
use crate::ids::PromptIndex;
use crate::work::{Fault, Part, PictureAnswer, Unusable};

/// A run of 0 steps that asks about two of its five held-out prompts.
fn asking() -> Fleet {
    let mut spec = spec();
    spec.run.steps = 0;
    Fleet::new(questioned(&run_of(spec)))
}

fn about(arm: Arm, index: u32) -> Unit {
    Unit::AnswerQuestions {
        arm,
        prompt_index: PromptIndex(index),
    }
}

fn is_question(unit: &Unit) -> bool {
    matches!(unit, Unit::AnswerQuestions { .. })
}

/// How often each unit of questions was accepted.
fn answered(fleet: &Fleet) -> BTreeMap<Unit, u32> {
    let mut answered = BTreeMap::new();
    for (event, _) in &fleet.ledger {
        if let Event::Completed { unit, .. } = event
            && is_question(unit)
        {
            *answered.entry(*unit).or_default() += 1;
        }
    }
    answered
}

#[test]
fn each_picture_is_asked_about_once_and_the_run_waits_for_the_answers() {
    let mut fleet = asking();
    let (unit, _) = lease(&mut fleet, is_question);
    let Some(Assignment::AnswerQuestions {
        prompt_index,
        task,
        image,
        questions,
    }) = fleet.run.assignment(&unit)
    else {
        panic!("{unit} asks")
    };
    assert_eq!((unit, prompt_index), (about(Arm::Base, 0), PromptIndex(0)));
    assert_eq!(task, fleet.run.assets().held_out[0]);
    assert_eq!(Some(image), fleet.run.results().base_images[0]);
    assert_eq!(questions, ["Is it red?", "Is it round?"]);
    fleet.complete(unit);
    let status = fleet.run.status(fleet.now).evaluation.unwrap().questions.unwrap();
    assert_eq!((status.asked, status.total), (2, 6));

    // Everything else is done while somebody is at the last picture.
    let (last, _) = lease(&mut fleet, |unit| *unit == about(Arm::Tuned, 2));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::EvaluatingTuned);
    assert_eq!(fleet.complete(last), [Effect::Ended]);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let expected = [Arm::Base, Arm::Tuned].map(|arm| [0, 2].map(|index| (about(arm, index), 1)));
    assert_eq!(answered(&fleet), expected.into_iter().flatten().collect());
    let results = fleet.run.results();
    for arm in [Arm::Base, Arm::Tuned] {
        let counts: Vec<Option<usize>> = results
            .answers(arm)
            .iter()
            .map(|answers| answers.as_ref().map(Vec::len))
            .collect();
        assert_eq!(counts, [Some(2), None, Some(1), None, None], "{arm:?}");
    }
    let status = fleet.run.status(fleet.now).evaluation.unwrap().questions.unwrap();
    assert_eq!((status.asked, status.total), (6, 6));
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn a_run_that_asks_nothing_is_written_as_it_ever_was() {
    let written = serde_json::to_string(&assets()).unwrap();
    assert!(!written.contains("question"), "{written}");
    let mut fleet = fleet();
    fleet.work_until(|_| false);
    assert!(answered(&fleet).is_empty());
    let status = serde_json::to_string(&fleet.run.status(fleet.now)).unwrap();
    assert!(!status.contains("question"), "{status}");
    let results = serde_json::to_string(fleet.run.results()).unwrap();
    assert!(!results.contains("answers"), "{results}");
}

#[test]
fn a_picture_about_which_nobody_can_be_asked_has_that_for_an_answer() {
    let mut fleet = asking();
    for _ in 0..fleet.run.spec().limits.attempts {
        let (unit, fence) = lease(&mut fleet, |unit| *unit == about(Arm::Base, 0));
        let failed = Event::Failed {
            unit,
            worker: worker(),
            fence,
            reason: "the key is refused".into(),
            fatal: false,
            unusable: vec![],
        };
        fleet.apply(failed).unwrap();
    }
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let unanswered = PictureAnswer::Unanswered {
        reason: "the key is refused".into(),
    };
    assert_eq!(fleet.run.results().base_answers[0], Some(vec![unanswered; 2]));
    let status = fleet.run.status(fleet.now).evaluation.unwrap().questions.unwrap();
    assert_eq!(status.asked, 6);
    assert!(status.unanswered >= 2);
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn another_number_of_answers_is_refused() {
    let mut fleet = asking();
    let (unit, fence) = lease(&mut fleet, is_question);
    for count in [0, 1, 3] {
        let refused = fleet.apply(Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome: Outcome::QuestionsAnswered {
                answers: vec![PictureAnswer::Yes; count],
                model: Digest::of(b"judge"),
                spent: None,
                seconds: 0.0,
            },
        });
        let expected = format!("{count} answers to 2 questions");
        assert!(
            matches!(&refused, Err(Refusal::InvalidOutcome { problem, .. }) if *problem == expected),
            "{refused:?}"
        );
    }
}

#[test]
fn a_lost_picture_is_painted_again_before_it_is_asked_about() {
    let mut fleet = asking();
    // Both pictures of this chunk are answered about but for one, which is gone.
    let (unit, fence) = lease(&mut fleet, |unit| *unit == about(Arm::Tuned, 0));
    let assignment = fleet.run.assignment(&unit).unwrap();
    let (blob, _) = assignment
        .inputs()
        .find(|(_, part)| matches!(part, Part::Image { .. }))
        .unwrap();
    let failed = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "no such blob".into(),
        fatal: false,
        unusable: vec![Unusable {
            blob,
            fault: Fault::Storage,
        }],
    };
    fleet.apply(failed).unwrap();
    assert!(!fleet.run.board.is_ready(&unit));
    assert_eq!(fleet.run.assignment(&unit), None);
    let paints = Unit::EvaluateSample {
        arm: Arm::Tuned,
        chunk: 0,
    };
    let (again, _) = lease(&mut fleet, |unit| *unit == paints);
    fleet.complete(again);
    assert_eq!(fleet.run.assignment(&unit).as_ref(), Some(&assignment));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let mut undisturbed = asking();
    undisturbed.work_until(|_| false);
    assert_eq!(
        fleet.run.results().tuned_answers,
        undisturbed.run.results().tuned_answers
    );
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn answers_about_the_base_stay_when_a_run_is_given_steps() {
    let mut fleet = asking();
    fleet.work_until(|_| false);
    let before = fleet.run.results().clone();
    fleet.apply(Event::StepsChanged { steps: 2 }).unwrap();
    assert!(fleet.run.results().tuned_answers.iter().all(Option::is_none));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(fleet.run.results().base_answers, before.base_answers);
    assert_eq!(answered(&fleet)[&about(Arm::Tuned, 2)], 2);
    assert_eq!(answered(&fleet)[&about(Arm::Base, 2)], 1);
}

#[test]
fn a_run_goes_on_from_a_snapshot_between_two_answers() {
    let mut spec = spec();
    spec.run.steps = 0;
    let mut fleet = Fleet::new(questioned(&run_of(spec)).lean());
    let (unit, _) = lease(&mut fleet, |unit| *unit == about(Arm::Base, 2));
    fleet.complete(unit);
    let snapshot = fleet.run.snapshot().unwrap();
    let text = serde_json::to_string(&snapshot).unwrap();
    let (id, spec) = (fleet.run.id().clone(), fleet.run.spec().clone());
    let restored = Run::restore(
        id,
        spec,
        fleet.run.assets().clone(),
        Millis(0),
        serde_json::from_str(&text).unwrap(),
    );
    assert!(restored.unwrap() == fleet.run);
    let other = Run::restore(
        fleet.run.id().clone(),
        fleet.run.spec().clone(),
        assets(),
        Millis(0),
        snapshot,
    );
    assert!(other.unwrap_err().to_string().contains("answers"));
}
