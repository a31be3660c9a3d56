//! Policies are measured while the run goes on.

use super::*;
use crate::run::ProbeStatus;

/// A run of so many steps that measures every second policy on three of its five held-out prompts.
fn probing(steps: u32) -> Fleet {
    with(|spec| {
        spec.run.steps = steps;
        spec.checkpoints.every = 0;
        let evaluation = spec.evaluation.as_mut().unwrap();
        evaluation.every = Some(2);
        evaluation.subset = Some(3);
    })
}

/// Works to the end, with a judge that prefers the probed policies' pictures of so many prompts, by step.
fn finish_with_wins(fleet: &mut Fleet, wins: &[(Option<u32>, u32)]) {
    fleet.finish_with(|unit, outcome| {
        if let (Unit::EvaluateJudge { probe, .. }, Outcome::Judged { verdicts, .. }) = (unit, outcome) {
            let of = |(step, _): &&(Option<u32>, u32)| *step == probe.map(|step| step.0);
            let won = wins.iter().find(of).map_or(0, |(_, won)| *won);
            for record in verdicts {
                let side = if record.prompt_index.0 < won {
                    Side::Second
                } else {
                    Side::First
                };
                record.verdict = Verdict::Preferred { side };
            }
        }
    });
}

fn finished(steps: u32) -> Run {
    let mut fleet = probing(steps);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    fleet.run
}

#[test]
fn every_second_policy_paints_the_first_prompts_and_is_compared_with_the_base() {
    let run = finished(5);
    let results = run.results();
    let steps: Vec<u32> = results.probes.iter().map(|probe| probe.step.0).collect();
    assert_eq!(steps, [2, 4]);
    for probe in &results.probes {
        assert_eq!((probe.images.iter().flatten().count(), probe.comparisons.len()), (3, 3));
        assert!(probe.is_complete());
    }
    assert_ne!(results.probes[0].images, results.probes[1].images);
    // The last policy is measured on all of them, and shown on the same as the others.
    let shown = run.status(Millis(0)).probes;
    let shown: Vec<(u32, u32, u32)> = shown
        .iter()
        .map(|probe| (probe.step.0, probe.painted, probe.compared))
        .collect();
    assert_eq!(shown, [(2, 3, 3), (4, 3, 3), (5, 3, 3)]);
}

#[test]
fn probes_change_no_policy_and_nothing_of_the_evaluation_at_the_end() {
    let with_probes = finished(5);
    let mut without = with(|spec| {
        spec.run.steps = 5;
        spec.checkpoints.every = 0;
    });
    without.work_until(|_| false);
    let (found, expected) = (with_probes.results(), without.run.results());
    assert_eq!(found.policies, expected.policies);
    assert_eq!(found.tuned_images, expected.tuned_images);
    assert_eq!(found.comparisons, expected.comparisons);
    assert_eq!(with_probes.spec_sha256(), without.run.spec_sha256());
    assert!(without.run.status(Millis(0)).probes.is_empty());
    assert_eq!(without.run.best(), None);
    let json = serde_json::to_value(without.run.results()).unwrap();
    assert!(json.get("probes").is_none(), "a run without probes is stored as before");
}

#[test]
fn a_probe_paints_with_the_policy_of_its_step_after_the_training_work() {
    let mut fleet = probing(5);
    let arm = Arm::Probe(Step(2));
    let (unit, _) = lease(&mut fleet, |unit| {
        matches!(unit, Unit::EvaluateSample { arm: Arm::Probe(_), .. })
    });
    assert_eq!(unit, Unit::EvaluateSample { arm, chunk: 0 });
    assert!(fleet.run.committed() >= Step(2));
    let Some(Assignment::EvaluateSample { policy, prompts, .. }) = fleet.run.assignment(&unit) else {
        unreachable!()
    };
    assert_eq!(policy.as_ref(), Some(&fleet.run.results().policies[2]));
    assert_eq!(prompts.len(), 2);
    assert!(
        Unit::Sample {
            step: Step(9),
            chunk: 9
        } < unit
    );
    assert!(
        Unit::EvaluateSample {
            arm: Arm::Base,
            chunk: 9
        } < unit
    );
    assert!(
        unit < Unit::EvaluateSample {
            arm: Arm::Tuned,
            chunk: 0
        }
    );
    assert_eq!(unit.to_string(), "held-out sample chunk 0 of step 2's policy");
}

#[test]
fn the_best_policy_is_kept_and_of_equals_the_earlier_one() {
    let mut fleet = probing(7);
    fleet.run.spec.coordinator.keep_steps = 0;
    finish_with_wins(&mut fleet, &[(Some(2), 1), (Some(4), 2), (Some(6), 2), (None, 1)]);
    assert_eq!(fleet.run.best(), Some(Step(4)));
    let kept: Vec<u32> = (0..8).filter(|version| fleet.run.keeps_policy(*version)).collect();
    assert_eq!(kept, [4, 7]);
    let rates: Vec<f64> = fleet
        .run
        .probes()
        .iter()
        .filter_map(|ProbeStatus { win_rate, .. }| Some(win_rate.as_ref()?.value))
        .collect();
    assert_eq!(rates, [1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 1.0 / 3.0]);
}

