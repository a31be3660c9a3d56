//! A step through the units of the fleet, without a fleet: the sampler's and the trainer's work over blobs in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use gavel_core::work::{Orders, Side, Verdict, VerdictRecord};
use gavel_core::{
    RunAssets,
    ids::{Digest, PromptIndex, RunId, Step, WorkerId},
    spec::RunSpec,
    work::{Arm, Assignment, Fault, Outcome, Policy, PromptTask, RewardedCandidate, RewardedGroup, Sampled, Unit},
};
use gavel_models::{Family, denoiser::Task, load::Placement, lora::LoraConfig};
use gavel_policy::{ConditioningFile, Prompt, Sampler, Trainer, in_process::InProcess};
use gavel_rubric::{AskError, Judge, JudgedPair, RubricSet, Rubrics};
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_trainer_worker::exchange::NotBuilt;
use gavel_worker::{Work, WorkContext, WorkError};

const STEP: Step = Step(1);

fn spec() -> RunSpec {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/quickstart.toml")).unwrap();
    let mut spec = RunSpec::from_value(text.parse().unwrap()).unwrap();
    spec.model.path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-flux").into();
    spec.sampling.noise_steps = 2;
    spec
}

fn prepared<W: Work + Default>(spec: &RunSpec) -> W {
    let mut work = W::default();
    work.prepare(&RunId("run".into()), spec, &RunAssets::default()).unwrap();
    work
}

fn initialise(trainer: &mut TrainerWork, context: &WorkContext) -> Policy {
    begin(trainer, None, context).unwrap()
}

/// Has policy 0 made, fresh or of an adapter that is among the blobs.
fn begin(trainer: &mut TrainerWork, adapter: Option<Digest>, context: &WorkContext) -> Result<Policy, WorkError> {
    let outcome = trainer.perform(&Unit::Initialise, &Assignment::Initialise { adapter }, context)?;
    let Outcome::Initialised { policy, .. } = outcome else {
        panic!("{outcome:?}")
    };
    Ok(policy)
}

fn prompts() -> Vec<PromptTask> {
    [
        "a red circle on a blue background",
        "a green square on a white background",
        "a black triangle on a red background",
    ]
    .into_iter()
    .enumerate()
    .map(|(index, text)| PromptTask {
        index: PromptIndex(index as u32),
        task: text.into(),
        conditioning: None,
    })
    .collect()
}

