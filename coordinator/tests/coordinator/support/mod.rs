//! A whole fleet in one process: a real coordinator on port 0, real workers over real gRPC, and work that is quick and
//! deterministic. Waiting is always for an event.

pub(crate) mod large;
pub(crate) mod process;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use gavel_coordinator::{Coordinator, CoordinatorHandle, CoordinatorOptions, Listeners, Stores};
use gavel_core::RunAssets;
use gavel_core::forecast::rehearsal;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, Outcome, Role, Side, Unit};
use gavel_core::{LabelledPair, PromptRubric, PromptRubrics, RubricText};
use gavel_worker::{Allowed, Work, WorkContext, WorkError, WorkerOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const RUN: &str = "quickstart";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A small run: three steps of six pairs, with evaluation and calibration.
pub(crate) fn spec() -> RunSpec {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml"));
    let mut table: toml::Table = text.expect("the shipped config").parse().expect("TOML");
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let section = table
            .get_mut(section)
            .and_then(toml::Value::as_table_mut)
            .expect("a section");
        section.insert(key.into(), value);
    };
    set("run", "steps", 3.into());
    set("prompts", "per_step", 6.into());
    set("sampling", "batch", 2.into());
    set("judge", "batch", 3.into());
    set("trainer", "shard", 2.into());
    set("checkpoints", "every", 2.into());
    set("evaluation", "batch", 2.into());
    RunSpec::from_value(table).expect("a valid spec")
}

pub(crate) fn assets() -> RunAssets {
    let image = |name: &str| Digest::of(&picture(name));
    RunAssets {
        prompts: (0..10).map(|line| format!("prompt {line}").into()).collect(),
        held_out: (0..3).map(|line| format!("held out {line}").into()).collect(),
        annotations: Default::default(),
        rubric: RubricText::new("the better picture wins"),
        prompt_rubrics: PromptRubrics::new(vec![own("prompt 3"), own("held out 1")]),
        template: "which?".into(),
        member_templates: Vec::new(),
        questions: Vec::new(),
        reason_template: None,
        writer_template: None,
        held_out_judge: None,
        initial_adapter: None,
        labelled: vec![LabelledPair {
            task: "labelled".into(),
            first: image("labelled a"),
            second: image("labelled b"),
            preferred: Side::First,
        }],
        models: Default::default(),
    }
}

/// What decides about "prompt 3" and "held out 1".
pub(crate) const OWN_RUBRIC: &str = "- The third is red.\n";

fn own(prompt: &str) -> PromptRubric {
    PromptRubric {
        task: prompt.into(),
        rubric: Digest::of(OWN_RUBRIC.as_bytes()),
    }
}

/// The blobs that [`assets`] name, as `gavel submit` stores them: the labelled pictures, and the rubric of some prompts.
pub(crate) fn submitted() -> [Vec<u8>; 3] {
    [picture("labelled a"), picture("labelled b"), OWN_RUBRIC.into()]
}

pub(crate) fn picture(name: &str) -> Vec<u8> {
    [PNG, name.as_bytes()].concat()
}

/// A faultless worker: it reads what a worker reads, and stores made-up blobs.
#[derive(Default)]
pub(crate) struct Rehearsal {
    run: Option<(RunSpec, Digest)>,
}

impl Rehearsal {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

impl Work for Rehearsal {
    fn prepare(&mut self, _: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.run = Some((spec.clone(), assets.rubric.digest));
        Ok(())
    }

