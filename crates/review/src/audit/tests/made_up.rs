//! A whole run with made-up results: its events as a ledger has them, without a model or a blob.

use std::path::Path;

use gavel_coordinator::ledger::{EventRecord, RunRecord};
use gavel_core::ids::{Candidate, Digest, Fence, Millis, PromptIndex, Step, WorkerId};
use gavel_core::rpo::learning_rate;
use gavel_core::run::{Event, Phase, Run};
use gavel_core::spec::RunSpec;
use gavel_core::work::{
    AbstainReason, Assignment, Fault, Outcome, Policy, Role, Sampled, ShardStatistics, Side, Unit, Unusable, Verdict,
    VerdictRecord,
};
use gavel_core::{RubricText, RunAssets};

use crate::History;

pub(super) const STEPS: u32 = 2;

pub(super) fn run() -> Run {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml");
    let text = std::fs::read_to_string(file).unwrap();
    let mut spec = RunSpec::from_value(toml::from_str(&text).unwrap()).unwrap();
    spec.run.steps = STEPS;
    spec.prompts.per_step = 4;
    spec.sampling.batch = 2;
    spec.judge.batch = 2;
    spec.trainer.shard = 2;
    spec.optimizer.ema_decay = 0.0;
    spec.evaluation = None;
    let assets = RunAssets {
        prompts: ["a cat", "a dog", "a fish", "a bird", "a cow"]
            .map(str::to_owned)
            .into(),
        rubric: RubricText::new("which is better?"),
        ..RunAssets::default()
    };
    Run::new(spec.id(), spec, assets)
}

pub(super) fn policy(version: u32) -> Policy {
    Policy {
        adapter: Digest::of(format!("adapter {version}").as_bytes()),
        optimizer: Digest::of(format!("optimizer {version}").as_bytes()),
        averaged: None,
        manifest: Digest::of(b"manifest"),
        tensors: 4,
    }
}

pub(super) fn verdict(run: &Run, prompt: PromptIndex, step: u32) -> VerdictRecord {
    // The second pair of the first step is not decided, so that a shard has one that is not trained on.
    let (verdict, order_probabilities) = if (prompt.0, step) == (1, 1) {
        let reason = AbstainReason::OrdersDisagree;
        (Verdict::Abstain { reason }, [0.75, 0.25])
    } else if prompt.0.is_multiple_of(2) {
        (Verdict::Preferred { side: Side::First }, [0.75, 0.875])
    } else {
        (Verdict::Preferred { side: Side::Second }, [0.25, 0.125])
    };
    VerdictRecord {
        prompt,
        verdict,
        probability_first: 0.5 * (order_probabilities[0] + order_probabilities[1]),
        order_probabilities,
        rubric: run.assets().rubric.digest,
        votes: Vec::new(),
        reasons: Vec::new(),
    }
}

/// A made-up result of what a worker was given.
pub(super) fn outcome(run: &Run, unit: &Unit, assignment: &Assignment) -> Outcome {
    let seconds = 0.5;
    match assignment {
        Assignment::Initialise => Outcome::Initialised {
            policy: policy(0),
            model: Digest::of(b"flux"),
        },
        Assignment::Sample { step, policy, prompts } => Outcome::Sampled {
            samples: prompts
                .iter()
                .flat_map(|prompt| [0, 1].map(|candidate| (prompt.index, candidate)))
                .map(|(prompt, candidate)| {
                    let name = |kind: &str| Digest::of(format!("{kind} {step} {prompt} {candidate}").as_bytes());
                    Sampled {
                        prompt,
                        candidate: Candidate(candidate),
                        trajectory: Some(name("trajectory")),
                        image: name("image"),
                    }
                })
                .collect(),
            manifest: Some(policy.manifest),
            model: Digest::of(b"flux"),
            seconds,
        },
        Assignment::Judge { pairs } => {
            let Unit::Judge { step, .. } = unit else {
                panic!("there is no evaluation")
            };
            Outcome::Judged {
                verdicts: pairs.iter().map(|pair| verdict(run, pair.prompt, step.0)).collect(),
                model: Digest::of(b"judge"),
                seconds,
            }
        }
        Assignment::Gradient { policy, groups, .. } => Outcome::Gradient {
            gradient: Some(Digest::of(unit.to_string().as_bytes())),
            manifest: policy.manifest,
            model: Digest::of(b"flux"),
            statistics: ShardStatistics {
                terms: 2 * (groups.len() * run.spec().trained_steps().len()) as u64,
                ..ShardStatistics::default()
            },
            skipped: Vec::new(),
            seconds,
        },
        Assignment::Commit { step, .. } => Outcome::Committed {
            policy: policy(step.0),
            grad_norm: 1.0,
            learning_rate: learning_rate(&run.spec().optimizer, *step, STEPS),
            seconds,
        },
        Assignment::EvaluateSample { .. } => panic!("there is no evaluation"),
    }
}