/// Samples three pairs with a policy and rewards them: the first candidate wins.
fn pairs(sampler: &mut SamplerWork, policy: &Policy, context: &WorkContext) -> Vec<RewardedGroup> {
    let assignment = Assignment::Sample {
        step: STEP,
        policy: policy.clone(),
        prompts: prompts(),
    };
    let outcome = sampler
        .perform(&Unit::Sample { step: STEP, chunk: 0 }, &assignment, context)
        .unwrap();
    let Outcome::Sampled { samples, manifest, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(manifest, Some(policy.manifest));
    let candidates = |pair: &[Sampled]| {
        let rewarded = [(&pair[0], 1.0), (&pair[1], -1.0)];
        rewarded
            .map(|(sample, reward)| RewardedCandidate {
                trajectory: sample.trajectory.unwrap(),
                reward,
            })
            .to_vec()
    };
    samples
        .chunks(2)
        .map(|pair| RewardedGroup {
            prompt_index: pair[0].prompt_index,
            conditioning: pair[0].conditioning,
            candidates: candidates(pair),
        })
        .collect()
}

fn shard(
    trainer: &mut TrainerWork,
    policy: &Policy,
    pairs: &[RewardedGroup],
    context: &WorkContext,
) -> Result<(Digest, u64), WorkError> {
    let assignment = Assignment::Gradient {
        step: STEP,
        policy: policy.clone(),
        groups: pairs.to_vec(),
        policy_lag: 0,
    };
    let outcome = trainer.perform(&Unit::Gradient { step: STEP, shard: 0 }, &assignment, context)?;
    let Outcome::Gradient {
        gradient,
        manifest,
        statistics,
        skipped,
        ..
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(manifest, policy.manifest);
    assert_eq!(skipped, []);
    assert!(statistics.ratio_deviation < 1e-5, "{}", statistics.ratio_deviation);
    Ok((gradient.unwrap(), statistics.terms))
}

fn commit(
    trainer: &mut TrainerWork,
    policy: &Policy,
    gradients: Vec<Digest>,
    terms: u64,
    context: &WorkContext,
) -> (Policy, f64) {
    let assignment = Assignment::Commit {
        step: STEP,
        policy: policy.clone(),
        holders: vec![WorkerId("trainer".into()); gradients.len()],
        gradients,
        terms,
    };
    let outcome = trainer
        .perform(&Unit::Commit { step: STEP }, &assignment, context)
        .unwrap();
    let Outcome::Committed { policy, grad_norm, .. } = outcome else {
        panic!("{outcome:?}")
    };
    (policy, grad_norm)
}

#[test]
fn one_trainer_and_three_commit_the_same_bytes() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let mut alone: TrainerWork = prepared(&spec);
    let initial = initialise(&mut alone, &context);
    let pairs = pairs(&mut prepared(&spec), &initial, &context);

    let (first, first_terms) = shard(&mut alone, &initial, &pairs[..2], &context).unwrap();
    let (second, second_terms) = shard(&mut alone, &initial, &pairs[2..], &context).unwrap();
    let terms = first_terms + second_terms;
    assert_eq!(terms, 3 * 2 * 2);
    let (policy, grad_norm) = commit(&mut alone, &initial, vec![first, second], terms, &context);
    assert!(grad_norm > 0.0);
    assert_ne!(policy.adapter, initial.adapter);
    assert_ne!(policy.averaged, initial.averaged);
    assert_eq!(policy.manifest, initial.manifest);

    let [mut one, mut two, mut three]: [TrainerWork; 3] = std::array::from_fn(|_| prepared(&spec));
    let late = shard(&mut two, &initial, &pairs[2..], &context).unwrap();
    let early = shard(&mut one, &initial, &pairs[..2], &context).unwrap();
    assert_eq!((early.0, late.0), (first, second));
    assert_eq!(
        commit(&mut three, &initial, vec![first, second], terms, &context).0,
        policy
    );
}

/// Prefers the first candidate.
struct FirstWins;

impl Judge for FirstWins {
    fn name(&self) -> &str {
        "first wins"
    }

    fn identity(&self) -> Digest {
        Digest([0; 32])
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let record = |pair: &JudgedPair<'_>| VerdictRecord {
            prompt_index: pair.prompt_index,
            verdict: Verdict::Preferred { side: Side::First },
            probability_first: 1.0,
            order_probabilities: [1.0; 2],
            rubric: pair.rubric.digest(),
            votes: Vec::new(),
            reasons: Vec::new(),
            difference: None,
            scores: None,
            orders: Orders::Both,
        };
        Ok(pairs.iter().map(record).collect())
    }
}

#[test]
fn a_step_in_this_process_commits_the_bytes_of_a_fleet() {
    let (mut spec, context) = (spec(), WorkContext::in_memory().unwrap());
    spec.trainer.shard = 2;
    let mut worker: TrainerWork = prepared(&spec);
    let initial = initialise(&mut worker, &context);
    let pairs = pairs(&mut prepared(&spec), &initial, &context);
    let (first, first_terms) = shard(&mut worker, &initial, &pairs[..2], &context).unwrap();
    let (second, second_terms) = shard(&mut worker, &initial, &pairs[2..], &context).unwrap();
    let terms = first_terms + second_terms;
    let (committed, grad_norm) = commit(&mut worker, &initial, vec![first, second], terms, &context);

    let model = &spec.model;
    let family = Family::from_name(model.family.as_str()).unwrap();
    let placement = Placement::open(model.device, model.dtype).unwrap();
    let trainer = Trainer::load(family, &model.path, &placement).unwrap();
    let lora = LoraConfig::from(&spec.lora);
    let state = trainer
        .initialise(&lora, spec.run.seed, spec.optimizer.averages())
        .unwrap();
    let texts = prompts();
    let prompts: Vec<Prompt<'_>> = texts
        .iter()
        .map(|prompt| Prompt {
            index: prompt.index,
            task: Task {
                words: &prompt.task.words,
                sources: &[],
            },
            sources: &[],
        })
        .collect();
    let mut local = InProcess {
        spec: &spec,
        sampler: &mut Sampler::load(family, &model.path, &placement).unwrap(),
        judge: &FirstWins,
        rubrics: &Rubrics::one(RubricSet::from_text("the first is better").unwrap()),
    };
    let step = local.step(&trainer, &state, STEP, &prompts).unwrap();
    assert_eq!((step.decided, step.updated.statistics.terms), (3, terms));
    assert_eq!(step.updated.grad_norm, grad_norm);
    assert_eq!(step.updated.state.encode().unwrap().policy, committed);
}

