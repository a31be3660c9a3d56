//! What people do to a run while it lives.

use super::*;

fn pause(fleet: &mut Fleet) -> Result<(), Refusal> {
    let reason = "lunch".to_owned();
    fleet.apply(Event::Paused { reason }).map(drop)
}

fn change_steps(fleet: &mut Fleet, steps: u32) -> Result<(), Refusal> {
    fleet.apply(Event::StepsChanged { steps }).map(drop)
}

fn roll_back(fleet: &mut Fleet, to: u32) -> Result<(), Refusal> {
    fleet.apply(Event::RolledBack { to: Step(to) }).map(drop)
}

fn of_steps(steps: u32) -> Fleet {
    with(|spec| spec.run.steps = steps)
}

/// A run that was never touched.
fn finished(steps: u32) -> Run {
    let mut fleet = of_steps(steps);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    fleet.run
}

/// The results, without the times.
fn results(run: &Run) -> Results {
    let mut results = run.results().clone();
    for step in &mut results.steps {
        step.record.seconds = StepSeconds::default();
    }
    results
}

fn assert_ends_as(mut fleet: Fleet, steps: u32) {
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(results(&fleet.run), results(&finished(steps)));
    assert!(fleet.replay() == fleet.run, "the ledger replays to another run");
}

#[test]
fn a_paused_run_hands_out_nothing_and_takes_what_is_in_work() {
    let mut fleet = of_steps(2);
    let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { .. }));
    pause(&mut fleet).unwrap();
    assert_eq!(fleet.run.phase().to_string(), "paused (lunch)");
    for role in [Role::Sampler, Role::Judge, Role::Trainer] {
        assert_eq!(fleet.run.next_unit(role), None);
    }
    assert!(matches!(
        fleet.run.waiting_for(fleet.now).cause,
        WaitingFor::Completion { .. }
    ));
    fleet.complete(unit);
    assert!(fleet.run.is_accepted(&unit));
    assert_eq!(fleet.run.waiting_for(fleet.now).cause, WaitingFor::Nothing);
    assert_eq!(pause(&mut fleet), Err(Refusal::Paused));
    fleet.apply(Event::Resumed).unwrap();
    assert_eq!(fleet.apply(Event::Resumed), Err(Refusal::NotStopped));
    assert_ends_as(fleet, 2);
}

#[test]
fn a_time_in_which_a_run_was_paused_is_no_part_of_a_step() {
    let first_step = |pauses: bool| {
        let mut fleet = of_steps(2);
        let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { .. }));
        if pauses {
            pause(&mut fleet).unwrap();
            fleet.now = fleet.now.plus(86_400_000);
            fleet.apply(Event::Resumed).unwrap();
        }
        fleet.complete(unit);
        fleet.work_until(|run| run.committed().0 > 0);
        fleet.run.results().steps[0].record.seconds.wall
    };
    assert_eq!(first_step(true), first_step(false));
}

#[test]
fn a_step_that_is_committed_while_its_run_is_paused_ends_and_the_next_begins_when_it_goes_on() {
    let mut fleet = of_steps(2);
    let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Commit { .. }));
    pause(&mut fleet).unwrap();
    fleet.now = fleet.now.plus(1_000);
    fleet.complete(unit);
    assert_eq!(fleet.run.committed(), Step(1));
    // A coordinator is away for a part of it.
    fleet.now = fleet.now.plus(40_000);
    fleet.apply(Event::Recovered { away_ms: 30_000 }).unwrap();
    fleet.now = fleet.now.plus(50_000);
    fleet.apply(Event::Resumed).unwrap();
    assert_eq!(fleet.run.in_flight().next().unwrap().started, fleet.now);
}

#[test]
fn a_finished_run_that_is_given_more_steps_ends_as_one_that_had_them_from_the_beginning() {
    let mut fleet = of_steps(2);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let before = fleet.run.spec_sha256();
    change_steps(&mut fleet, 4).unwrap();
    assert_eq!(fleet.run.phase(), Phase::Training);
    assert_ne!(fleet.run.spec_sha256(), before);
    assert_eq!(fleet.run.spec_sha256(), finished(4).spec_sha256());
    assert_ends_as(fleet, 4);
}

