//! A whole run with made-up results: its events as a ledger has them, without a model or a blob.

use std::path::Path;

use gavel_coordinator::ledger::{EventRecord, RunRecord};
use gavel_core::forecast::rehearsal;
use gavel_core::ids::{Fence, Millis, PromptIndex, Step, WorkerId};
use gavel_core::run::{Event, Phase, Run};
use gavel_core::spec::{OrdersRule, RunSpec};
use gavel_core::work::{
    AbstainReason, Assignment, Fault, Orders, Outcome, Role, Side, Task, Unit, Unusable, Verdict, VerdictRecord,
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
        prompts: ["a cat", "a dog", "a fish", "a bird", "a cow"].map(Task::from).into(),
        rubric: RubricText::new("which is better?"),
        ..RunAssets::default()
    };
    Run::new(spec.id(), spec, assets)
}

/// The same where one flip among four pairs is few enough to ask most pairs of the second step in one image order.
pub(super) fn trusting_run() -> Run {
    let run = run();
    let mut spec = run.spec().clone();
    spec.judge.orders = OrdersRule::Adaptive;
    (spec.judge.orders_trust, spec.judge.orders_window) = (Some(0.25), Some(1));
    Run::new(spec.id(), spec, run.assets().clone())
}

fn verdict(run: &Run, prompt: PromptIndex, step: u32, orders: Orders) -> VerdictRecord {
    // The second pair of the first step is not decided, so that a shard has one that is not trained on.
    let (verdict, order_probabilities) = if (prompt.0, step) == (1, 1) {
        let reason = AbstainReason::OrdersDisagree;
        (Verdict::Abstain { reason }, [0.75, 0.25])
    } else if prompt.0.is_multiple_of(2) {
        (Verdict::Preferred { side: Side::First }, [0.75, 0.875])
    } else {
        (Verdict::Preferred { side: Side::Second }, [0.25, 0.125])
    };
    let order_probabilities = match orders {
        Orders::Both => order_probabilities,
        Orders::Straight => [order_probabilities[0]; 2],
        Orders::Swapped => [order_probabilities[1]; 2],
    };
    VerdictRecord {
        prompt_index: prompt,
        verdict,
        probability_first: 0.5 * (order_probabilities[0] + order_probabilities[1]),
        order_probabilities,
        rubric: run.assets().rubric.digest,
        votes: Vec::new(),
        reasons: Vec::new(),
        difference: None,
        scores: None,
        orders,
    }
}

/// A faultless worker's result of what it was given, but for its verdicts, of which the tests must know which are decided.
fn outcome(run: &Run, unit: &Unit, assignment: &Assignment) -> Outcome {
    let mut outcome = rehearsal::work(run.spec(), run.assets().general_rubric(unit), assignment);
    if let (Unit::Judge { step, .. }, Outcome::Judged { verdicts, .. }) = (unit, &mut outcome) {
        for record in verdicts {
            *record = verdict(run, record.prompt_index, step.0, record.orders);
        }
    }
    outcome
}

/// The events of a run from beginning to end. `disturb` may end a lease otherwise than by its result.
fn drive(mut run: Run, mut disturb: impl FnMut(&Run, Unit, WorkerId, Fence) -> Option<Event>) -> Vec<Event> {
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
    events_of(run())
}

/// The same of another run.
pub(super) fn events_of(run: Run) -> Vec<Event> {
    let mut returned = false;
    drive(run, |_, unit, worker, fence| {
        let first = !std::mem::replace(&mut returned, true);
        first.then_some(Event::Released {
            unit,
            worker,
            fence,
            reason: None,
        })
    })
}

/// A run in which the first trajectory of step 1 was lost before its gradient was taken, and made again.
pub(super) fn events_with_a_loss() -> Vec<Event> {
    let mut lost = false;
    drive(run(), |run, unit, worker, fence| {
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
    history_of(&run(), events)
}

pub(super) fn history_of(run: &Run, events: &[Event]) -> History {
    let record = RunRecord::new(
        run.id().clone(),
        serde_json::to_string(run.spec()).unwrap(),
        serde_json::to_string(run.assets()).unwrap(),
        run.spec_sha256().to_string(),
        Millis(0),
    );
    let mut chain = record.chain;
    let events = (1..).zip(events).map(|(sequence, event)| {
        let value = serde_json::to_value(event).unwrap();
        let kind = value["kind"].as_str().unwrap().to_owned();
        let at = Millis(sequence);
        let event = EventRecord::new(&chain, record.run.clone(), sequence, at, kind, value.to_string());
        chain = event.chain;
        event
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