#[test]
fn the_last_policy_can_be_the_best() {
    let mut fleet = probing(5);
    finish_with_wins(&mut fleet, &[(Some(2), 1), (Some(4), 2), (None, 3)]);
    assert_eq!(fleet.run.best(), Some(Step(5)));
    assert!(fleet.run.keeps_policy(4), "the run may still be given more steps");
}

#[test]
fn a_run_with_other_steps_has_the_probes_of_one_that_had_them_from_the_beginning() {
    for (before, then) in [(4, 6), (5, 7), (6, 4), (6, 5)] {
        let mut fleet = probing(before);
        let until = before.min(then);
        if then > before {
            fleet.work_until(|_| false);
        } else {
            fleet.work_until(|run| run.committed().0 == until);
        }
        fleet.apply(Event::StepsChanged { steps: then }).unwrap();
        fleet.work_until(|_| false);
        assert_eq!(fleet.run.phase(), Phase::Finished, "{before} to {then}");
        assert_eq!(
            fleet.run.results().probes,
            finished(then).results().probes,
            "{before} to {then}"
        );
        assert!(fleet.replay() == fleet.run);
    }
}

#[test]
fn probes_of_steps_that_are_taken_back_are_taken_again() {
    let mut fleet = probing(5);
    fleet.run.spec.coordinator.keep_steps = 9;
    fleet.work_until(|_| false);
    fleet.apply(Event::RolledBack { to: Step(3) }).unwrap();
    let left: Vec<u32> = fleet.run.results().probes.iter().map(|probe| probe.step.0).collect();
    assert_eq!(left, [2]);
    fleet.apply(Event::Resumed).unwrap();
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.results().probes, finished(5).results().probes);
}

#[test]
fn a_lost_picture_of_a_probe_is_painted_again() {
    let mut fleet = probing(5);
    let (unit, fence) = lease(&mut fleet, |unit| {
        matches!(unit, Unit::EvaluateJudge { probe: Some(_), .. })
    });
    let lost = fleet.run.results().probes[0].images[0].unwrap();
    let failed = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "gone".into(),
        fatal: false,
        unusable: vec![crate::work::Unusable {
            blob: lost,
            fault: crate::work::Fault::Storage,
        }],
    };
    fleet.apply(failed).unwrap();
    let arm = Arm::Probe(Step(2));
    assert!(fleet.run.board.is_ready(&Unit::EvaluateSample { arm, chunk: 0 }));
    assert!(fleet.run.committed() >= Step(2), "no step is taken back for it");
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.results().probes, finished(5).results().probes);
}

#[test]
fn a_result_of_a_probe_that_there_is_not_any_more_is_refused() {
    let mut fleet = probing(6);
    fleet.work_until(|run| run.committed() == Step(4));
    let arm = Arm::Probe(Step(4));
    let unit = Unit::EvaluateSample { arm, chunk: 0 };
    let fence = fleet.run.next_fence();
    let granted = Event::Granted {
        unit,
        worker: worker(),
        fence,
    };
    fleet.apply(granted).unwrap();
    let late = fleet.completion(unit);
    // The run ends there: its last policy is measured as such.
    fleet.apply(Event::StepsChanged { steps: 4 }).unwrap();
    assert_eq!(fleet.apply(late), Err(Refusal::NotLeased { unit, found: fence }));
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.results().probes, finished(4).results().probes);
}

#[test]
fn a_probe_that_is_judged_is_not_judged_again_when_more_of_the_base_is_painted() {
    let mut fleet = with(|spec| {
        spec.run.steps = 3;
        spec.judge.batch = 4;
        let evaluation = spec.evaluation.as_mut().unwrap();
        evaluation.batch = 2;
        evaluation.every = Some(1);
        evaluation.subset = Some(2);
    });
    // Beyond the prompts of a probe, and within the first chunk of judges.
    let (unit, _) = lease(&mut fleet, |unit| {
        matches!(
            unit,
            Unit::EvaluateSample {
                arm: Arm::Base,
                chunk: 1
            }
        )
    });
    fleet.work_until(|run| {
        run.results()
            .probes
            .first()
            .is_some_and(|probe| probe.comparisons.iter().all(Option::is_some))
    });
    fleet.complete(unit);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let mut completed = BTreeMap::new();
    for (event, _) in &fleet.ledger {
        if let Event::Completed { unit, .. } = event {
            *completed.entry(*unit).or_insert(0) += 1;
        }
    }
    assert!(completed.values().all(|count| *count == 1), "{completed:?}");
}
