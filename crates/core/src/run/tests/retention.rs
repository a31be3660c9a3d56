//! Nothing that is still needed is given away, and what is given away is no longer needed.

use std::collections::BTreeSet;

use super::*;

fn inputs(assignment: &Assignment) -> Vec<Digest> {
    let policy = |policy: &Policy| vec![policy.adapter, policy.optimizer];
    match assignment {
        Assignment::Initialise => vec![],
        Assignment::Sample { policy: used, .. } => policy(used),
        Assignment::EvaluateSample { policy: used, .. } => used.iter().flat_map(policy).collect(),
        Assignment::Judge { pairs } => pairs.iter().flat_map(|pair| [pair.first, pair.second]).collect(),
        Assignment::Gradient {
            groups, policy: used, ..
        } => {
            let candidates = groups.iter().flat_map(|group| &group.candidates);
            candidates
                .map(|candidate| candidate.trajectory)
                .chain(policy(used))
                .collect()
        }
        Assignment::Commit {
            gradients,
            policy: used,
            ..
        } => gradients.iter().copied().chain(policy(used)).collect(),
    }
}

fn outputs(outcome: &Outcome) -> Vec<Digest> {
    match outcome {
        Outcome::Initialised { policy, .. } | Outcome::Committed { policy, .. } => [policy.adapter, policy.optimizer]
            .into_iter()
            .chain(policy.averaged)
            .collect(),
        Outcome::Sampled { samples, .. } => {
            let images = samples.iter().map(|sampled| sampled.image);
            images
                .chain(samples.iter().filter_map(|sampled| sampled.trajectory))
                .collect()
        }
        Outcome::Judged { .. } => vec![],
        Outcome::Gradient { gradient, .. } => gradient.iter().copied().collect(),
    }
}

/// Goes through a run as a store would that deletes what each commit releases; returns what is left.
fn collected(fleet: &mut Fleet) -> BTreeSet<Digest> {
    let labelled = fleet.run.assets().labelled.clone();
    let mut store: BTreeSet<Digest> = labelled.iter().flat_map(|pair| [pair.first, pair.second]).collect();
    loop {
        fleet.now.0 += 1;
        let roles = [Role::Sampler, Role::Judge, Role::Trainer];
        let Some((unit, _)) = roles.into_iter().find_map(|role| fleet.lease(role, "w")) else {
            return store;
        };
        let needed = inputs(&fleet.run.assignment(&unit).unwrap());
        assert!(needed.iter().all(|blob| store.contains(blob)), "{unit} misses a blob");
        let Event::Completed { outcome, .. } = fleet.completion(unit) else {
            unreachable!()
        };
        store.extend(outputs(&outcome));
        let effects = fleet.complete(unit);
        if effects.iter().any(|effect| matches!(effect, Effect::StepCommitted(..))) {
            let released = fleet.run.released();
            assert!(released.is_disjoint(&fleet.run.retained()));
            store.retain(|blob| !released.contains(blob));
        }
    }
}

#[test]
fn a_run_finds_every_blob_that_it_needs_and_leaves_no_other() {
    for (lag, keep) in [(0, 0), (0, 1), (1, 0), (2, 1), (1, 9)] {
        let mut fleet = with(|spec| {
            spec.run.steps = 7;
            spec.sampling.max_policy_lag = lag;
            spec.coordinator.keep_steps = keep;
        });
        let left = collected(&mut fleet);
        assert_eq!(fleet.run.phase(), Phase::Finished);
        assert_eq!(left, fleet.run.retained(), "lag {lag}, keep {keep}");
        let results = fleet.run.results();
        for version in [2, 4, 6, 7] {
            assert!(
                left.contains(&results.policies[version].optimizer),
                "version {version} is a checkpoint or the last"
            );
        }
        let image = |step: usize| results.steps[step - 1].groups[0].candidates[0].image;
        assert_eq!(left.contains(&image(7)), keep > 0);
        assert_eq!(left.contains(&image(1)), keep > 6);
    }
}
