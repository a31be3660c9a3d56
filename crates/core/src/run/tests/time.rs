//! What counts as a run's time: what passes while somebody serves it.

use super::*;

const DAY: u64 = 86_400_000;

/// A run in the middle of its first step, with an open lease on the unit; and the time until the step is committed.
fn in_the_middle() -> (Fleet, Unit) {
    let mut fleet = with(|spec| spec.evaluation = None);
    let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { chunk: 2, .. }));
    (fleet, unit)
}

/// Seconds that the first step took.
fn first_step(mut fleet: Fleet, unit: Unit) -> f64 {
    fleet.complete(unit);
    fleet.work_until(|run| run.committed().0 > 0);
    fleet.run.results().steps[0].record.seconds.wall
}

fn undisturbed() -> f64 {
    let (fleet, unit) = in_the_middle();
    first_step(fleet, unit)
}

#[test]
fn a_time_without_a_coordinator_is_no_part_of_a_step_nor_of_what_is_waited_for() {
    let (mut fleet, unit) = in_the_middle();
    let granted = fleet.run.lease(&unit).unwrap().granted;
    let waited = fleet.now.since(granted);
    fleet.now = fleet.now.plus(DAY);
    fleet.apply(Event::Recovered { away_ms: DAY }).unwrap();
    let lease = fleet.run.lease(&unit).unwrap().clone();
    assert_eq!(fleet.now.since(lease.granted), waited);
    assert_eq!(
        lease.deadline,
        fleet.now.plus(fleet.run.spec().fleet.lease.as_millis() as u64),
        "its worker has a whole term to be heard"
    );
    assert_eq!(fleet.run.waiting_for(fleet.now).since_unix_ms, lease.granted.0);
    assert_eq!(first_step(fleet, unit), undisturbed());
}

#[test]
fn a_time_in_which_a_run_was_stopped_is_no_part_of_a_step() {
    let (mut fleet, unit) = in_the_middle();
    fleet.apply(Event::Cancelled { reason: "lunch".into() }).unwrap();
    assert_eq!(fleet.apply(Event::Recovered { away_ms: 5 }), Err(Refusal::Ended));
    fleet.now = fleet.now.plus(DAY);
    fleet.apply(Event::Resumed).unwrap();
    assert_eq!(fleet.lease(Role::Judge, "w").map(|(unit, _)| unit), Some(unit));
    assert_eq!(first_step(fleet, unit), undisturbed());
}
