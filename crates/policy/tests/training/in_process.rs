//! A step and an evaluation in this process, on the shipped small model.

use crate::common::{tiny_flux, trainer};
use gavel_core::{
    ids::{Digest, PromptIndex, Step},
    spec::RunSpec,
    work::{AbstainReason, Orders, Side, Verdict, VerdictRecord},
};
use gavel_models::Family;
use gavel_models::denoiser::Task;
use gavel_models::load::Placement;
use gavel_models::lora::LoraConfig;
use gavel_policy::in_process::{InProcess, Labelled, judge_counts};
use gavel_policy::{Policy, PolicyState, Prompt, Sampler};
use gavel_rubric::{AskError, Judge, JudgedPair, RubricSet, Rubrics};
use image::RgbImage;

/// Prefers the first picture of prompts with an even index, abstains on those whose index is 3, else prefers the second.
struct ByIndex;

impl Judge for ByIndex {
    fn name(&self) -> &str {
        "by index"
    }

    fn identity(&self) -> Digest {
        Digest([0; 32])
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let record = |pair: &JudgedPair<'_>| VerdictRecord {
            prompt_index: pair.prompt_index,
            verdict: match pair.prompt_index.0 {
                3 => Verdict::Abstain {
                    reason: AbstainReason::TooClose,
                },
                index if index % 2 == 0 => Verdict::Preferred { side: Side::First },
                _ => Verdict::Preferred { side: Side::Second },
            },
            probability_first: 0.5,
            order_probabilities: [0.5; 2],
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

fn spec() -> RunSpec {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/quickstart.toml");
    let mut spec = RunSpec::from_value(std::fs::read_to_string(file).unwrap().parse().unwrap()).unwrap();
    spec.sampling.steps = 3;
    spec.sampling.noise_steps = 2;
    spec.sampling.batch = 3;
    spec.judge.batch = 2;
    spec
}

fn prompts() -> Vec<Prompt<'static>> {
    let words = ["a red circle", "a green square", "a black triangle", "a blue circle"];
    let prompt = |(index, words): (u32, &'static str)| Prompt {
        index: PromptIndex(index),
        task: Task { words, sources: &[] },
        sources: &[],
    };
    (0..).zip(words).map(prompt).collect()
}

fn with_local<T>(spec: &RunSpec, act: impl FnOnce(&mut InProcess<'_>) -> T) -> T {
    act(&mut InProcess {
        spec,
        sampler: &mut Sampler::load(Family::Flux, &tiny_flux(), &Placement::cpu()).unwrap(),
        judge: &ByIndex,
        rubrics: &Rubrics::one(RubricSet::from_text("by index").unwrap()),
    })
}

fn initial(spec: &RunSpec) -> PolicyState {
    let lora = LoraConfig::from(&spec.lora);
    trainer()
        .initialise(&lora, spec.run.seed, spec.optimizer.averages())
        .unwrap()
}

#[test]
fn a_step_trains_on_the_groups_that_the_judge_decides() {
    let spec = spec();
    let state = initial(&spec);
    let step = with_local(&spec, |local| {
        local.step(&trainer(), &state, Step(1), &prompts()).unwrap()
    });
    assert_eq!(step.decided, 3, "one of four is an abstention");
    assert_eq!(step.updated.statistics.terms, 3 * 2 * 2);
    assert!(step.updated.grad_norm > 0.0);
    assert_ne!(step.updated.state.adapter, state.adapter);
}

#[test]
fn a_step_without_a_decision_leaves_the_policy() {
    let spec = spec();
    let state = initial(&spec);
    let step = with_local(&spec, |local| {
        local.step(&trainer(), &state, Step(1), &prompts()[3..]).unwrap()
    });
    assert_eq!((step.decided, step.updated.statistics.terms), (0, 0));
    assert_eq!(
        step.updated.state.encode().unwrap().policy,
        state.encode().unwrap().policy
    );
}

#[test]
fn the_files_of_a_policy_are_what_each_is_by_itself_under_the_names_of_their_bytes() {
    let mut state = initial(&spec());
    let average: Vec<f32> = state.adapter.flatten().iter().map(|value| value * 0.5).collect();
    for average in [None, Some(average)] {
        state.optimizer.average = average;
        let encoded = state.encode().unwrap();
        assert_eq!(encoded.adapter, state.adapter.to_safetensors().unwrap());
        assert_eq!(encoded.optimizer, state.optimizer.to_safetensors());
        let averaged = state
            .averaged()
            .unwrap()
            .map(|averaged| averaged.to_safetensors().unwrap());
        assert_eq!(encoded.averaged, averaged);
        let names = (
            encoded.policy.adapter,
            encoded.policy.optimizer,
            encoded.policy.averaged,
        );
        let of_bytes = (Digest::of(&encoded.adapter), Digest::of(&encoded.optimizer));
        assert_eq!(names, (of_bytes.0, of_bytes.1, averaged.as_deref().map(Digest::of)));
    }
}

#[test]
fn an_evaluation_compares_the_base_with_the_policy_from_the_same_noise() {
    let spec = spec();
    let fresh = initial(&spec).adapter;
    let mut moved = fresh.clone();
    let louder: Vec<f32> = moved.flatten().iter().map(|value| value + 0.05).collect();
    moved.unflatten(&louder).unwrap();
    with_local(&spec, |local| {
        let mut evaluate = |adapter| {
            let digest = Digest([1; 32]);
            local.evaluate(Policy::Adapted { digest, adapter }, &prompts()).unwrap()
        };
        let same = evaluate(&fresh);
        assert_eq!(same.base, same.tuned, "B is still zero");
        let other = evaluate(&moved);
        assert_eq!(other.base, same.base);
        assert!(other.base.iter().zip(&other.tuned).all(|(base, tuned)| base != tuned));
        let rate = other.win_rate.unwrap();
        assert_eq!((rate.prompts, rate.wins, rate.losses, rate.abstained), (4, 1, 2, 1));
    });
}

#[test]
fn agreement_counts_what_was_asked_decided_and_right() {
    let picture = RgbImage::new(4, 4);
    let labelled = [Side::First, Side::First, Side::Second, Side::First].map(|preferred| Labelled {
        sources: &[],
        task: Task {
            words: "a circle",
            sources: &[],
        },
        first: &picture,
        second: &picture,
        preferred,
    });
    let rubrics = Rubrics::one(RubricSet::from_text("by index").unwrap());
    let counts = judge_counts(&ByIndex, &rubrics, &labelled).unwrap();
    assert_eq!((counts.judged, counts.decided, counts.right), (4, 3, 1));
}
