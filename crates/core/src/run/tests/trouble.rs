//! Units that end their workers, and units that wait for something outside of the fleet.

use super::*;

/// Loses the lease on the trainers' next unit `times` times, one after the other.
fn lose_leases(fleet: &mut Fleet, times: u32) -> Unit {
    let mut lost = None;
    for _ in 0..times {
        let (unit, fence) = fleet.lease(Role::Trainer, "w").unwrap();
        fleet.apply(Event::Expired { unit, fence }).unwrap();
        lost = Some(unit);
    }
    lost.unwrap()
}

#[test]
fn a_unit_whose_workers_die_in_a_row_rests_ever_longer() {
    let mut fleet = fleet();
    let next = |fleet: &Fleet, after| fleet.run.next_unit_at(Role::Trainer, fleet.now.plus(after));
    let unit = lose_leases(&mut fleet, 1);
    assert_eq!(next(&fleet, 0), Some(unit), "once is an accident");
    for rest in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        lose_leases(&mut fleet, 1);
        assert_eq!(next(&fleet, rest - 1), None);
        assert_eq!(next(&fleet, rest), Some(unit));
        assert_eq!(fleet.run.next_unit(Role::Trainer), Some(unit));
    }
}

#[test]
fn a_unit_whose_workers_die_in_a_row_is_hopeless_and_resuming_gives_it_another_chance() {
    let mut fleet = with(|spec| spec.limits.lost_leases = 4);
    let unit = lose_leases(&mut fleet, 3);
    assert_eq!(fleet.run.hopeless(&unit), None);
    lose_leases(&mut fleet, 1);
    let reason = fleet.run.hopeless(&unit).unwrap();
    assert!(
        !fleet.run.phase().is_ended(),
        "to give it up is the coordinator's event"
    );
    fleet.apply(Event::GivenUp { unit, reason }).unwrap();
    let reason = failed_reason(&fleet.run);
    assert!(
        reason.contains(&unit.to_string()) && reason.contains("4 workers in a row"),
        "{reason}"
    );

    fleet.apply(Event::Resumed).unwrap();
    assert_eq!(fleet.run.hopeless(&unit), None);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
}

#[test]
fn deaths_count_in_a_row_only() {
    let mut fleet = with(|spec| spec.limits.lost_leases = 4);
    let unit = lose_leases(&mut fleet, 3);
    let (_, fence) = fleet.lease(Role::Trainer, "w").unwrap();
    let failed = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "out of memory".into(),
        fatal: false,
        unusable: vec![],
    };
    fleet.apply(failed).unwrap();
    lose_leases(&mut fleet, 3);
    assert_eq!(fleet.run.hopeless(&unit), None, "a worker lived to tell of its failure");
    let (unit, _) = fleet.lease(Role::Trainer, "w").unwrap();
    fleet.complete(unit);
    assert_eq!(fleet.run.hopeless(&unit), None);
}

#[test]
fn a_unit_that_is_given_back_for_want_of_something_costs_no_attempt_and_says_so() {
    let mut fleet = with(|spec| spec.evaluation = None);
    for _ in 0..2 * fleet.run.spec().limits.attempts {
        let (unit, fence) = fleet.lease(Role::Trainer, "w").unwrap();
        let returned = Event::Released {
            unit,
            worker: worker(),
            fence,
            reason: Some("the store is read-only".into()),
        };
        fleet.apply(returned).unwrap();
    }
    let text = fleet.run.waiting_for(fleet.now.plus(100_000)).text;
    assert!(
        text.contains(&format!(
            "given back 6 times, the last: {}: the store is read-only",
            worker()
        )),
        "{text}"
    );
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
}
