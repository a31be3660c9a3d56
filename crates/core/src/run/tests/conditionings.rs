//! What a task was conditioned on: named by the first result, handed to whoever samples the task again, kept as long as that.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::schedule;
use crate::work::{Fault, Part, PromptTask, Unusable};

fn prompts(fleet: &Fleet, unit: &Unit) -> Vec<PromptTask> {
    match fleet.run.assignment(unit) {
        Some(Assignment::Sample { prompts, .. }) => prompts,
        other => panic!("{unit}: {other:?}"),
    }
}

/// Reports a blob that the unit reads.
fn report(fleet: &mut Fleet, unit: Unit, fence: Fence, blob: Digest, fault: Fault) {
    let failed = Event::Failed {
        unit,
        worker: worker(),
        fence,
        reason: "unreadable".into(),
        fatal: false,
        unusable: vec![Unusable { blob, fault }],
    };
    fleet.apply(failed).unwrap();
}

fn is_sample_of(step: u32) -> impl Fn(&Unit) -> bool {
    move |unit| matches!(unit, Unit::Sample { step: of, .. } if of.0 == step)
}

#[test]
fn a_task_is_encoded_once_and_its_conditioning_is_handed_to_later_samplers() {
    let mut fleet = with(|spec| {
        spec.run.steps = 5;
        spec.prompts.per_step = 5;
        spec.evaluation = None;
    });
    // Five prompts, five in each step: every step is an epoch.
    let (mut encoded, mut handed) = (BTreeMap::new(), 0);
    for step in 1..=5 {
        for _ in 0..2 {
            let (unit, _) = lease(&mut fleet, is_sample_of(step));
            let assignment = fleet.run.assignment(&unit).unwrap();
            for prompt in prompts(&fleet, &unit) {
                let part = Part::Conditioning {
                    prompt_index: prompt.index,
                };
                let reads = assignment
                    .inputs()
                    .any(|input| prompt.conditioning == Some(input.0) && input.1 == part);
                assert_eq!(prompt.conditioning.is_some(), reads, "an input is not listed");
                match step {
                    1 => assert_eq!(prompt.conditioning, None),
                    _ => assert_eq!(prompt.conditioning.as_ref(), encoded.get(&prompt.task.words)),
                }
                handed += u32::from(reads);
            }
            let Event::Completed {
                outcome: Outcome::Sampled { samples, .. },
                ..
            } = fleet.completion(unit)
            else {
                unreachable!()
            };
            for (prompt, pair) in prompts(&fleet, &unit).iter().zip(samples.chunks(2)) {
                assert_eq!(pair[0].conditioning, pair[1].conditioning);
                encoded.insert(prompt.task.words.clone(), pair[0].conditioning.unwrap());
            }
            fleet.complete(unit);
        }
    }
    assert_eq!((encoded.len(), handed), (5, 4 * 5));
    assert_eq!(encoded.values().collect::<BTreeSet<_>>().len(), 5);
}

#[test]
fn a_trainer_reads_the_conditioning_once_for_all_candidates_of_a_prompt() {
    let mut fleet = with(|spec| spec.sampling.candidates = 3);
    let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { .. }));
    let assignment = fleet.run.assignment(&unit).unwrap();
    let count = |is_it: fn(&Part) -> bool| assignment.inputs().filter(|(_, part)| is_it(part)).count();
    let conditionings = count(|part| matches!(part, Part::Conditioning { .. }));
    let trajectories = count(|part| matches!(part, Part::Trajectory { .. }));
    assert!(conditionings > 0);
    assert_eq!(3 * conditionings, trajectories);
}

#[test]
fn a_conditioning_is_kept_until_the_last_step_that_samples_its_task() {
    for keep in [0, 1] {
        let mut fleet = with(|spec| {
            spec.run.steps = 6;
            spec.prompts.per_step = 3;
            spec.coordinator.keep_steps = keep;
            spec.evaluation = None;
        });
        let seed = fleet.run.spec().run.seed;
        let mut of_line: BTreeMap<u32, Digest> = BTreeMap::new();
        for step in 1..=6 {
            let lines = |step| schedule::prompt_lines(seed, 5, Step(step), 3);
            let later: BTreeSet<u32> = (step + 1..=6).flat_map(lines).collect();
            fleet.work_until(|run| run.committed() == Step(step));
            let groups = &fleet.run.results().steps[step as usize - 1].groups;
            of_line.extend(groups.iter().map(|group| (group.line, group.conditioning.unwrap())));
            let retained = fleet.run.retained();
            let in_window: BTreeSet<u32> = (step.saturating_sub(keep) + 1..=step).flat_map(lines).collect();
            let in_flight: BTreeSet<u32> = fleet
                .run
                .in_flight()
                .flat_map(|flight| &flight.groups)
                .filter(|group| group.is_sampled())
                .map(|group| group.line)
                .collect();
            for (line, conditioning) in &of_line {
                let needed = later.contains(line) || in_window.contains(line) || in_flight.contains(line);
                assert_eq!(
                    retained.contains(conditioning),
                    needed,
                    "step {step}, line {line}, keep {keep}"
                );
            }
            assert!(
                fleet.run.conditionings.blobs().count() <= later.len(),
                "the state grows"
            );
        }
        assert_eq!(fleet.run.conditionings.blobs().count(), 0);
    }
}

