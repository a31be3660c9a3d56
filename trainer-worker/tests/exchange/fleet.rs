//! A coordinator, a sampler, a judge and trainers, over real gRPC. Every worker has its own runtime, so that it can be
//! killed: no heartbeat, no farewell.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gavel_coordinator::{Coordinator, CoordinatorHandle, CoordinatorOptions, Listeners};
use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::run::RunStatus;
use gavel_core::spec::{GradientExchange, RunSpec};
use gavel_core::work::{Assignment, Orders, Outcome, Role, Unit};
use gavel_core::work::{Side, Verdict, VerdictRecord};
use gavel_core::{RubricText, RunAssets};
use gavel_sampler_worker::SamplerWork;
use gavel_trainer_worker::TrainerWork;
use gavel_trainer_worker::exchange::Exchange;
use gavel_worker::{Allowed, Work, WorkContext, WorkError, WorkerOptions};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub(crate) const SHARDS: u32 = 6;
pub(crate) const STEPS: u32 = 2;

/// Two steps of six pairs, one pair to a shard, of the shipped small model.
pub(crate) fn spec(exchange: GradientExchange) -> RunSpec {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("configs/quickstart.toml")).unwrap();
    let mut spec = RunSpec::from_value(text.parse().unwrap()).unwrap();
    spec.run.steps = STEPS;
    spec.model.path = root.join("models/tiny-flux");
    spec.prompts.per_step = SHARDS;
    spec.sampling.steps = 3;
    spec.sampling.noise_steps = 2;
    spec.sampling.batch = 3;
    spec.judge.batch = SHARDS;
    spec.trainer.shard = 1;
    spec.trainer.exchange = exchange;
    spec.evaluation = None;
    spec
}

fn assets() -> RunAssets {
    let colours = ["red", "green", "blue", "white", "black", "yellow"];
    RunAssets {
        prompts: colours
            .map(|colour| format!("a {colour} circle on a grey background").into())
            .to_vec(),
        rubric: RubricText::new("the first is better"),
        ..RunAssets::default()
    }
}

/// Prefers a side by the prompt's place.
struct FakeJudge(Option<Digest>);

impl Work for FakeJudge {
    fn prepare(&mut self, _: &RunId, _: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.0 = Some(assets.rubric.digest);
        Ok(())
    }

    fn perform(&mut self, _: &Unit, assignment: &Assignment, _: &WorkContext) -> Result<Outcome, WorkError> {
        let Assignment::Judge { pairs } = assignment else {
            panic!("{assignment:?}")
        };
        let verdict = |pair: &gavel_core::work::Pair| {
            let (side, probability) = match pair.prompt_index.0 % 3 {
                0 => (Side::Second, 0.1),
                _ => (Side::First, 0.9),
            };
            VerdictRecord {
                prompt_index: pair.prompt_index,
                verdict: Verdict::Preferred { side },
                probability_first: probability,
                order_probabilities: [probability; 2],
                rubric: self.0.unwrap(),
                votes: Vec::new(),
                reasons: Vec::new(),
                difference: None,
                scores: None,
                orders: Orders::Both,
            }
        };
        Ok(Outcome::Judged {
            verdicts: pairs.iter().map(verdict).collect(),
            model: Digest::of(b"judge"),
            spent: None,
            seconds: 0.1,
        })
    }
}

/// Has every trainer do as many shards of a step as the others, where they are done for the first time.
#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<TurnsState>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnsState {
    trainers: usize,
    done: BTreeSet<(Step, u32)>,
    waiting: usize,
    round: u64,
}

impl Turns {
    /// From now on nobody waits for the others.
    pub(crate) fn end(&self) {
        self.state.lock().unwrap().trainers = 1;
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self, step: Step, shard: u32, cancelled: &dyn Fn() -> bool) {
        let mut state = self.state.lock().unwrap();
        if !state.done.insert((step, shard)) {
            return;
        }
        state.waiting += 1;
        let round = state.round;
        loop {
            if state.waiting >= state.trainers {
                state.waiting = 0;
                state.round += 1;
                self.changed.notify_all();
            }
            if state.round != round || cancelled() {
                return;
            }
            state = self.changed.wait_timeout(state, Duration::from_millis(20)).unwrap().0;
        }
    }
}

/// What a test does before a commit.
pub(crate) type BeforeCommit = Box<dyn FnMut(Step) + Send>;

/// What a trainer does before each unit.
pub(crate) type BeforeUnit = Box<dyn FnMut(&Unit, &WorkContext) + Send>;

