//! What is lost or not to be trusted is made again, and the run ends the same.

use super::*;
use crate::work::{Fault, Part, Unusable};

fn fail(fleet: &mut Fleet, unit: Unit, fence: Fence, blobs: &[Digest], fault: Fault) -> Vec<Effect> {
    let unusable = blobs.iter().map(|blob| Unusable { blob: *blob, fault }).collect();
    fleet
        .apply(Event::Failed {
            unit,
            worker: worker(),
            fence,
            reason: "unreadable".into(),
            fatal: false,
            unusable,
        })
        .unwrap()
}

fn finish_and_compare(fleet: &mut Fleet) {
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let mut undisturbed = super::fleet();
    undisturbed.work_until(|_| false);
    let (found, expected) = (fleet.run.results(), undisturbed.run.results());
    assert_eq!(found.policies, expected.policies);
    assert_eq!(found.tuned_images, expected.tuned_images);
    assert_eq!(found.comparisons, expected.comparisons);
    for (found, expected) in found.steps.iter().zip(&expected.steps) {
        assert_eq!((&found.groups, &found.shards), (&expected.groups, &expected.shards));
    }
}

#[test]
fn lost_samples_are_painted_again_and_what_followed_from_them_is_done_again() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Commit { step: Step(2) }));
    fleet
        .apply(Event::Released {
            unit,
            worker: worker(),
            fence,
            reason: None,
        })
        .unwrap();
    // Gradients are done; a corrupt trajectory shows only when somebody reads it, so a shard is taken again.
    let gradient = fleet.run.in_flight().next().unwrap().shards[0]
        .as_ref()
        .unwrap()
        .gradient
        .unwrap();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Commit { .. }));
    fail(&mut fleet, unit, fence, &[gradient], Fault::Storage);
    let redone = Unit::Gradient {
        step: Step(2),
        shard: 0,
    };
    assert_eq!(fleet.run.next_unit(Role::Trainer), Some(redone));
    let (unit, fence) = fleet.lease(Role::Trainer, "w").unwrap();
    // Prompts 0 to 2 are sample chunk 0, judged in chunks 0 and 1, trained in shard 0.
    let of_chunk_0 = |part: &Part| matches!(part, Part::Trajectory { prompt_index, .. } if prompt_index.0 < 3);
    let assignment = fleet.run.assignment(&unit).unwrap();
    let (trajectory, _) = assignment.inputs().find(|(_, part)| of_chunk_0(part)).unwrap();
    fail(&mut fleet, unit, fence, &[trajectory], Fault::Storage);
    assert_eq!(fleet.run.next_unit(Role::Trainer), None);
    let sample = Unit::Sample {
        step: Step(2),
        chunk: 0,
    };
    assert_eq!(fleet.run.next_unit(Role::Sampler), Some(sample));
    let flight = fleet.run.in_flight().next().unwrap();
    assert_eq!((flight.sampled, flight.judged), (4, 3));
    finish_and_compare(&mut fleet);
}

#[test]
fn a_lost_policy_sends_the_run_back_to_the_last_intact_one() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Sample { step: Step(3), .. }));
    let adapter = fleet.run.policy().unwrap().adapter;
    fail(&mut fleet, unit, fence, &[adapter], Fault::Storage);
    assert_eq!(fleet.run.committed(), Step(1));
    let again = Unit::Sample {
        step: Step(2),
        chunk: 0,
    };
    assert_eq!(fleet.run.next_unit(Role::Sampler), Some(again));
    // The earlier one is gone as well, down to the first.
    for step in [Step(2), Step(1)] {
        let (unit, fence) = lease(
            &mut fleet,
            |unit| matches!(unit, Unit::Sample { step: of, .. } if *of == step),
        );
        let adapter = fleet.run.policy().unwrap().adapter;
        fail(&mut fleet, unit, fence, &[adapter], Fault::Storage);
    }
    assert_eq!(fleet.run.phase(), Phase::Preparing);
    assert_eq!(fleet.run.next_unit(Role::Trainer), Some(Unit::Initialise));
    finish_and_compare(&mut fleet);
}

