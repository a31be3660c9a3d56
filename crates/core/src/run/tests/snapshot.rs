//! A lean run, and the snapshots of its state.

use proptest::prelude::*;

use super::super::fixtures::{assets, questioned, run_of, spec, watched};
use super::fleet::Fleet;
use super::*;
use crate::run::{Commit, Commits, Series, Snapshot};
use crate::spec::{OrdersRule, StopSpec};
use crate::work::{Fault, Role, Unusable};

/// A lean run of six steps that keeps one of them, samples ahead by `lag`, and probes as often as `every` says. Where there is a `window`, its judge
/// earns trust over so many steps.
fn lean(lag: u32, every: Option<u32>, window: Option<u32>) -> Run {
    let mut spec = spec();
    spec.run.steps = 6;
    spec.coordinator.keep_steps = 1;
    spec.sampling.max_policy_lag = lag;
    spec.limits.attempts = 1_000_000;
    if window.is_some() {
        spec.judge.orders = OrdersRule::Adaptive;
        (spec.judge.orders_trust, spec.judge.orders_window) = (Some(0.2), window);
    }
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

/// Whether a lean run has what the same run has with its whole history, but for what it leaves to its ledger, which are `commits`.
fn agrees(lean: &Run, commits: &[Commit], whole: &Run) -> bool {
    let (found, expected) = (lean.results(), whole.results());
    let rest = |results: &Results| Results {
        steps: Series::default(),
        policies: Series::default(),
        ..results.clone()
    };
    let mut steps = found.steps.numbered();
    let mut policies = found.policies.numbered();
    let mut all = whole
        .results()
        .steps
        .iter()
        .map(|step| whole.commit_of(step.record.step));
    (found.steps.len(), found.policies.len()) == (expected.steps.len(), expected.policies.len())
        && steps.all(|(index, step)| step.record == expected.steps[index].record)
        && policies.all(|(version, policy)| *policy == expected.policies[version])
        && all.by_ref().eq(commits.iter().cloned().map(Some))
        && rest(found) == rest(expected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_that_begins_at_a_snapshot_is_the_run_at_every_later_event(
        lag in 0..3_u32,
        every in prop::option::of(1..3_u32),
        window in prop::option::of(1..4_u32),
        at in any::<prop::sample::Index>(),
        moves in prop::collection::vec((any::<u8>(), any::<usize>()), 0..300),
        back_to in prop::option::of(0..6_u32),
    ) {
        let begun = lean(lag, every, window);
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
        let mut commits = Commits::default();
        for (event, now) in before {
            commits.apply(&mut run, event.clone(), *now).unwrap();
            whole.apply(event.clone(), *now).unwrap();
        }
        let mut from_snapshot = restored(&run);
        prop_assert!(are_one(&from_snapshot, &run));
        let mut kept = commits.clone();
        for (event, now) in after {
            commits.apply(&mut run, event.clone(), *now).unwrap();
            whole.apply(event.clone(), *now).unwrap();
            kept.apply(&mut from_snapshot, event.clone(), *now).unwrap();
            prop_assert_eq!(from_snapshot.snapshot(), run.snapshot());
        }
        prop_assert!(are_one(&from_snapshot, &run));

        prop_assert!(agrees(&run, &commits.into_vec(), &whole), "{:?} {:?}", run.results(), whole.results());
        prop_assert_eq!((whole.phase(), whole.retained()), (run.phase(), run.retained()));
    }
}

/// Schedule 2466 of the simulation: a lean run of which a probe's adapter was lost went back to a step whose initial policy it had let
/// go, and waited for a sampler for ever.
#[test]
fn a_lean_run_that_goes_back_to_its_first_step_knows_the_policy_that_it_samples_from() {
    let mut fleet = Fleet::new(lean(0, Some(1), None));
    fleet.work_until(|run| run.committed() == Step(5));
    assert!(fleet.run.commits_from() > Step(1));
    assert!(!fleet.run.keeps_policy(0), "its blobs are given away");
    assert!(fleet.run.results().policies.get(0).is_some(), "nobody can recall it");
}

#[test]
fn a_lean_run_keeps_its_latest_steps_alone() {
    let mut fleet = Fleet::new(lean(0, None, None));
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
    assert_eq!((run.commits_from(), run.results().steps.len()), (Step(4), 5));
    let committed = |step| run.is_accepted(&Unit::Commit { step: Step(step) });
    assert_eq!((committed(3), committed(4)), (false, true));
    // Policy 0 is named as long as the run, policy 2 is a checkpoint, policy 3 has just been released, and the later ones are what the
    // run goes on with.
    let policies = run.results().policies.numbered().map(|(version, _)| version);
    assert_eq!(policies.collect::<Vec<_>>(), [0, 2, 3, 4, 5]);
}

#[test]
fn a_lean_run_keeps_the_figures_that_a_rule_counts_together() {
    let mut spec = spec();
    spec.run.steps = 12;
    spec.coordinator.keep_steps = 1;
    spec.stop = Some(StopSpec {
        agreement_min: Some(0.5),
        agreement_steps: Some(5),
        ..StopSpec::default()
    });
    let mut fleet = Fleet::new(run_of(spec).lean());
    fleet.work_until(|run| run.committed() == Step(11));
    assert_eq!(fleet.run.commits_from(), Step(7));
}

/// A lean run of thirty steps, its commits, and the same run with its whole history, when 25 are committed.
fn long() -> (Fleet, Run) {
    let mut spec = spec();
    spec.run.steps = 30;
    spec.coordinator.keep_steps = 1;
    spec.checkpoints.every = 10;
    let mut whole = run_of(spec.clone());
    let mut fleet = Fleet::new(run_of(spec).lean());
    fleet.work_until(|run| run.committed() == Step(25));
    for (event, now) in &fleet.ledger {
        whole.apply(event.clone(), *now).unwrap();
    }
    (fleet, whole)
}

#[test]
fn a_step_far_back_is_taken_back_to_with_what_the_ledger_has() {
    let (mut fleet, mut whole) = long();
    let back = Event::RolledBack { to: Step(10) };
    assert!(fleet.run.needs_past(&back));
    assert_eq!(
        fleet.run.clone().apply(back.clone(), fleet.now),
        Err(Refusal::NeedsPast)
    );
    let before = fleet.run.clone();
    assert_eq!(
        fleet.run.apply_with_past(back.clone(), Vec::new(), fleet.now),
        Err(Refusal::NeedsPast)
    );
    let gone = Event::RolledBack { to: Step(11) };
    assert_eq!(fleet.apply(gone), Err(Refusal::NotKept { step: Step(11) }));
    assert!(
        fleet.run == before,
        "a refused event changes nothing, also with the past"
    );

    fleet.apply(back.clone()).unwrap();
    whole.apply(back, fleet.now).unwrap();
    assert_eq!(fleet.run.committed(), Step(10));
    assert_eq!(
        fleet.run.commits_from(),
        Step(10),
        "the past is left to the ledger again"
    );
    assert_eq!(fleet.run.commit_of(Step(10)), whole.commit_of(Step(10)));
    assert_eq!(fleet.run.policy(), whole.policy());
    fleet.apply(Event::Resumed).unwrap();
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
}

#[test]
fn a_policy_that_is_lost_with_those_before_it_is_made_again_from_the_last_that_is_whole() {
    let (mut fleet, mut whole) = long();
    let begun = fleet.ledger.len();
    // Whoever reads a policy finds none, until the run is at its checkpoint again.
    while fleet.run.committed() > Step(20) {
        let (unit, fence) = fleet.lease(Role::Sampler, "w").unwrap();
        let adapter = fleet.run.policy().unwrap().adapter;
        fleet
            .apply(Event::Failed {
                unit,
                worker: WorkerId("w".into()),
                fence,
                reason: "gone".into(),
                fatal: false,
                unusable: vec![Unusable {
                    blob: adapter,
                    fault: Fault::Storage,
                }],
            })
            .unwrap();
    }
    let stranger = Event::Failed {
        unit: Unit::EvaluateSample {
            arm: Arm::Tuned,
            chunk: 1_000_000,
        },
        worker: WorkerId("stranger".into()),
        fence: Fence(1),
        reason: "gone".into(),
        fatal: false,
        unusable: vec![Unusable {
            blob: Digest([7; 32]),
            fault: Fault::Storage,
        }],
    };
    assert!(
        !fleet.run.needs_past(&stranger),
        "whoever holds nothing takes nothing back"
    );
    fleet.work_until(|_| false);
    for (event, now) in &fleet.ledger[begun..] {
        whole.apply(event.clone(), *now).unwrap();
    }
    assert!(agrees(&fleet.run, &fleet.commits.clone().into_vec(), &whole));
    assert_eq!((fleet.run.phase(), whole.phase()), (Phase::Finished, Phase::Finished));
}

#[test]
fn a_run_with_its_whole_history_has_no_snapshot() {
    assert_eq!(run_of(spec()).snapshot(), None);
}

#[test]
fn a_snapshot_is_as_large_after_many_steps_as_after_few() {
    let size = |steps: u32| {
        let mut spec = spec();
        spec.run.steps = 500;
        spec.checkpoints.every = 0;
        let mut fleet = Fleet::new(run_of(spec).lean());
        fleet.work_until(|run| run.committed() == Step(steps));
        serde_json::to_string(&fleet.run.snapshot().unwrap()).unwrap().len()
    };
    let (early, late) = (size(40), size(400));
    // Numbers have a digit more.
    assert!(late < early + early / 20, "{early} bytes, then {late}");
}

#[test]
fn a_snapshot_of_another_run_is_refused() {
    let snapshot = lean(0, None, None).snapshot().unwrap();
    let mut other = assets();
    other.held_out.pop();
    let error = Run::restore(RunId("small".into()), spec(), other, Millis(0), snapshot).unwrap_err();
    assert!(error.to_string().contains("held-out prompts"), "{error}");
}

/// Whoever has to change the text below changes what a snapshot is: raise [`SNAPSHOT_VERSION`](crate::run::SNAPSHOT_VERSION), and
/// with it the version here. Otherwise a coordinator of the new version takes up snapshots of the old one.
#[test]
fn a_snapshot_has_the_shape_of_its_version() {
    assert_eq!(crate::run::SNAPSHOT_VERSION, 7);
    let mut spec = spec();
    spec.run.steps = 6;
    spec.prompts.per_step = 2;
    spec.judge.batch = 1;
    spec.trainer.shard = 1;
    spec.coordinator.keep_steps = 0;
    spec.sampling.max_policy_lag = 1;
    spec.evaluation.as_mut().unwrap().every = Some(1);
    let mut fleet = Fleet::new(questioned(&watched(spec, 0.5)).lean());
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