#[test]
fn a_lost_conditioning_is_encoded_anew_by_whoever_was_to_read_it() {
    for fault in [Fault::Storage, Fault::Producer] {
        let mut fleet = fleet();
        let (unit, fence) = lease(&mut fleet, is_sample_of(3));
        let handed = prompts(&fleet, &unit);
        let lost = handed[0].conditioning.unwrap();
        // However often: it is no failed attempt, and no result of anybody's is taken back.
        let committed = fleet.run.committed();
        report(&mut fleet, unit, fence, lost, fault);
        assert_eq!(
            (fleet.run.committed(), fleet.run.next_unit(Role::Sampler)),
            (committed, Some(unit))
        );
        assert_eq!(fleet.run.quarantine(&worker()), None);
        let again = prompts(&fleet, &unit);
        for (before, after) in handed.iter().zip(&again) {
            let expected = before.conditioning.filter(|blob| *blob != lost);
            assert_eq!(after.conditioning, expected);
        }
        fleet.work_until(|_| false);
        assert_eq!(fleet.run.phase(), Phase::Finished);
        let mut undisturbed = super::fleet();
        undisturbed.work_until(|_| false);
        assert_eq!(fleet.run.results().policies, undisturbed.run.results().policies);
    }
}

#[test]
fn a_conditioning_that_a_trainer_cannot_use_is_made_again_with_its_candidates() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Gradient { step: Step(2), .. }));
    let Some(Assignment::Gradient { groups, .. }) = fleet.run.assignment(&unit) else {
        unreachable!()
    };
    let (group, lost) = (groups[0].prompt_index, groups[0].conditioning.unwrap());
    report(&mut fleet, unit, fence, lost, Fault::Storage);
    let chunk = group.0 / fleet.run.spec().sampling.batch;
    let sample = Unit::Sample { step: Step(2), chunk };
    assert_eq!(fleet.run.next_unit(Role::Sampler), Some(sample));
    let handed = prompts(&fleet, &sample);
    assert!(
        handed.iter().all(|prompt| prompt.conditioning != Some(lost)),
        "it is handed out although it is lost"
    );
    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let mut undisturbed = super::fleet();
    undisturbed.work_until(|_| false);
    assert_eq!(fleet.run.results().policies, undisturbed.run.results().policies);
}

#[test]
fn candidates_of_one_prompt_have_one_conditioning() {
    let mut fleet = fleet();
    let (unit, fence) = lease(&mut fleet, is_sample_of(1));
    let Event::Completed { mut outcome, .. } = fleet.completion(unit) else {
        unreachable!()
    };
    let Outcome::Sampled { samples, .. } = &mut outcome else {
        unreachable!()
    };
    samples[1].conditioning = None;
    let completed = Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome,
    };
    let refused = fleet.apply(completed).unwrap_err().to_string();
    assert!(
        refused.contains("the candidates of prompt 0 name different conditionings"),
        "{refused}"
    );
}

/// Results of before the conditioning was a blob of its own name none.
#[test]
fn results_without_a_conditioning_hand_none_on_and_the_run_ends() {
    let mut fleet = with(|spec| spec.evaluation = None);
    fleet.finish_with(|_, outcome| {
        if let Outcome::Sampled { samples, .. } = outcome {
            samples.iter_mut().for_each(|sample| sample.conditioning = None);
        }
    });
    assert_eq!(fleet.run.conditionings.blobs().count(), 0);
    let text = serde_json::to_string(&fleet.ledger).unwrap();
    assert!(
        !text.contains("conditioning"),
        "a result of before would be written otherwise"
    );
    assert!(fleet.replay() == fleet.run);
}