#[test]
fn held_out_pictures_that_are_lost_are_painted_and_compared_again() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::EvaluateJudge { chunk: 1, .. }));
    let results = fleet.run.results();
    let lost = [results.base_images[2].unwrap(), results.tuned_images[3].unwrap()];
    fail(&mut fleet, unit, fence, &lost, Fault::Storage);
    let base = Unit::EvaluateSample {
        arm: Arm::Base,
        chunk: 1,
    };
    assert_eq!(fleet.run.next_unit(Role::Sampler), Some(base));
    finish_and_compare(&mut fleet);
}

#[test]
fn a_worker_whose_samples_cannot_be_used_is_set_apart() {
    let mut fleet = fleet();
    fleet.work_until(|run| matches!(run.next_unit(Role::Sampler), Some(Unit::Sample { .. })));
    let (unit, _) = fleet.lease(Role::Sampler, "liar").unwrap();
    fleet.complete(unit);
    let (held, _) = fleet.lease(Role::Sampler, "liar").unwrap();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { chunk: 0, .. }));
    let image = fleet.run.in_flight().next().unwrap().groups[0].candidates[1].image;
    fail(&mut fleet, unit, fence, &[image], Fault::Producer);
    let reason = fleet.run.quarantine(&WorkerId("liar".into())).unwrap();
    assert!(reason.contains("unreadable"), "{reason}");
    assert!(fleet.run.lease(&held).is_none(), "what it held goes to others");
    let refused = fleet.apply(Event::Granted {
        unit: fleet.run.next_unit(Role::Sampler).unwrap(),
        worker: WorkerId("liar".into()),
        fence: fleet.run.next_fence(),
    });
    assert!(matches!(refused, Err(Refusal::Quarantined { .. })), "{refused:?}");
    finish_and_compare(&mut fleet);
}

#[test]
fn a_unit_that_every_worker_gets_wrong_ends_the_run_and_not_the_fleet() {
    let mut fleet = fleet();
    fleet.work_until(|run| matches!(run.next_unit(Role::Sampler), Some(Unit::Sample { .. })));
    for name in ["a", "b", "c"] {
        assert_eq!(fleet.run.phase(), Phase::Training);
        fleet.lease(Role::Sampler, name).unwrap();
        fleet
            .apply(Event::Quarantined {
                worker: WorkerId(name.into()),
                reason: "samples must cover the chunk".into(),
            })
            .unwrap();
    }
    assert!(failed_reason(&fleet.run).contains("must cover the chunk"));
    fleet.apply(Event::Resumed).unwrap();
    assert_eq!(fleet.run.quarantine(&WorkerId("a".into())), None);
    finish_and_compare(&mut fleet);
}

#[test]
fn a_blob_that_is_lost_again_and_again_ends_the_run() {
    let mut fleet = fleet();
    for _ in 0..3 {
        assert!(!fleet.run.phase().is_ended());
        let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { chunk: 0, .. }));
        let image = fleet.run.in_flight().next().unwrap().groups[0].candidates[0].image;
        fail(&mut fleet, unit, fence, &[image], Fault::Storage);
    }
    assert!(
        failed_reason(&fleet.run).contains("3 times"),
        "{}",
        failed_reason(&fleet.run)
    );
}

#[test]
fn a_worker_with_another_model_is_refused_with_the_reason() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Sample { .. }));
    let Event::Completed { mut outcome, .. } = fleet.completion(unit) else {
        unreachable!()
    };
    if let Outcome::Sampled { model, .. } = &mut outcome {
        *model = Digest::of(b"another");
    }
    let refusal = fleet
        .apply(Event::Completed {
            unit,
            worker: worker(),
            fence,
            outcome,
        })
        .unwrap_err();
    assert!(refusal.to_string().contains("fingerprint"), "{refusal}");
}

#[test]
fn a_blob_that_is_no_input_of_the_unit_is_a_failed_attempt() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Sample { step: Step(3), .. }));
    // A sampler has no use for the optimizer's state.
    let optimizer = fleet.run.policy().unwrap().optimizer;
    fail(&mut fleet, unit, fence, &[optimizer], Fault::Storage);
    assert_eq!(fleet.run.committed(), Step(2));
    assert_eq!(fleet.run.next_unit(Role::Sampler), Some(unit));
    let waiting = fleet.run.waiting_for(fleet.now);
    assert!(waiting.text.contains("1 failed attempts"), "{}", waiting.text);
    finish_and_compare(&mut fleet);
}
