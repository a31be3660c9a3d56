//! Nothing that is still needed is given away, and what is given away is no longer needed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::fixtures::watched;
use super::*;
use crate::assets::Annotation;
use crate::forecast::rehearsal;
use crate::ids::PromptIndex;
use crate::measure::WinRate;
use crate::spec::WriterSpec;
use crate::work::{Part, Task, rules};

fn digests(blobs: impl Iterator<Item = (Digest, crate::work::Part)>) -> BTreeSet<Digest> {
    blobs.map(|(digest, _)| digest).collect()
}

/// Goes through a run as a store would that deletes what each commit releases; returns what is left.
fn collected(fleet: &mut Fleet) -> BTreeSet<Digest> {
    let mut store = digests(fleet.run.assets().blobs());
    loop {
        fleet.now.0 += 1;
        let roles = [Role::Sampler, Role::Judge, Role::Trainer];
        let Some((unit, _)) = roles.into_iter().find_map(|role| fleet.lease(role, "w")) else {
            return store;
        };
        let needed = digests(fleet.run.assignment(&unit).unwrap().inputs());
        assert!(needed.is_subset(&store), "{unit} misses a blob");
        let Event::Completed { outcome, .. } = fleet.completion(unit) else {
            unreachable!()
        };
        store.extend(digests(outcome.outputs()));
        let effects = fleet.complete(unit);
        if effects.iter().any(|effect| matches!(effect, Effect::StepCommitted(..))) {
            let released = fleet.run.released();
            assert!(released.is_disjoint(&fleet.run.retained()));
            assert!(released.is_subset(&store), "a blob is released twice");
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

#[test]
fn a_run_with_probes_finds_every_blob_that_it_needs() {
    for (lag, keep) in [(0, 0), (1, 0), (2, 1)] {
        let mut fleet = with(|spec| {
            spec.run.steps = 7;
            spec.sampling.max_policy_lag = lag;
            spec.coordinator.keep_steps = keep;
            spec.checkpoints.every = 0;
            spec.evaluation.as_mut().unwrap().every = Some(1);
        });
        let left = collected(&mut fleet);
        assert_eq!(fleet.run.phase(), Phase::Finished);
        assert!(fleet.run.retained().is_subset(&left), "lag {lag}, keep {keep}");
        let best = fleet.run.best().unwrap();
        assert!(left.contains(&fleet.run.results().policies[best.0 as usize].optimizer));
    }
}

/// Every digest that a document names, whatever field it is in, but for those that are no blobs. Independent of the list of
/// blobs, so that a blob that is forgotten there shows.
fn named_in(document: &impl serde::Serialize) -> BTreeSet<Digest> {
    fn walk(value: &serde_json::Value, found: &mut BTreeSet<Digest>) {
        match value {
            serde_json::Value::Object(fields) => {
                let blobs = fields
                    .iter()
                    .filter(|(key, _)| !["manifest", "model", "rubric"].contains(&key.as_str()));
                blobs.for_each(|(_, value)| walk(value, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            serde_json::Value::String(text) => found.extend(text.parse::<Digest>()),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(&serde_json::to_value(document).unwrap(), &mut found);
    found
}

/// The results that count, with their units, as the ledger tells them.
fn accepted(fleet: &Fleet) -> BTreeMap<Unit, Outcome> {
    let mut accepted = BTreeMap::new();
    for (event, _) in &fleet.ledger {
        if let Event::Completed { unit, outcome, .. } = event
            && fleet.run.is_accepted(unit)
        {
            accepted.insert(*unit, outcome.clone());
        }
    }
    accepted
}

/// The first of the steps whose blobs were never given away: each commit gives away what leaves the window of the latest
/// `coordinator.keep_steps` steps, and what is given away does not come back when steps are taken back.
fn first_kept_step(fleet: &Fleet) -> u32 {
    let mut run = Run::new(
        fleet.run.id.clone(),
        fleet.run.spec().clone(),
        fleet.run.assets().clone(),
    );
    let keep = run.spec().coordinator.keep_steps;
    let (mut first, mut committed) = (1, 0);
    for (event, now) in &fleet.ledger {
        run.apply(event.clone(), *now).unwrap();
        let before = std::mem::replace(&mut committed, run.committed().0);
        if committed > before {
            first = first.max((committed + 1).saturating_sub(keep));
        } else if committed < before {
            first = first.min(committed + 1);
        }
    }
    first
}

/// The steps whose policies are kept for what probes say: those that are not judged to the end, and the best of the others. What was
/// let go does not come back.
fn kept_for_probes(fleet: &Fleet) -> BTreeSet<u32> {
    let mut run = Run::new(
        fleet.run.id.clone(),
        fleet.run.spec().clone(),
        fleet.run.assets().clone(),
    );
    let (mut kept, mut committed) = (BTreeSet::new(), 0);
    for (event, now) in &fleet.ledger {
        run.apply(event.clone(), *now).unwrap();
        if run.committed().0 > committed {
            kept.extend(run.results().probe(run.committed()).map(|probe| probe.step.0));
        }
        committed = run.committed().0;
        let there = run.results().probes.iter().filter(|probe| kept.contains(&probe.step.0));
        let (judged, open): (Vec<_>, Vec<_>) = there.partition(|probe| probe.comparisons.iter().all(Option::is_some));
        let rates = judged.iter().filter_map(|probe| {
            let rate = WinRate::of(probe.comparisons.iter().flatten())?.value;
            Some((probe.step.0, (rate * 1e6) as u64))
        });
        let best = rates
            .max_by_key(|(step, rate)| (*rate, u32::MAX - step))
            .map(|(step, _)| step);
        kept = open.iter().map(|probe| probe.step.0).chain(best).collect();
    }
    kept
}

/// What a run must keep and may keep, told from its spec and its ledger alone: the list that [`Run::retained`] promises.
fn kept_by_rule(fleet: &Fleet) -> BTreeSet<Digest> {
    let spec = fleet.run.spec();
    // The oldest step whose blobs are kept, and the oldest policy that it or a later step starts from.
    let first_step = first_kept_step(fleet);
    let first_version = first_step.saturating_sub(1 + spec.sampling.max_policy_lag);
    let for_probes = kept_for_probes(fleet);
    let keeps_policy = |version: u32| {
        let every = spec.checkpoints.every;
        for_probes.contains(&version)
            || version >= first_version
            || (every > 0 && version > 0 && version.is_multiple_of(every))
    };
    let assets = fleet.run.assets();
    let mut kept = named_in(&(&assets.prompts, &assets.held_out, &assets.annotations, &assets.labelled));
    kept.extend(assets.initial_adapter);
    for (unit, outcome) in accepted(fleet) {
        let keeps = match unit {
            Unit::Initialise => keeps_policy(0),
            Unit::Commit { step } => keeps_policy(step.0),
            Unit::Sample { step, .. } | Unit::Gradient { step, .. } => step.0 >= first_step,
            Unit::EvaluateSample { .. } => true,
            Unit::WriteRubric { .. } => {
                // In a verdict the name of a rubric is no blob; here it is one.
                if let Outcome::RubricWritten { rubric, .. } = &outcome {
                    kept.extend(*rubric);
                }
                false
            }
            Unit::Judge { .. }
            | Unit::HeldOutJudge { .. }
            | Unit::EvaluateJudge { .. }
            | Unit::CalibrateJudge { .. }
            | Unit::AnswerQuestions { .. } => false,
        };
        if keeps {
            kept.extend(named_in(&outcome));
        }
    }
    kept
}

/// The conditionings of tasks that a later step samples again. Which of them are known follows from what was lost.
fn sampled_again(fleet: &Fleet) -> BTreeSet<Digest> {
    let (spec, committed) = (fleet.run.spec(), fleet.run.committed().0);
    let lines = fleet.run.assets().prompts.len() as u32;
    let of = |step| crate::schedule::prompt_lines(spec.run.seed, lines, Step(step), spec.prompts.per_step);
    let later: BTreeSet<u32> = (committed + 1..=spec.run.steps).flat_map(of).collect();
    let mut again = BTreeSet::new();
    for (event, _) in &fleet.ledger {
        if let Event::Completed {
            unit: Unit::Sample { step, .. },
            outcome: Outcome::Sampled { samples, .. },
            ..
        } = event
        {
            let lines = of(step.0);
            let samples = samples
                .iter()
                .filter(|sample| later.contains(&lines[sample.prompt_index.0 as usize]));
            again.extend(samples.filter_map(|sample| sample.conditioning));
        }
    }
    again
}

/// Whatever is leased from now on if nothing is lost any more reads only what a later unit makes, or what is kept.
fn read_from_now_on(run: &Run) -> BTreeSet<Digest> {
    let mut run = run.clone();
    let worker = worker();
    let (mut read, mut made) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let open: Vec<Unit> = run.leases().map(|(unit, _)| *unit).collect();
        let roles = [Role::Trainer, Role::Judge, Role::Sampler];
        let next = open
            .first()
            .copied()
            .or_else(|| roles.into_iter().find_map(|role| run.next_unit(role)));
        let Some(unit) = next else { return read };
        if open.is_empty() {
            let (worker, fence) = (worker.clone(), run.next_fence());
            run.apply(Event::Granted { unit, worker, fence }, Millis(u64::MAX / 2))
                .unwrap();
        }
        let assignment = run.assignment(&unit).unwrap();
        read.extend(digests(assignment.inputs()).difference(&made).copied());
        let outcome = rehearsal::work(run.spec(), run.assets().general_rubric(&unit), &assignment);
        made.extend(digests(outcome.outputs()));
        let lease = run.lease(&unit).unwrap().clone();
        let completed = Event::Completed {
            unit,
            worker: lease.worker,
            fence: lease.fence,
            outcome,
        };
        run.apply(completed, Millis(u64::MAX / 2)).unwrap();
    }
}

/// A small run of any shape, of a family that edits as often as not.
fn any_run() -> impl Strategy<Value = Run> {
    let sizes = (1..5_u32, 1..6_u32, 1..4_u32, 1..4_u32, 1..4_u32);
    let probes = prop::option::of((1..3_u32, 1..6_u32));
    let rules = (0..3_u32, 0..3_u32, 0..3_u32, any::<bool>(), prop::option::of(probes));
    let share = prop::option::of(prop::sample::select(vec![0.1, 0.5, 1.0]));
    let chances = (any::<bool>(), any::<bool>(), any::<bool>());
    (sizes, rules, 2..4_u8, chances, share).prop_map(|(sizes, rules, candidates, (edits, warm, writes), share)| {
        let mut spec = spec();
        (
            spec.run.steps,
            spec.prompts.per_step,
            spec.sampling.batch,
            spec.judge.batch,
            spec.trainer.shard,
        ) = sizes;
        let (lag, keep, every, averages, evaluates) = rules;
        spec.sampling.max_policy_lag = lag;
        spec.coordinator.keep_steps = keep;
        spec.checkpoints.every = every;
        spec.optimizer.ema_decay = if averages { 0.9 } else { 0.0 };
        spec.sampling.candidates = candidates;
        spec.limits.attempts = 1_000_000;
        spec.judge.writer = writes.then(WriterSpec::default);
        match evaluates {
            None => spec.evaluation = None,
            Some(probes) => {
                let evaluation = spec.evaluation.as_mut().unwrap();
                (evaluation.every, evaluation.subset) = probes.unzip();
            }
        }
        let mut assets = assets();
        if let Some(share) = share {
            let watched = watched(spec.clone(), share);
            assets.held_out_judge.clone_from(&watched.assets().held_out_judge);
            spec = watched.spec().clone();
        }
        assets.initial_adapter = warm.then(|| Digest::of(b"initial adapter"));
        if edits {
            let edit = |kind: &str, index: usize, task: &mut Task| {
                task.sources = vec![Digest::of(format!("{kind} source {index}").as_bytes())];
            };
            (0..)
                .zip(&mut assets.prompts)
                .for_each(|(index, task)| edit("training", index, task));
            (0..)
                .zip(&mut assets.held_out)
                .for_each(|(index, task)| edit("held-out", index, task));
            (0..)
                .zip(&mut assets.labelled)
                .for_each(|(index, pair)| edit("labelled", index, &mut pair.task));
            let given = |kind: &str| Annotation {
                target: Some(Digest::of(format!("{kind} target").as_bytes())),
                mask: Some(Digest::of(format!("{kind} mask").as_bytes())),
                ..Annotation::default()
            };
            assets.annotations.prompts.insert(PromptIndex(1), given("training"));
            assets.annotations.held_out.insert(PromptIndex(0), given("held-out"));
        }
        Run::new(RunId("any".into()), spec, assets).created(Millis(0))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_can_still_be_leased_has_its_inputs_and_nothing_else_is_kept(
        run in any_run(),
        moves in prop::collection::vec((any::<u8>(), any::<usize>()), 0..160),
    ) {
        let mut fleet = Fleet::new(run);
        for (number, (choice, pick)) in moves.into_iter().enumerate() {
            fleet.act(choice, pick);
            let retained = fleet.run.retained();
            let (kept, again) = (kept_by_rule(&fleet), sampled_again(&fleet));
            prop_assert!(kept.is_subset(&retained), "something is not kept");
            let more: Vec<_> = retained.difference(&kept).collect();
            prop_assert!(more.iter().all(|blob| again.contains(blob)), "something else is kept");
            for (unit, _) in fleet.run.leases() {
                let assignment = fleet.run.assignment(unit).unwrap();
                prop_assert!(named_in(&assignment).is_subset(&retained), "{} is given what is not kept", unit);
                prop_assert!(digests(assignment.inputs()).is_subset(&retained), "{} reads what is not kept", unit);
            }
            if number % 16 == 0 {
                let read = read_from_now_on(&fleet.run);
                prop_assert!(read.is_subset(&retained), "a later unit reads what is not kept");
            }
        }
    }
}

#[test]
fn lists_and_rules_agree_on_what_is_sampled_from() {
    let mut fleet = with(|spec| spec.sampling.max_policy_lag = 1);
    let (unit, _) = lease(&mut fleet, |unit| matches!(unit, Unit::Sample { step: Step(3), .. }));
    let version = rules::sampling_version(fleet.run.spec(), Step(3));
    let adapter = fleet.run.results().policies[version as usize].adapter;
    let inputs = fleet.run.assignment(&unit).unwrap();
    let inputs = inputs
        .inputs()
        .filter(|(_, part)| !matches!(part, Part::Conditioning { .. }));
    assert_eq!(digests(inputs), BTreeSet::from([adapter]));
}
