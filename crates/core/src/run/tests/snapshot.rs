//! A lean run, and the snapshots of its state.

use proptest::prelude::*;

use super::super::fixtures::watched;
use super::super::fixtures::{assets, run_of, spec};
use super::fleet::Fleet;
use super::*;
use crate::run::Snapshot;

/// A lean run of six steps that keeps one of them, samples ahead by `lag`, and probes as often as `every` says.
fn lean(lag: u32, every: Option<u32>) -> Run {
    let mut spec = spec();
    spec.run.steps = 6;
    spec.coordinator.keep_steps = 1;
    spec.sampling.max_policy_lag = lag;
    spec.limits.attempts = 1_000_000;
    let evaluation = spec.evaluation.as_mut().unwrap();
    evaluation.every = every;
    evaluation.subset = every.map(|_| 3);
    run_of(spec).lean()
}

/// The run that its snapshot gives when it comes back from where it was written to.
fn restored(run: &Run) -> Run {
    let text = serde_json::to_string(&run.snapshot().unwrap()).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    // As it was submitted: events may have changed how many steps it has.
    let mut spec = run.spec().clone();
    spec.run.steps = 6;
    Run::restore(run.id().clone(), spec, assets(), Millis(0), snapshot).unwrap()
}

/// Whether two runs are one but for the deadlines of their leases, which a takeover sets anew. A run that has ended has none.
fn are_one(one: &Run, other: &Run) -> bool {
    let taken_over = |run: &Run| {
        let mut run = run.clone();
        let _ = run.apply(Event::Recovered { away_ms: 0 }, Millis(1 << 40));
        run
    };
    taken_over(one) == taken_over(other)
}

/// The run without what a lean one leaves to its ledger.
fn figures(run: &Run) -> (Vec<StepRecord>, Results) {
    let records = run.results().steps.iter().map(|step| step.record.clone()).collect();
    let rest = Results {
        steps: Vec::new(),
        ..run.results().clone()
    };
    (records, rest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_that_begins_at_a_snapshot_is_the_run_at_every_later_event(
        lag in 0..3_u32,
        every in prop::option::of(1..3_u32),
        at in any::<prop::sample::Index>(),
        moves in prop::collection::vec((any::<u8>(), any::<usize>()), 0..300),
        back_to in prop::option::of(0..6_u32),
    ) {
        let begun = lean(lag, every);
        let mut fleet = Fleet::new(begun.clone());
        for (choice, pick) in moves {
            fleet.act(choice, pick);
        }
        if let Some(step) = back_to
            && fleet.apply(Event::RolledBack { to: Step(step) }).is_ok()
        {
            fleet.apply(Event::Resumed).unwrap();
        }
        fleet.work_until(|_| false);

        let taken_at = at.index(fleet.ledger.len() + 1);
        let (before, after) = fleet.ledger.split_at(taken_at);
        let (mut whole, mut run) = (run_of(begun.spec().clone()), begun);
        for (event, now) in before {
            run.apply(event.clone(), *now).unwrap();
            whole.apply(event.clone(), *now).unwrap();
        }
        let mut from_snapshot = restored(&run);
        prop_assert!(are_one(&from_snapshot, &run));
        for (event, now) in after {
            run.apply(event.clone(), *now).unwrap();
            whole.apply(event.clone(), *now).unwrap();
            from_snapshot.apply(event.clone(), *now).unwrap();
            prop_assert_eq!(from_snapshot.snapshot(), run.snapshot());
        }
        prop_assert!(are_one(&from_snapshot, &run));

        prop_assert_eq!(figures(&whole), figures(&run));
        prop_assert_eq!((whole.phase(), whole.retained()), (run.phase(), run.retained()));
    }
}

#[test]
fn a_lean_run_keeps_the_details_of_its_latest_steps_alone() {
    let mut fleet = Fleet::new(lean(0, None));
    fleet.work_until(|run| run.committed() == Step(5));
    let run = &fleet.run;
    // One step is kept by rule, and one more has just been released.
    assert_eq!(run.details_from(), Step(4));
    let with_details = run.results().steps.iter().filter(|step| !step.groups.is_empty());
    assert_eq!(
        with_details.map(|step| step.record.step).collect::<Vec<_>>(),
        [Step(4), Step(5)]
    );
    let accepted = |step| {
        run.is_accepted(&Unit::Sample {
            step: Step(step),
            chunk: 0,
        })
    };
    assert_eq!((accepted(3), accepted(4)), (false, true));
    assert!(run.is_accepted(&Unit::Commit { step: Step(1) }));
}

#[test]
fn a_run_with_its_whole_history_has_no_snapshot() {
    assert_eq!(run_of(spec()).snapshot(), None);
}

#[test]
fn a_snapshot_grows_by_four_hundred_bytes_a_step() {
    let size = |steps: u32| {
        let mut spec = spec();
        spec.run.steps = 200;
        spec.checkpoints.every = 0;
        let mut fleet = Fleet::new(run_of(spec).lean());
        fleet.work_until(|run| run.committed() == Step(steps));
        serde_json::to_string(&fleet.run.snapshot().unwrap()).unwrap().len()
    };
    let (early, late) = (size(20), size(120));
    assert!((late - early) / 100 <= 400, "{} bytes a step", (late - early) / 100);
}

#[test]
fn a_snapshot_of_another_run_is_refused() {
    let snapshot = lean(0, None).snapshot().unwrap();
    let mut other = assets();
    other.held_out.pop();
    let error = Run::restore(RunId("small".into()), spec(), other, Millis(0), snapshot).unwrap_err();
    assert!(error.to_string().contains("held-out prompts"), "{error}");
}

/// Whoever has to change the text below changes what a snapshot is: raise [`SNAPSHOT_VERSION`](crate::run::SNAPSHOT_VERSION), and
/// with it the version here. Otherwise a coordinator of the new version takes up snapshots of the old one.
#[test]
fn a_snapshot_has_the_shape_of_its_version() {
    assert_eq!(crate::run::SNAPSHOT_VERSION, 2);
    let mut spec = spec();
    spec.run.steps = 6;
    spec.prompts.per_step = 2;
    spec.judge.batch = 1;
    spec.trainer.shard = 1;
    spec.coordinator.keep_steps = 0;
    spec.sampling.max_policy_lag = 1;
    spec.evaluation.as_mut().unwrap().every = Some(1);
    let mut fleet = Fleet::new(watched(spec, 0.5).lean());
    fleet.work_until(|run| run.committed() == Step(2));
    let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { .. }));
    drop(fleet.apply(Event::Expired {
        unit,
        fence: fleet.run.lease(&unit).unwrap().fence,
    }));
    lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { .. }));
    fleet
        .apply(Event::Quarantined {
            worker: WorkerId("liar".into()),
            reason: "it lied".into(),
        })
        .unwrap();
    fleet.apply(Event::Paused { reason: "lunch".into() }).unwrap();
    insta::assert_json_snapshot!(fleet.run.snapshot().unwrap());
}