/// The events of a run from beginning to end. `disturb` may end a lease otherwise than by its result.
pub(super) fn drive(mut disturb: impl FnMut(&Run, Unit, WorkerId, Fence) -> Option<Event>) -> Vec<Event> {
    let mut run = run();
    let mut events = Vec::new();
    let mut apply = |run: &mut Run, event: Event| {
        run.apply(event.clone(), Millis(events.len() as u64)).unwrap();
        events.push(event);
    };
    while run.phase() != Phase::Finished {
        let roles = [Role::Sampler, Role::Judge, Role::Trainer];
        let unit = roles.into_iter().find_map(|role| run.next_unit(role)).unwrap();
        let (worker, fence) = (WorkerId(format!("{}-1", unit.role())), run.next_fence());
        let granted = Event::Granted {
            unit,
            worker: worker.clone(),
            fence,
        };
        apply(&mut run, granted);
        let event = disturb(&run, unit, worker.clone(), fence).unwrap_or_else(|| Event::Completed {
            unit,
            worker,
            fence,
            outcome: outcome(&run, &unit, &run.assignment(&unit).unwrap()),
        });
        apply(&mut run, event);
    }
    events
}

/// An undisturbed run, but that the first lease of all is given back once and granted again.
pub(super) fn events() -> Vec<Event> {
    let mut returned = false;
    drive(|_, unit, worker, fence| {
        let first = !std::mem::replace(&mut returned, true);
        first.then_some(Event::Released { unit, worker, fence })
    })
}

/// A run in which the first trajectory of step 1 was lost before its gradient was taken, and made again.
pub(super) fn events_with_a_loss() -> Vec<Event> {
    let mut lost = false;
    drive(|run, unit, worker, fence| {
        if unit != GRADIENT || std::mem::replace(&mut lost, true) {
            return None;
        }
        let Some(Assignment::Gradient { groups, .. }) = run.assignment(&unit) else {
            return None;
        };
        Some(Event::Failed {
            unit,
            worker,
            fence,
            reason: "an input cannot be read".into(),
            fatal: false,
            unusable: vec![Unusable {
                blob: groups[0].candidates[0].trajectory,
                fault: Fault::Storage,
            }],
        })
    })
}

pub(super) fn history(events: &[Event]) -> History {
    let run = run();
    let record = RunRecord {
        run: run.id().clone(),
        spec: serde_json::to_string(run.spec()).unwrap(),
        assets: serde_json::to_string(run.assets()).unwrap(),
        spec_sha256: run.spec_sha256().to_string(),
        created: Millis(0),
    };
    let events = (1..).zip(events).map(|(sequence, event)| {
        let value = serde_json::to_value(event).unwrap();
        EventRecord {
            run: record.run.clone(),
            sequence,
            at: Millis(sequence),
            kind: value["kind"].as_str().unwrap().to_owned(),
            event: value.to_string(),
        }
    });
    History {
        events: events.collect(),
        record: record.clone(),
    }
}

pub(super) const SAMPLE: Unit = Unit::Sample {
    step: Step(2),
    chunk: 1,
};
pub(super) const JUDGE: Unit = Unit::Judge {
    step: Step(2),
    chunk: 0,
};
pub(super) const GRADIENT: Unit = Unit::Gradient {
    step: Step(1),
    shard: 0,
};
pub(super) const COMMIT: Unit = Unit::Commit { step: Step(1) };
