//! What a seed stands for: the runs, the fleet, and what goes wrong how often.

use std::time::Duration;

use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::{HeldOutJudgeSpec, OrdersRule, RunSpec, StopSpec, WriterSpec};
use gavel_core::work::Role;
use gavel_core::work::{Side, Task};
use gavel_core::{Annotations, HeldOutJudgeAssets, LabelledPair, PromptRubric, PromptRubrics, RubricText, RunAssets};

use super::chance::Chance;

const HOUR: u64 = 3_600_000;

/// One schedule's circumstances. Times are in milliseconds.
pub(super) struct Plan {
    pub(super) runs: Vec<PlannedRun>,
    pub(super) workers: Vec<PlannedWorker>,
    pub(super) heartbeat: u64,
    pub(super) worker_timeout: u64,
    /// How long the coordinator holds a request for work.
    pub(super) lease_wait: u64,
    /// Events from one snapshot to the next.
    pub(super) snapshot_events: u64,
    /// After this nothing goes wrong any more, and the runs must finish.
    pub(super) faults_until: u64,
    pub(super) faults: Faults,
}

/// A run, and when it is submitted.
#[derive(Clone)]
pub(super) struct PlannedRun {
    pub(super) id: RunId,
    pub(super) spec: RunSpec,
    pub(super) assets: RunAssets,
    pub(super) submitted: u64,
}

pub(super) struct PlannedWorker {
    pub(super) role: Role,
    /// Its units take this many times as long.
    pub(super) slowness: u64,
    pub(super) prefetch: usize,
    pub(super) liar: bool,
}

/// Shares of messages and attempts, and mean times between events; 0 where it never happens.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) loss: f64,
    pub(super) duplication: f64,
    /// Messages that take up to seconds, and so overtake each other.
    pub(super) delay: f64,
    pub(super) failure: f64,
    /// Units that are given back because something outside of the fleet is away.
    pub(super) unavailable: f64,
    pub(super) fatal: f64,
    pub(super) lie: f64,
    /// Blobs of liars that only their readers can tell to be wrong.
    pub(super) mislead: f64,
    /// Old results that are handed in again, and leases of others that are given back.
    pub(super) forgery: f64,
    /// Callers that wait for work and hang up while the answer is written down.
    pub(super) hang_up: f64,
    /// A run's row that is written, or is not, while the ledger reports a failure.
    pub(super) creation: f64,
    /// Snapshots and commits that are not what they were when a coordinator starts.
    pub(super) damage: f64,
    pub(super) worker_crash: u64,
    pub(super) worker_leaves: u64,
    pub(super) freeze: u64,
    pub(super) partition: u64,
    pub(super) coordinator_crash: u64,
    pub(super) ledger_failure: u64,
    pub(super) coordinator_restart: u64,
    pub(super) drain: u64,
    pub(super) order: u64,
    pub(super) blob_loss: u64,
    /// A coordinator's wall clock may be wrong by this much either way, differently in each of its lives.
    pub(super) clock: u64,
    /// Somebody sets the wall clock of the coordinator's machine, by as much.
    pub(super) clock_step: u64,
}

impl Plan {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let heartbeat = chance.between(400, 1_000);
        let runs = if chance.happens(0.15) { 2 } else { 1 };
        let runs = (0..runs)
            .map(|run| {
                let mut planned = PlannedRun {
                    id: RunId(format!("run-{run}")),
                    spec: spec(chance, heartbeat),
                    assets: assets(chance),
                    submitted: chance.below(1_000),
                };
                if chance.happens(0.3) {
                    planned.watch(chance);
                }
                if chance.happens(0.3) {
                    planned.write();
                }
                if chance.happens(0.3) {
                    planned.spare(chance);
                }
                if planned.spec.evaluation.is_some() && chance.happens(0.4) {
                    planned.question(chance);
                }
                planned
            })
            .collect();
        let mut workers = Vec::new();
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            for _ in 0..chance.pick(&[1, 1, 2, 2, 3]) {
                workers.push(PlannedWorker {
                    role,
                    slowness: chance.pick(&[1, 1, 1, 2, 4, 15]),
                    prefetch: chance.pick(&[0, 0, 1, 2]),
                    liar: chance.happens(0.15),
                });
            }
        }
        Self {
            runs,
            workers,
            heartbeat,
            worker_timeout: heartbeat * chance.between(3, 6),
            lease_wait: chance.between(500, 4_000),
            snapshot_events: chance.pick(&[30, 100, 300, 1_000]),
            faults_until: chance.between(3_000, 20_000),
            faults: Faults::draw(chance),
        }
    }
}

