//! A run that begins with an adapter that was submitted with it.

use super::*;
use crate::work::{Fault, Part, Unusable};

fn start() -> Digest {
    Digest::of(b"initial adapter")
}

fn warm() -> Fleet {
    let mut assets = assets();
    assets.initial_adapter = Some(start());
    Fleet::new(Run::new(RunId("warm".into()), spec(), assets).created(Millis(0)))
}

#[test]
fn policy_0_is_the_submitted_adapter_which_is_kept_to_the_end() {
    let mut fleet = warm();
    let assignment = fleet.run.assignment(&Unit::Initialise).unwrap();
    let inputs: Vec<_> = assignment.inputs().collect();
    assert_eq!(inputs, [(start(), Part::InitialAdapter)]);
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    assert_eq!(fleet.run.results().policies[0].adapter, start());
    assert!(fleet.run.retained().contains(&start()));
}

#[test]
fn another_policy_0_is_refused() {
    let mut fleet = warm();
    let (unit, _) = fleet.lease(Role::Trainer, "w").unwrap();
    let mut event = fleet.completion(unit);
    let Event::Completed {
        outcome: Outcome::Initialised { policy, .. },
        ..
    } = &mut event
    else {
        unreachable!()
    };
    policy.adapter = Digest::of(b"fresh");
    let refused = fleet.apply(event).unwrap_err().to_string();
    assert!(refused.contains("the run starts from"), "{refused}");
}

/// Policy 0 has the same bytes: initialising again cannot bring them back.
#[test]
fn a_submitted_adapter_that_is_lost_stops_the_run_with_the_remedy() {
    for initialised in [false, true] {
        let mut fleet = warm();
        let (unit, fence) = match initialised {
            false => fleet.lease(Role::Trainer, "w").unwrap(),
            true => lease(&mut fleet, |unit| matches!(unit, Unit::Sample { .. })),
        };
        let unusable = Unusable {
            blob: start(),
            fault: Fault::Storage,
        };
        let failed = Event::Failed {
            unit,
            worker: worker(),
            fence,
            reason: "no such blob".into(),
            fatal: false,
            unusable: vec![unusable],
        };
        fleet.apply(failed).unwrap();
        let reason = failed_reason(&fleet.run);
        assert!(reason.contains("--resume"), "{reason}");
    }
}
