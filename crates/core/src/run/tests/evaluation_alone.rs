//! A run of 0 steps: it evaluates the policy that it begins with.

use super::*;
use crate::work::{Fault, Part, Unusable};

fn evaluating() -> Fleet {
    with(|spec| spec.run.steps = 0)
}

#[test]
fn the_first_policy_is_the_tuned_one_and_nothing_is_trained() {
    let mut fleet = evaluating();
    assert_eq!(fleet.run.phase(), Phase::Preparing);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let results = fleet.run.results();
    assert_eq!((results.policies.len(), results.steps.len()), (1, 0));
    assert!(results.tuned_images.iter().all(Option::is_some));
    assert!(results.comparisons.iter().all(Option::is_some));
    let worked = fleet.ledger.iter().filter_map(|(event, _)| match event {
        Event::Completed { unit, .. } => Some(unit),
        _ => None,
    });
    assert!(worked.into_iter().all(|unit| unit.step().is_none()));
}

#[test]
fn a_run_that_waits_for_its_first_policy_is_neither_trained_nor_finished() {
    let mut fleet = evaluating();
    // The base's pictures and the labelled pairs need no policy.
    while let Some((unit, _)) = fleet
        .lease(Role::Sampler, "s")
        .or_else(|| fleet.lease(Role::Judge, "j"))
    {
        fleet.complete(unit);
    }
    assert_eq!(fleet.run.phase(), Phase::Preparing);
}

/// The policy is made again, and what it painted with it.
#[test]
fn a_first_policy_that_is_lost_is_made_again_and_measured_to_the_end() {
    let mut fleet = evaluating();
    let tuned = |unit: &Unit| {
        matches!(
            unit,
            Unit::EvaluateSample {
                arm: Arm::Tuned,
                chunk: 1
            }
        )
    };
    let (unit, fence) = lease(&mut fleet, tuned);
    let assignment = fleet.run.assignment(&unit).unwrap();
    let (blob, _) = assignment.inputs().find(|(_, part)| *part == Part::Adapter).unwrap();
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
    assert_eq!(fleet.run.phase(), Phase::Preparing);
    assert!(fleet.run.results().tuned_images.iter().all(Option::is_none));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
}

#[test]
fn it_may_be_given_steps_and_is_measured_anew_at_its_end() {
    let mut fleet = evaluating();
    fleet.work_until(|_| false);
    fleet.apply(Event::StepsChanged { steps: 2 }).unwrap();
    assert_eq!(fleet.run.phase(), Phase::Training);
    assert!(fleet.run.results().tuned_images.iter().all(Option::is_none));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(fleet.run.committed(), Step(2));
    let back = fleet.apply(Event::StepsChanged { steps: 0 }).unwrap_err();
    assert!(matches!(back, Refusal::StepsCommitted { .. }), "{back}");
}

#[test]
fn without_an_evaluation_there_is_nothing_to_do() {
    let mut spec = spec();
    (spec.run.steps, spec.evaluation) = (0, None);
    let told = spec.check_steps().unwrap_err().to_string();
    assert_eq!(
        told,
        "run.steps: is 0, and there is no `[evaluation]` section: the run would do nothing"
    );
    let mut fleet = with(|spec| spec.evaluation = None);
    let told = fleet.apply(Event::StepsChanged { steps: 0 }).unwrap_err();
    assert!(matches!(told, Refusal::InvalidSteps { .. }), "{told}");
}