#[test]
fn a_run_that_is_given_more_or_fewer_steps_on_its_way_ends_as_one_that_had_them_from_the_beginning() {
    for (steps, lag) in [(5, 0), (5, 2), (2, 0), (2, 2), (1, 0)] {
        let mut fleet = with(|spec| {
            spec.run.steps = 3;
            spec.sampling.max_policy_lag = lag;
        });
        fleet.work_until(|run| run.committed().0 == 1);
        change_steps(&mut fleet, steps).unwrap();
        fleet.work_until(|_| false);
        let mut expected = with(|spec| {
            spec.run.steps = steps;
            spec.sampling.max_policy_lag = lag;
        });
        expected.work_until(|_| false);
        assert_eq!(results(&fleet.run), results(&expected.run), "{steps} steps, lag {lag}");
    }
}

#[test]
fn a_commit_that_reckons_with_the_old_number_of_steps_is_done_again() {
    let mut fleet = of_steps(3);
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Commit { .. }));
    change_steps(&mut fleet, 4).unwrap();
    assert!(fleet.run.check_lease(&unit, fence, None).is_err());
    assert_ends_as(fleet, 4);
}

#[test]
fn steps_that_are_none_are_refused() {
    let mut fleet = of_steps(3);
    fleet.work_until(|run| run.committed().0 == 2);
    let before = fleet.run.clone();
    let refusal = change_steps(&mut fleet, 1).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "run.steps: 1 is less than the 2 steps that are committed"
    );
    assert!(
        matches!(change_steps(&mut fleet, u32::MAX), Err(Refusal::InvalidSteps { problem }) if problem.contains("run.steps"))
    );
    assert!(matches!(roll_back(&mut fleet, 2), Err(Refusal::NotCommitted { .. })));
    assert!(fleet.run == before);
}

#[test]
fn a_run_that_is_taken_back_is_paused_there_and_does_the_same_again() {
    let mut fleet = with(|spec| {
        spec.run.steps = 4;
        spec.coordinator.keep_steps = 4;
    });
    fleet.work_until(|_| false);
    let undisturbed = results(&fleet.run);
    roll_back(&mut fleet, 2).unwrap();
    assert_eq!(fleet.run.committed(), Step(2));
    assert_eq!(fleet.run.phase().to_string(), "paused (taken back to step 2, from 4)");
    fleet.apply(Event::Resumed).unwrap();
    fleet.work_until(|_| false);
    assert_eq!(results(&fleet.run), undisturbed);
}

#[test]
fn a_run_that_is_taken_back_can_end_there() {
    let mut fleet = with(|spec| {
        spec.run.steps = 4;
        spec.coordinator.keep_steps = 4;
    });
    fleet.work_until(|_| false);
    roll_back(&mut fleet, 2).unwrap();
    change_steps(&mut fleet, 2).unwrap();
    fleet.apply(Event::Resumed).unwrap();
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(results(&fleet.run), results(&finished(2)));
}

#[test]
fn nothing_goes_back_to_a_step_whose_policy_was_given_away() {
    let mut fleet = with(|spec| {
        spec.run.steps = 6;
        spec.coordinator.keep_steps = 1;
        spec.checkpoints.every = 2;
    });
    fleet.work_until(|run| run.committed().0 == 5);
    assert_eq!(roll_back(&mut fleet, 1), Err(Refusal::NotKept { step: Step(1) }));
    roll_back(&mut fleet, 2).unwrap();
    // What the first steps made was given away before, so that nobody is told to look for it.
    let needed = fleet.run.retained();
    let gone = &fleet.run.results().steps[1];
    assert!(
        gone.shards
            .iter()
            .filter_map(|shard| shard.gradient)
            .all(|blob| !needed.contains(&blob))
    );
    assert!(needed.contains(&fleet.run.policy().unwrap().adapter));
}