/// Samples the prompts, each with the conditioning that is given for it.
fn sampled(
    sampler: &mut SamplerWork,
    policy: &Policy,
    given: &[Option<Digest>],
    context: &WorkContext,
) -> Result<Vec<Sampled>, WorkError> {
    let prompts = prompts().into_iter().zip(given);
    let prompts = prompts.map(|(prompt, given)| PromptTask {
        conditioning: *given,
        ..prompt
    });
    let assignment = Assignment::Sample {
        step: STEP,
        policy: policy.clone(),
        prompts: prompts.collect(),
    };
    match sampler.perform(&Unit::Sample { step: STEP, chunk: 0 }, &assignment, context)? {
        Outcome::Sampled { samples, .. } => Ok(samples),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn a_sampler_makes_the_same_whether_it_is_handed_the_conditioning_or_encodes() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let initial = initialise(&mut prepared(&spec), &context);
    let encoded = sampled(&mut prepared(&spec), &initial, &[None; 3], &context).unwrap();
    let of_prompt: Vec<Option<Digest>> = encoded.chunks(2).map(|pair| pair[0].conditioning).collect();
    assert!(of_prompt.iter().all(Option::is_some));
    for given in [of_prompt.clone(), vec![of_prompt[0], None, of_prompt[2]]] {
        assert_eq!(
            sampled(&mut prepared(&spec), &initial, &given, &context).unwrap(),
            encoded
        );
    }
    // A trajectory does not repeat it.
    let trajectory = context.get(&encoded[0].trajectory.unwrap()).unwrap();
    let read = gavel_policy::Trajectory::from_safetensors(&trajectory).unwrap();
    assert!(read.conditioning.is_empty());
    assert_eq!(read.metadata.conditioning, encoded[0].conditioning);

    let lost = Digest([3; 32]);
    let given = [Some(lost), of_prompt[1], None];
    let error = sampled(&mut prepared(&spec), &initial, &given, &context).unwrap_err();
    assert!(
        matches!(&error, WorkError::Unusable { inputs, .. } if inputs[0].blob == lost && inputs[0].fault == Fault::Storage),
        "{error}"
    );
    let anothers = [of_prompt[1], None, None];
    let error = sampled(&mut prepared(&spec), &initial, &anothers, &context).unwrap_err();
    assert!(
        matches!(&error, WorkError::Unusable { inputs, .. } if Some(inputs[0].blob) == of_prompt[1] && inputs[0].fault == Fault::Producer),
        "{error}"
    );
}

#[test]
fn a_trainer_takes_no_conditioning_but_the_one_that_its_trajectories_name() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let mut trainer: TrainerWork = prepared(&spec);
    let initial = initialise(&mut trainer, &context);
    let good = pairs(&mut prepared(&spec), &initial, &context);
    let refused = |groups: &[RewardedGroup]| match shard(&mut prepared(&spec), &initial, groups, &context) {
        Err(WorkError::Unusable { inputs, reason }) => (inputs[0].blob, inputs[0].fault, reason),
        other => panic!("{other:?}"),
    };
    let mut groups = good.clone();
    groups[0].conditioning = good[1].conditioning;
    let (blob, fault, reason) = refused(&groups);
    assert_eq!((blob, fault), (good[0].candidates[0].trajectory, Fault::Producer));
    assert!(reason.contains("names the conditioning"), "{reason}");
    groups[0].conditioning = None;
    assert_eq!(refused(&groups).0, good[0].candidates[0].trajectory);
    let lost = Digest([3; 32]);
    groups[0].conditioning = Some(lost);
    assert_eq!(refused(&groups).0, lost);

    // One that says that it is of other words, under the name that its trajectories have for it.
    let file = context.get(&good[0].conditioning.unwrap()).unwrap();
    let mut file = ConditioningFile::from_safetensors(&file).unwrap();
    file.prompt = "something else".into();
    let other = context.put(file.to_safetensors());
    groups[0].conditioning = Some(other);
    for candidate in &mut groups[0].candidates {
        let blob = context.get(&candidate.trajectory).unwrap();
        let mut trajectory = gavel_policy::Trajectory::from_safetensors(&blob).unwrap();
        trajectory.metadata.conditioning = Some(other);
        candidate.trajectory = context.put(trajectory.to_safetensors());
    }
    let (blob, fault, reason) = refused(&groups);
    assert_eq!((blob, fault), (other, Fault::Producer));
    assert!(reason.contains("something else"), "{reason}");
}