struct TrainerInTurn {
    work: TrainerWork,
    before: BeforeUnit,
}

impl Work for TrainerInTurn {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.work.prepare(run, spec, assets)
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        (self.before)(unit, context);
        self.work.perform(unit, assignment, context)
    }

    fn assist(
        &mut self,
        assignment: &Assignment,
        group: &gavel_core::work::rally::Group,
        context: &WorkContext,
    ) -> Result<(), WorkError> {
        self.work.assist(assignment, group, context)
    }
}

/// A worker with its runtime.
pub(crate) struct Process {
    runtime: Runtime,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), gavel_worker::Error>>,
}

impl Process {
    fn start(role: Role, coordinator: SocketAddr, work: impl Work + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shutdown = CancellationToken::new();
        let options = WorkerOptions {
            // The tests run in this crate's folder, and the run names models beside it.
            allowed: Allowed {
                model_folders: vec!["..".into()],
                ..Allowed::default()
            },
            ..WorkerOptions::new(coordinator.to_string(), [role], "cpu")
        };
        let ended = runtime.spawn(gavel_worker::run(options, work, shutdown.clone()));
        Self {
            runtime,
            shutdown,
            ended,
        }
    }

    pub(crate) fn trainer(coordinator: SocketAddr, exchange: impl Exchange + 'static, before: BeforeUnit) -> Self {
        let work = TrainerInTurn {
            work: TrainerWork::with_exchange(Box::new(exchange)),
            before,
        };
        Self::start(Role::Trainer, coordinator, work)
    }

    /// Leaves the fleet in good order.
    pub(crate) fn stop(self) {
        self.shutdown.cancel();
        let ended = self.runtime.block_on(self.ended);
        ended.unwrap().unwrap();
        self.runtime.shutdown_background();
    }

    /// Ends at once, as after a SIGKILL.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// A fleet with a run.
pub(crate) struct Fleet {
    runtime: Runtime,
    coordinator: CoordinatorHandle,
    shutdown: CancellationToken,
    others: Vec<Process>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) folder: tempfile::TempDir,
}

impl Fleet {
    /// A coordinator, a sampler and a judge, for so many trainers that take turns.
    pub(crate) fn start(exchange: GradientExchange, trainers: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let mut options = CoordinatorOptions::new(folder.path());
        options.heartbeat = Duration::from_millis(100);
        options.worker_timeout = Duration::from_secs(3);
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let coordinator = runtime.block_on(async {
            let listeners = Listeners::bind(any_port, any_port).await.unwrap();
            let coordinator = Coordinator::start(options, listeners, shutdown.clone()).await.unwrap();
            let run = RunId("run".into());
            coordinator
                .driver()
                .submit(run, spec(exchange), assets())
                .await
                .unwrap();
            coordinator
        });
        let address = coordinator.grpc_address();
        let others = vec![
            Process::start(Role::Sampler, address, SamplerWork::default()),
            Process::start(Role::Judge, address, FakeJudge(None)),
        ];
        let turns = Turns::default();
        turns.state.lock().unwrap().trainers = trainers;
        Self {
            runtime,
            coordinator,
            shutdown,
            others,
            turns: Arc::new(turns),
            folder,
        }
    }

    pub(crate) fn trainer(&self, exchange: impl Exchange + 'static, mut before_commit: BeforeCommit) -> Process {
        let turns = Arc::clone(&self.turns);
        let before: BeforeUnit = Box::new(move |unit, context| match *unit {
            Unit::Gradient { step, shard } => turns.wait(step, shard, &|| context.cancelled()),
            Unit::Commit { step } => before_commit(step),
            _ => {}
        });
        Process::trainer(self.address(), exchange, before)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.coordinator.grpc_address()
    }

    /// Waits until the run has ended.
    pub(crate) fn finish(&self) -> RunStatus {
        let run = RunId("run".into());
        let driver = self.coordinator.driver();
        self.runtime.block_on(async {
            let mut changes = driver.watch(&run).await.unwrap();
            loop {
                changes.mark_unchanged();
                let status = driver.status(&run).await.unwrap();
                if status.phase.is_ended() {
                    return status;
                }
                changes.changed().await.unwrap();
            }
        })
    }

    pub(crate) fn stop(self) {
        self.others.into_iter().for_each(Process::stop);
        self.shutdown.cancel();
        self.runtime.block_on(self.coordinator.join()).unwrap();
    }
}
