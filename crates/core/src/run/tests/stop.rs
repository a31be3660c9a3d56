//! A run pauses itself where its rules say so.

use super::*;
use crate::spec::StopSpec;

fn with_rules(stop: StopSpec, steps: u32) -> Fleet {
    with(|spec| {
        spec.run.steps = steps;
        spec.stop = Some(stop);
        let evaluation = spec.evaluation.as_mut().unwrap();
        evaluation.every = Some(1);
        evaluation.subset = Some(1);
    })
}

/// Works as the driver does, which holds the run as soon as a rule says so; returns the reason.
fn work(fleet: &mut Fleet) -> Option<String> {
    fleet.work_until(|run| run.stop_rule().is_some());
    let reason = fleet.run.stop_rule()?;
    fleet.apply(Event::Paused { reason: reason.clone() }).unwrap();
    assert_eq!(fleet.run.stop_rule(), None, "a run that is held is not held again");
    Some(reason)
}

/// Sets a verdict of each probe: whether the policy wins.
fn rate(run: &mut Run, wins: &[bool]) {
    run.results.probes.clear();
    for (step, won) in (1..).zip(wins) {
        let side = if *won { Side::Second } else { Side::First };
        let verdict = record(0, Verdict::Preferred { side }, run);
        run.results.probes.push(Probe {
            step: Step(step),
            images: vec![None],
            comparisons: vec![Some(verdict)],
        });
    }
}

#[test]
fn a_run_without_rules_never_pauses_itself() {
    let mut fleet = with_rules(StopSpec::default(), 4);
    assert_eq!(work(&mut fleet), None);
    assert_eq!(fleet.run.phase(), Phase::Finished);
}

#[test]
fn a_step_whose_kl_is_too_large_holds_the_run_and_resuming_looks_at_later_steps_alone() {
    // Every made-up step has a KL of 0.25.
    let stop = StopSpec {
        kl_max: Some(0.2),
        ..StopSpec::default()
    };
    let mut fleet = with_rules(stop, 4);
    let reason = work(&mut fleet).unwrap();
    assert!(
        reason.starts_with("`stop.kl_max`: the KL of step 1 is 2.500e-1, more than 2e-1"),
        "{reason}"
    );
    assert!(reason.contains("gavel resume"), "{reason}");
    assert_eq!(fleet.run.committed(), Step(1));
    assert!(matches!(fleet.run.phase(), Phase::Paused { .. }));
    fleet.apply(Event::Resumed).unwrap();
    assert_eq!(fleet.run.stop_rule(), None, "somebody has seen it");
    let reason = work(&mut fleet).unwrap();
    assert!(reason.contains("the KL of step 2"), "{reason}");
    assert!(fleet.replay() == fleet.run);
}

#[test]
fn a_step_in_which_too_little_is_decided_holds_the_run() {
    let all = StopSpec {
        decided_min: Some(1.0),
        ..StopSpec::default()
    };
    let mut fleet = with_rules(all, 4);
    let reason = work(&mut fleet).unwrap();
    let record = &fleet.run.results().steps.last().unwrap().record;
    assert!(record.decided < record.pairs);
    let words = format!(
        "`stop.decided_min`: the judge decided {} of {} in step {}",
        record.decided, record.pairs, record.step
    );
    assert!(reason.starts_with(&words), "{reason}");
    let none = StopSpec {
        decided_min: Some(0.0),
        ..StopSpec::default()
    };
    assert_eq!(work(&mut with_rules(none, 4)), None);
}

#[test]
fn patience_ends_when_the_latest_probes_bring_nothing_better_and_counts_anew_after_resuming() {
    let stop = StopSpec {
        patience: Some(2),
        ..StopSpec::default()
    };
    let mut fleet = with_rules(stop, 9);
    fleet.work_until(|run| run.committed() == Step(6));
    let run = &mut fleet.run;
    for (wins, fires) in [
        (vec![true, false], false),
        (vec![false, false, true], false),
        (vec![true, false, false], true),
        (vec![true, true, true], true),
    ] {
        rate(run, &wins);
        assert_eq!(run.stop_rule().is_some(), fires, "{wins:?}");
    }
    let reason = run.stop_rule().unwrap();
    assert!(
        reason.contains("the latest 2 probes brought no win rate above the 1.000 of step 1"),
        "{reason}"
    );

    // Of what came before somebody resumed nothing counts but the best.
    run.watched_from = Step(3);
    rate(run, &[true, false, false, false]);
    assert_eq!(run.stop_rule(), None);
    rate(run, &[true, false, false, false, false]);
    assert!(run.stop_rule().is_some());

    // One that is not judged to the end says nothing yet, and neither do those behind it.
    rate(run, &[true, false, false, false, false]);
    run.results.probes[3].comparisons[0] = None;
    assert_eq!(run.stop_rule(), None);
}

#[test]
fn the_last_step_holds_nothing_up() {
    let stop = StopSpec {
        kl_max: Some(0.2),
        ..StopSpec::default()
    };
    let mut fleet = with_rules(stop, 1);
    assert_eq!(work(&mut fleet), None);
    assert_eq!(fleet.run.phase(), Phase::Finished);
}

#[test]
fn a_step_whose_pictures_are_alike_holds_the_run() {
    // Every made-up pair differs by an eighth.
    let stop = |least| StopSpec {
        diversity_min: Some(least),
        ..StopSpec::default()
    };
    assert_eq!(work(&mut with_rules(stop(0.125), 2)), None);
    let mut fleet = with_rules(stop(0.2), 2);
    let reason = work(&mut fleet).unwrap();
    assert!(
        reason.starts_with(
            "`stop.diversity_min`: the pictures of a prompt differ by 0.1250 on average in step 1, less than 0.2"
        ),
        "{reason}"
    );
    let record = &fleet.run.results.steps[0].record;
    assert_eq!(record.diversity, Some(0.125));
}