#[test]
fn a_step_in_which_nothing_was_decided_leaves_the_policy() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let mut trainer: TrainerWork = prepared(&spec);
    let initial = initialise(&mut trainer, &context);
    assert_eq!(commit(&mut trainer, &initial, vec![], 0, &context), (initial, 0.0));
}

#[test]
fn a_trainer_without_nccl_says_how_to_get_it() {
    let mut spec = spec();
    spec.trainer.exchange = gavel_core::spec::GradientExchange::Nccl;
    let mut trainer = TrainerWork::with_exchange(Box::new(NotBuilt));
    let error = trainer
        .prepare(&RunId("run".into()), &spec, &RunAssets::default())
        .unwrap_err();
    assert!(
        matches!(&error, WorkError::Retry(text) if text.contains("--features cuda,nccl")),
        "{error}"
    );
}

#[test]
fn an_initial_policy_depends_on_the_seed_alone() {
    let (mut spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let initial = initialise(&mut prepared(&spec), &context);
    assert_eq!(initialise(&mut prepared(&spec), &context), initial);
    assert_eq!(initial.averaged, Some(initial.adapter));
    spec.run.seed += 1;
    assert_ne!(initialise(&mut prepared(&spec), &context).adapter, initial.adapter);
}

#[test]
fn a_run_begins_with_exactly_the_adapter_that_it_is_given() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let fresh = initialise(&mut prepared(&spec), &context);
    let pairs = pairs(&mut prepared(&spec), &fresh, &context);
    let mut trainer: TrainerWork = prepared(&spec);
    let (sum, terms) = shard(&mut trainer, &fresh, &pairs, &context).unwrap();
    let (trained, _) = commit(&mut trainer, &fresh, vec![sum], terms, &context);
    assert_ne!(trained.adapter, fresh.adapter);

    let begun = begin(&mut prepared(&spec), Some(trained.adapter), &context).unwrap();
    assert_eq!(begun.adapter, trained.adapter);
    assert_eq!(begun.averaged, Some(trained.adapter), "the average begins there too");
    assert_eq!((begun.manifest, begun.tensors), (fresh.manifest, fresh.tensors));
    assert_ne!(begun.optimizer, trained.optimizer, "its moments are fresh");

    let mut longer = context.get(&trained.adapter).unwrap().to_vec();
    let header = u64::from_le_bytes(longer[..8].try_into().unwrap());
    longer[..8].copy_from_slice(&(header + 8).to_le_bytes());
    longer.splice(8 + header as usize..8 + header as usize, *b"        ");
    let other_form = context.put(longer);
    let refused = begin(&mut prepared(&spec), Some(other_form), &context).unwrap_err();
    assert!(
        matches!(&refused, WorkError::Fatal(text) if text.contains("not stored as a policy is")),
        "{refused}"
    );
    let lost = Digest([3; 32]);
    let refused = begin(&mut prepared(&spec), Some(lost), &context).unwrap_err();
    assert!(
        matches!(&refused, WorkError::Unusable { inputs, .. } if inputs[0].blob == lost),
        "{refused}"
    );
}