impl PlannedRun {
    /// Has the rubrics of the prompts written that the files have none for.
    fn write(&mut self) {
        self.spec.judge.writer = Some(WriterSpec::default());
        self.assets.writer_template = Some("what is to decide?".into());
    }

    /// Has questions asked about the pictures of some held-out prompts.
    fn question(&mut self, chance: &mut Chance) {
        let of_prompt = |prompt| {
            let count = chance.below(4);
            (0..count)
                .map(|number| format!("Is it {number} of {prompt}?"))
                .collect()
        };
        self.assets.questions = (0..self.assets.held_out.len()).map(of_prompt).collect();
    }

    /// Spares the judge questions: pairs in one image order where it is trusted, none about pictures that are too alike, or both.
    fn spare(&mut self, chance: &mut Chance) {
        let judge = &mut self.spec.judge;
        let both = chance.below(3);
        if both != 0 {
            judge.orders = OrdersRule::Adaptive;
            judge.orders_trust = Some(chance.pick(&[0.0, 0.1, 0.5]));
            judge.orders_window = Some(1);
            judge.orders_recheck = Some(chance.pick(&[0.1, 0.5]));
            // Trust is earned by the first steps.
            self.spec.run.steps = self.spec.run.steps.max(2 + self.spec.sampling.max_policy_lag);
        }
        if both != 1 {
            self.spec.judge.min_distance = Some(chance.pick(&[0.05, 0.3]));
        }
    }

    /// Gives the run a held-out judge, and perhaps a rule that looks at what it says.
    fn watch(&mut self, chance: &mut Chance) {
        self.spec.judge.held_out = Some(Box::new(HeldOutJudgeSpec {
            share: chance.pick(&[0.1, 0.5, 1.0]),
            ..HeldOutJudgeSpec::default()
        }));
        self.assets.held_out_judge = Some(HeldOutJudgeAssets {
            rubric: RubricText::new("prefer the right one"),
            prompt_rubrics: own_rubrics(&self.assets.prompts, 2),
            ..HeldOutJudgeAssets::default()
        });
        if let Some(stop) = &mut self.spec.stop {
            stop.agreement_min = Some(0.9);
            stop.agreement_steps = Some(chance.between(1, 2) as u32);
        }
    }
}

impl Faults {
    /// Each kind of fault is missing in many schedules, so that none hides what another one shows.
    fn draw(chance: &mut Chance) -> Self {
        Self {
            loss: share(chance, 0.5, 0.15),
            duplication: share(chance, 0.5, 0.15),
            delay: share(chance, 0.5, 0.15),
            failure: share(chance, 0.4, 0.2),
            unavailable: share(chance, 0.3, 0.3),
            fatal: share(chance, 0.1, 0.02),
            lie: share(chance, 0.8, 0.5),
            mislead: share(chance, 0.5, 0.3),
            forgery: share(chance, 0.4, 0.2),
            hang_up: share(chance, 0.3, 0.2),
            creation: share(chance, 0.2, 0.5),
            damage: share(chance, 0.3, 0.5),
            worker_crash: every(chance, 0.6, 2_000, 10_000),
            worker_leaves: every(chance, 0.3, 2_000, 10_000),
            freeze: every(chance, 0.4, 2_000, 10_000),
            partition: every(chance, 0.4, 2_000, 10_000),
            coordinator_crash: every(chance, 0.5, 1_500, 10_000),
            ledger_failure: every(chance, 0.5, 1_500, 10_000),
            coordinator_restart: every(chance, 0.2, 3_000, 10_000),
            drain: every(chance, 0.1, 3_000, 15_000),
            order: every(chance, 0.4, 1_000, 8_000),
            blob_loss: every(chance, 0.4, 700, 8_000),
            clock: chance.pick(&[0, 0, 3_000, HOUR]),
            clock_step: every(chance, 0.4, 1_000, 8_000),
        }
    }
}

fn share(chance: &mut Chance, present: f64, most: f64) -> f64 {
    let share = most * chance.below(1_000) as f64 / 1_000.0;
    if chance.happens(present) { share } else { 0.0 }
}

fn every(chance: &mut Chance, present: f64, low: u64, high: u64) -> u64 {
    let mean = chance.between(low, high);
    if chance.happens(present) { mean } else { 0 }
}