    fn perform(&mut self, _: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let (spec, rubric) = self.run.as_ref().ok_or(WorkError::Fatal("not prepared".into()))?;
        for (blob, _) in assignment.inputs() {
            context.get(&blob)?;
        }
        Ok(rehearsal::work_into(spec, *rubric, assignment, |blob| {
            context.put(blob)
        }))
    }
}

/// Quick heartbeats; no test waits for one to be missed.
pub(crate) fn options(folder: &Path) -> CoordinatorOptions {
    let mut options = CoordinatorOptions::new(folder);
    options.heartbeat = Duration::from_millis(100);
    // What is released is gone at once.
    options.trash = Duration::ZERO;
    options
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A coordinator with the token that ends it.
pub(crate) struct Served {
    pub(crate) handle: CoordinatorHandle,
    pub(crate) shutdown: CancellationToken,
}

impl Served {
    pub(crate) async fn start(options: CoordinatorOptions) -> Self {
        Self::start_at(options, any_port()).await
    }

    /// Serves gRPC at `grpc`: after a restart, where the workers look for it.
    pub(crate) async fn start_at(options: CoordinatorOptions, grpc: SocketAddr) -> Self {
        let stores = Stores::open(&options).await.expect("stores");
        Self::start_with(options, stores, grpc).await
    }

    pub(crate) async fn start_with(options: CoordinatorOptions, stores: Stores, grpc: SocketAddr) -> Self {
        let listeners = Listeners::bind(grpc, any_port()).await.expect("free ports");
        let shutdown = CancellationToken::new();
        let handle = Coordinator::start_with(options, stores, listeners, shutdown.clone())
            .await
            .expect("a coordinator");
        Self { handle, shutdown }
    }

    pub(crate) async fn submit(&self) {
        self.submit_spec(spec()).await;
    }

    pub(crate) async fn submit_spec(&self, spec: RunSpec) {
        self.submit_as(RUN, spec).await;
    }

    pub(crate) async fn submit_as(&self, run: &str, spec: RunSpec) {
        for blob in submitted() {
            self.handle.blobs().put(blob.into()).await.expect("stored");
        }
        self.handle
            .driver()
            .submit(RunId(run.into()), spec, assets())
            .await
            .expect("submitted");
    }

    /// Waits until the run's state is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&RunStatus) -> bool) -> RunStatus {
        let run = RunId(RUN.into());
        let mut changes = self.handle.driver().watch(&run).await.expect("the run");
        loop {
            changes.mark_unchanged();
            let status = self.handle.driver().status(&run).await.expect("the run");
            if wanted(&status) {
                return status;
            }
            assert!(
                !status.phase.is_ended(),
                "ended before it was as wanted: {:?}",
                status.phase
            );
            changes.changed().await.expect("the coordinator serves");
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.handle.join().await.expect("an orderly end");
    }
}

/// A worker with the token that ends it.
pub(crate) struct Working {
    task: JoinHandle<Result<(), gavel_worker::Error>>,
    shutdown: CancellationToken,
}

impl Working {
    pub(crate) fn start(role: Role, coordinator: SocketAddr, work: impl Work + 'static) -> Self {
        Self::start_with(WorkerOptions::new(coordinator.to_string(), [role], "cpu"), work)
    }

    pub(crate) fn start_with(options: WorkerOptions, work: impl Work + 'static) -> Self {
        // The tests run in this crate's folder, and the run names models beside it.
        let options = WorkerOptions {
            allowed: Allowed {
                model_folders: vec!["..".into()],
                ..options.allowed
            },
            ..options
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(gavel_worker::run(options, work, shutdown.clone()));
        Self { task, shutdown }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await.expect("an orderly end");
    }

    pub(crate) async fn ended(self) -> Result<(), gavel_worker::Error> {
        self.task.await.expect("no panic")
    }
}

/// Two workers of each role.
pub(crate) fn whole_fleet(coordinator: SocketAddr) -> Vec<Working> {
    [Role::Sampler, Role::Judge, Role::Trainer]
        .into_iter()
        .flat_map(|role| [role, role])
        .map(|role| Working::start(role, coordinator, Rehearsal::new()))
        .collect()
}

pub(crate) fn is_ended(status: &RunStatus) -> bool {
    status.phase.is_ended()
}

/// The adapter that a run has come to.
pub(crate) fn adapter(status: &RunStatus) -> Digest {
    status.policy.as_ref().expect("a policy").adapter
}

/// The adapter of a run that nothing disturbs.
pub(crate) async fn undisturbed() -> Digest {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    let status = coordinator.until(is_ended).await;
    assert_eq!(status.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
    adapter(&status)
}