#[test]
fn a_tuned_evaluation_uses_the_average_and_the_same_noise_as_the_base() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let policy = initialise(&mut prepared(&spec), &context);
    let mut sampler: SamplerWork = prepared(&spec);
    let mut sample = |arm: Arm, policy: Option<Policy>| {
        let assignment = Assignment::EvaluateSample {
            arm,
            policy,
            prompts: prompts(),
        };
        let outcome = sampler
            .perform(&Unit::EvaluateSample { arm, chunk: 0 }, &assignment, &context)
            .unwrap();
        let Outcome::Sampled { samples, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(samples.iter().all(|sample| sample.trajectory.is_none()));
        samples
    };
    let base = sample(Arm::Base, None);
    assert_eq!(base.len(), 3);
    // B is still zero, so that both arms paint the same.
    assert_eq!(sample(Arm::Tuned, Some(policy.clone())), base);
    let lost = Digest([3; 32]);
    let assignment = Assignment::EvaluateSample {
        arm: Arm::Tuned,
        policy: Some(Policy {
            averaged: Some(lost),
            ..policy
        }),
        prompts: prompts(),
    };
    let error = sampler
        .perform(
            &Unit::EvaluateSample {
                arm: Arm::Tuned,
                chunk: 0,
            },
            &assignment,
            &context,
        )
        .unwrap_err();
    assert!(
        matches!(&error, WorkError::Unusable { inputs, .. } if inputs[0].blob == lost),
        "the average is asked for, not the adapter: {error}"
    );
}

#[test]
fn samples_of_another_adapter_are_made_again_by_somebody_else() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let mut trainer: TrainerWork = prepared(&spec);
    let initial = initialise(&mut trainer, &context);
    let pairs = pairs(&mut prepared(&spec), &initial, &context);
    let (gradient, terms) = shard(&mut trainer, &initial, &pairs, &context).unwrap();
    let (next, _) = commit(&mut trainer, &initial, vec![gradient], terms, &context);
    let error = shard(&mut trainer, &next, &pairs, &context).unwrap_err();
    assert!(
        matches!(&error, WorkError::Unusable { inputs, reason }
            if inputs[0].fault == Fault::Producer && reason.contains("was sampled with the adapter")),
        "{error}"
    );
}

#[test]
fn trajectories_that_were_tampered_with_do_not_pass_the_ratio_gate() {
    let (spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let mut trainer: TrainerWork = prepared(&spec);
    let initial = initialise(&mut trainer, &context);
    let mut pairs = pairs(&mut prepared(&spec), &initial, &context);
    let blob = context.get(&pairs[0].candidates[0].trajectory).unwrap();
    let second = pairs[0].candidates[1].trajectory;
    let mut trajectory = gavel_policy::Trajectory::from_safetensors(&blob).unwrap();
    let conditioning = pairs[0].conditioning.unwrap();
    let mut file = ConditioningFile::from_safetensors(&context.get(&conditioning).unwrap()).unwrap();
    for tensor in Arc::make_mut(&mut file.tensors).values_mut() {
        tensor.values.fill(0.0);
    }
    let tampered = context.put(file.to_safetensors());
    trajectory.metadata.conditioning = Some(tampered);
    pairs[0].conditioning = Some(tampered);
    for candidate in &mut pairs[0].candidates {
        candidate.trajectory = context.put(trajectory.to_safetensors());
        trajectory = gavel_policy::Trajectory::from_safetensors(&context.get(&second).unwrap()).unwrap();
        trajectory.metadata.conditioning = Some(tampered);
    }
    let error = shard(&mut trainer, &initial, &pairs, &context).unwrap_err();
    let named = |text: &str| text.contains("before the first update") && text.contains("`velocities`");
    assert!(matches!(&error, WorkError::Fatal(text) if named(text)), "{error}");

    let broken = context.put(blob[..blob.len() / 2].to_vec());
    pairs[0].candidates[0].trajectory = broken;
    let error = shard(&mut trainer, &initial, &pairs, &context).unwrap_err();
    assert!(
        matches!(&error, WorkError::Unusable { inputs, .. } if inputs[0].blob == broken && inputs[0].fault == Fault::Producer),
        "{error}"
    );
}

#[test]
fn an_adapter_of_another_rank_is_refused() {
    let (mut spec, context) = (spec(), WorkContext::in_memory().unwrap());
    let initial = initialise(&mut prepared(&spec), &context);
    spec.lora.rank += 1;
    let assignment = Assignment::Sample {
        step: STEP,
        policy: initial,
        prompts: prompts(),
    };
    let mut sampler: SamplerWork = prepared(&spec);
    let error = sampler
        .perform(&Unit::Sample { step: STEP, chunk: 0 }, &assignment, &context)
        .unwrap_err();
    assert!(
        matches!(&error, WorkError::Fatal(text) if text.contains("has rank 4, the configuration says 5")),
        "{error}"
    );
}