fn spec(chance: &mut Chance, heartbeat: u64) -> RunSpec {
    let mut spec = RunSpec {
        evaluation: chance.happens(0.5).then(Default::default),
        ..RunSpec::default()
    };
    spec.run.name = "simulated".into();
    spec.run.seed = chance.below(1_000);
    spec.run.steps = match spec.evaluation {
        // It trains nothing and evaluates what it begins with.
        Some(_) if chance.happens(0.1) => 0,
        _ => chance.between(1, 3) as u32,
    };
    spec.prompts.per_step = chance.between(1, 7) as u32;
    spec.sampling.batch = chance.between(1, 4) as u32;
    spec.sampling.candidates = chance.pick(&[2, 2, 3, 4]);
    spec.sampling.max_policy_lag = chance.below(3) as u32;
    spec.judge.batch = chance.between(1, 4) as u32;
    spec.trainer.shard = chance.between(1, 5) as u32;
    spec.checkpoints.every = chance.between(0, 2) as u32;
    spec.optimizer.ema_decay = chance.pick(&[0.0, 0.9]);
    // With few attempts a judge's failures become part of the result; with many they must not.
    spec.limits.attempts = chance.pick(&[3, 1_000, 1_000]);
    // A unit that is given up stops its run, which is then resumed.
    spec.limits.lost_leases = chance.pick(&[2, 4, 10]);
    spec.coordinator.keep_steps = chance.between(0, 2) as u32;
    spec.fleet.heartbeat = Duration::from_millis(heartbeat);
    spec.fleet.lease = Duration::from_millis(heartbeat * chance.between(2, 6));
    if let Some(evaluation) = &mut spec.evaluation {
        evaluation.batch = chance.between(1, 3) as u32;
        if chance.happens(0.5) {
            evaluation.every = Some(chance.between(1, 2) as u32);
            evaluation.subset = Some(chance.between(1, 5) as u32);
        }
    }
    if chance.happens(0.2) {
        // Whoever watches over the simulated runs resumes them.
        spec.stop = Some(StopSpec {
            patience: spec.evaluation.as_ref().and_then(|evaluation| evaluation.every),
            kl_max: chance.happens(0.5).then_some(0.1),
            decided_min: chance.happens(0.5).then_some(0.9),
            diversity_min: chance.happens(0.5).then_some(0.05),
            ..StopSpec::default()
        });
    }
    spec
}

/// A prompt or an edit; edits may share their source pictures, training and held-out ones too.
fn task(chance: &mut Chance, edits: bool, words: String) -> Task {
    let count = if edits { chance.between(1, 2) } else { 0 };
    let sources = (0..count).map(|_| Digest::of(&[chance.below(3) as u8])).collect();
    Task { words, sources }
}

/// Rubrics of their own for one in so many of these tasks.
fn own_rubrics<'a>(tasks: impl IntoIterator<Item = &'a Task>, one_in: usize) -> PromptRubrics {
    let chosen = tasks.into_iter().step_by(one_in);
    let rubrics = chosen.map(|task| PromptRubric {
        task: task.clone(),
        rubric: Digest::of(format!("rubric of {}", task.words).as_bytes()),
    });
    PromptRubrics::new(rubrics.collect())
}

fn assets(chance: &mut Chance) -> RunAssets {
    let edits = chance.happens(0.5);
    let mut tasks = |most: u64, words: &str| -> Vec<Task> {
        let count = chance.between(1, most);
        (0..count)
            .map(|line| task(chance, edits, format!("{words} {line}")))
            .collect()
    };
    let (prompts, held_out) = (tasks(9, "prompt"), tasks(5, "held-out"));
    RunAssets {
        prompt_rubrics: own_rubrics(prompts.iter().chain(&held_out), 3),
        prompts,
        held_out,
        annotations: Annotations::default(),
        questions: Vec::new(),
        rubric: RubricText::new("prefer the better one"),
        template: String::new(),
        member_templates: Vec::new(),
        reason_template: None,
        writer_template: None,
        held_out_judge: None,
        initial_adapter: None,
        labelled: (0..chance.below(4) as u8)
            .map(|pair| LabelledPair {
                task: format!("labelled {pair}").into(),
                first: Digest::of(&[pair, 0]),
                second: Digest::of(&[pair, 1]),
                preferred: Side::First,
            })
            .collect(),
        models: Default::default(),
    }
}
