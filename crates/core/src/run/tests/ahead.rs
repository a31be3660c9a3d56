//! Steps that are sampled ahead of the policy that they train.

use super::*;

fn lagging(lag: u32) -> Fleet {
    with(|spec| spec.sampling.max_policy_lag = lag)
}

/// The policy's version that samples and the one that trains, for each step, as the assignments say.
fn versions(fleet: &mut Fleet) -> Vec<(Step, usize, usize, u32)> {
    let mut seen = Vec::new();
    let version = |run: &Run, policy: &Policy| run.results().policies.iter().position(|known| known == policy).unwrap();
    let mut sampled = std::collections::BTreeMap::new();
    loop {
        fleet.now.0 += 1;
        let roles = [Role::Trainer, Role::Judge, Role::Sampler];
        let Some((unit, _)) = roles.into_iter().find_map(|role| fleet.lease(role, "w")) else {
            return seen;
        };
        match fleet.run.assignment(&unit) {
            Some(Assignment::Sample { step, policy, .. }) => {
                sampled.insert(step, version(&fleet.run, &policy));
            }
            Some(Assignment::Gradient {
                step,
                policy,
                policy_lag,
                ..
            }) => {
                let row = (step, sampled[&step], version(&fleet.run, &policy), policy_lag);
                if !seen.contains(&row) {
                    seen.push(row);
                }
            }
            _ => {}
        }
        fleet.complete(unit);
    }
}

#[test]
fn the_sampling_policy_is_behind_by_the_lag_as_soon_as_there_are_so_many() {
    assert_eq!(
        versions(&mut lagging(0)),
        [(Step(1), 0, 0, 0), (Step(2), 1, 1, 0), (Step(3), 2, 2, 0)]
    );
    assert_eq!(
        versions(&mut lagging(1)),
        [(Step(1), 0, 0, 0), (Step(2), 0, 1, 1), (Step(3), 1, 2, 1)]
    );
    assert_eq!(
        versions(&mut lagging(9)),
        [(Step(1), 0, 0, 0), (Step(2), 0, 1, 1), (Step(3), 0, 2, 2)]
    );
}

#[test]
fn samplers_paint_the_next_step_while_this_one_is_trained_and_its_gradients_wait() {
    let mut fleet = lagging(1);
    let (commit, _) = lease(&mut fleet, |unit| *unit == Unit::Commit { step: Step(1) });
    // The trainer is at the commit of step 1; samplers and judges go through step 2 and stop before step 3.
    loop {
        let roles = [Role::Judge, Role::Sampler];
        let next = |run: &Run| {
            let training = |unit: &Unit| matches!(unit, Unit::Sample { .. } | Unit::Judge { .. });
            roles
                .into_iter()
                .find(|role| run.next_unit(*role).is_some_and(|unit| training(&unit)))
        };
        let Some(role) = next(&fleet.run) else { break };
        let (unit, _) = fleet.lease(role, "w").unwrap();
        fleet.complete(unit);
    }
    let ahead = fleet.run.in_flight().nth(1).unwrap();
    assert_eq!((ahead.step, ahead.sampled, ahead.judged), (Step(2), 7, 7));
    assert_eq!(fleet.run.in_flight().count(), 2);
    assert_eq!(fleet.run.next_unit(Role::Trainer), None);
    fleet.complete(commit);
    assert!(matches!(
        fleet.run.next_unit(Role::Trainer),
        Some(Unit::Gradient { step: Step(2), .. })
    ));
    assert!(matches!(
        fleet.run.next_unit(Role::Sampler),
        Some(Unit::Sample {
            step: Step(3),
            chunk: 0
        })
    ));
}
