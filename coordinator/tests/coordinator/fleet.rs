//! Whole runs with fake work: undisturbed, over a restart, with workers that fail or lose a lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_coordinator::ledger::SqliteLedger;
use gavel_coordinator::read_run;
use gavel_core::RunAssets;
use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::{RunSpec, ServerSpec};
use gavel_core::work::{Assignment, Outcome, Role, Unit, VerdictRecord, WorkerFilter};
use gavel_worker::{Allowed, Work, WorkContext, WorkError, WorkerOptions};

use crate::support::{self, RUN, Rehearsal, Served, Working, adapter, is_ended, options, undisturbed, whole_fleet};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_finishes_and_replays_to_an_equal_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    coordinator.submit().await;
    let status = coordinator.until(is_ended).await;
    assert_eq!(status.phase, Phase::Finished);
    assert_eq!((status.steps.len(), status.step), (3, Step(3)));
    assert_eq!(status.evaluation.expect("an evaluation").compared, 3);
    for worker in workers {
        worker.stop().await;
    }
    assert!(coordinator.handle.driver().workers().await.expect("a table").is_empty());

    let run = RunId(RUN.into());
    let live = coordinator
        .handle
        .driver()
        .inspect(&run, |run| run.results().clone())
        .await
        .expect("the run");
    coordinator.stop().await;
    let ledger = SqliteLedger::open(&folder.path().join("ledger.sqlite"))
        .await
        .expect("the ledger");
    let replayed = read_run(&ledger, &run).await.expect("the run");
    assert_eq!((replayed.phase(), replayed.results()), (Phase::Finished, &live));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_restarts_in_the_middle_changes_nothing_in_the_result() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let first = Served::start(options(folder.path())).await;
    let address = first.handle.grpc_address();
    first.submit().await;
    let workers = whole_fleet(address);
    let before = first.until(|status| status.step >= Step(1)).await;
    first.stop().await;

    let second = Served::start_at(options(folder.path()), address).await;
    let status = second.until(is_ended).await;
    assert_eq!(status.phase, Phase::Finished);
    assert_eq!(status.steps[0], before.steps[0]);
    assert_eq!(adapter(&status), expected);
    for worker in workers {
        worker.stop().await;
    }
    second.stop().await;
}

/// Fails in the way that it is told, once, then works.
struct Troubled {
    trouble: Option<fn() -> Result<Outcome, WorkError>>,
    then: Rehearsal,
}

impl Work for Troubled {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.then.prepare(run, spec, assets)
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        match self.trouble.take() {
            Some(trouble) => trouble(),
            None => self.then.perform(unit, assignment, context),
        }
    }
}

fn troubled(trouble: fn() -> Result<Outcome, WorkError>) -> Troubled {
    Troubled {
        trouble: Some(trouble),
        then: Rehearsal::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_failure_stops_the_run_with_its_reason_and_resume_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let broken = troubled(|| Err(WorkError::Fatal("the model folder is empty".into())));
    let trainer = Working::start(Role::Trainer, address, broken);
    let status = coordinator.until(is_ended).await;
    assert!(
        matches!(&status.phase, Phase::Failed { reason } if reason.contains("the model folder is empty")),
        "{status:?}"
    );

    coordinator
        .handle
        .driver()
        .resume(&RunId(RUN.into()))
        .await
        .expect("a failed run");
    let sampler = Working::start(Role::Sampler, address, Rehearsal::new());
    let judge = Working::start(Role::Judge, address, Rehearsal::new());
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    for worker in [trainer, sampler, judge] {
        worker.stop().await;
    }
    coordinator.stop().await;
}

/// Finds what it needs unavailable as often as it is told, then works.
struct Waiting {
    left: u32,
    then: Rehearsal,
}

impl Work for Waiting {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.then.prepare(run, spec, assets)
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Err(WorkError::Unavailable("the judge's server is away".into()))
            }
            None => self.then.perform(unit, assignment, context),
        }
    }
}

// As often as a unit may fail: were these failures, the first pairs would count as failed and the result were another.
#[tokio::test(flavor = "multi_thread")]
async fn a_judge_whose_server_is_away_gives_its_unit_back_and_costs_no_pair() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let left = support::spec().limits.attempts;
    let judge = Waiting {
        left,
        then: Rehearsal::new(),
    };
    let judge = Working::start(Role::Judge, address, judge);
    let others = [Role::Sampler, Role::Trainer].map(|role| Working::start(role, address, Rehearsal::new()));
    let status = coordinator.until(is_ended).await;
    assert_eq!((status.phase.clone(), adapter(&status)), (Phase::Finished, expected));
    for worker in others.into_iter().chain([judge]) {
        worker.stop().await;
    }
    coordinator.stop().await;
}

/// Has its verdicts kept and asks for them again.
struct Remembering {
    then: Rehearsal,
    recalled: Arc<AtomicUsize>,
}

impl Work for Remembering {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.then.prepare(run, spec, assets)
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let outcome = self.then.perform(unit, assignment, context)?;
        let Outcome::Judged { verdicts, .. } = &outcome else {
            return Ok(outcome);
        };
        for record in verdicts {
            let key = Digest::of(format!("{unit} {}", record.prompt_index).as_bytes());
            let before = context.recall_verdicts(&[key]);
            context.keep_verdicts(&[(key, record.clone())]);
            let after = context.recall_verdicts(&[Digest::of(b"unknown"), key]);
            if (before, after) == (vec![None], vec![None, Some(record.clone())]) {
                self.recalled.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(outcome)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_are_kept_and_recalled_and_change_nothing_in_the_run() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let recalled = Arc::new(AtomicUsize::new(0));
    let judge = Remembering {
        then: Rehearsal::new(),
        recalled: Arc::clone(&recalled),
    };
    let judge = Working::start(Role::Judge, address, judge);
    let others = [Role::Sampler, Role::Trainer].map(|role| Working::start(role, address, Rehearsal::new()));
    let status = coordinator.until(is_ended).await;
    assert_eq!((status.phase.clone(), adapter(&status)), (Phase::Finished, expected));
    for worker in others.into_iter().chain([judge]) {
        worker.stop().await;
    }
    let judged = status.matches_judged as usize;
    assert!(judged > 0 && recalled.load(Ordering::SeqCst) >= judged);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_panics_gives_its_unit_to_others_and_ends_with_the_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let panicking = Working::start(Role::Trainer, address, troubled(|| panic!("index out of bounds")));
    let error = panicking.ended().await.expect_err("it panicked");
    assert!(error.to_string().contains("index out of bounds"), "{error}");

    let workers = whole_fleet(address);
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_every_role_does_a_whole_run_and_leaves_in_all_of_them() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let roles = [Role::Sampler, Role::Judge, Role::Trainer];
    let worker = Working::start_with(WorkerOptions::new(address.to_string(), roles, "cpu"), Rehearsal::new());
    assert_eq!(adapter(&coordinator.until(is_ended).await), expected);
    let workers = coordinator.handle.driver().workers().await.expect("a table");
    assert_eq!(workers.len(), roles.len());
    worker.stop().await;
    assert!(coordinator.handle.driver().workers().await.expect("a table").is_empty());
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_two_roles_that_panics_in_one_leaves_in_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    coordinator.submit().await;
    let panicking = Working::start_with(
        WorkerOptions::new(address.to_string(), [Role::Sampler, Role::Trainer], "cpu"),
        troubled(|| panic!("index out of bounds")),
    );
    let error = panicking.ended().await.expect_err("it panicked");
    assert!(error.to_string().contains("index out of bounds"), "{error}");
    assert!(coordinator.handle.driver().workers().await.expect("a table").is_empty());

    let workers = whole_fleet(address);
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_fleet_leaves_and_whoever_comes_later_finishes_the_run() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let first = Served::start(options(folder.path())).await;
    let address = first.handle.grpc_address();
    first.submit().await;
    let ahead = |role| {
        let options = WorkerOptions {
            prefetch: 2,
            ..WorkerOptions::new(address.to_string(), [role], "cpu")
        };
        Working::start_with(options, Rehearsal::new())
    };
    let workers = [Role::Sampler, Role::Judge, Role::Trainer].map(ahead);
    first.until(|status| status.step >= Step(1)).await;
    first
        .handle
        .driver()
        .drain(WorkerFilter::default())
        .await
        .expect("draining");
    for worker in workers {
        worker.ended().await.expect("left by itself");
    }
    let run = RunId(RUN.into());
    assert!(
        first
            .handle
            .driver()
            .status(&run)
            .await
            .expect("the run")
            .leases
            .is_empty()
    );
    let workers = whole_fleet(address);
    assert_eq!(adapter(&first.until(is_ended).await), expected);
    for worker in workers {
        worker.stop().await;
    }
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_store_costs_no_attempt() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    let mut spec = support::spec();
    spec.limits.attempts = 1;
    coordinator.submit_spec(spec).await;
    // A file where the folder was: also root cannot write there.
    let (blobs, aside) = (folder.path().join("blobs"), folder.path().join("aside"));
    std::fs::rename(&blobs, &aside).expect("moved");
    std::fs::write(&blobs, "in the way").expect("a file");
    let trainer = Working::start(Role::Trainer, address, Rehearsal::new());
    let waits = |status: &RunStatus| status.waiting.text.contains("given back");
    let status = coordinator.until(waits).await;
    assert!(
        status.waiting.text.contains("cannot store a blob"),
        "{}",
        status.waiting.text
    );

    std::fs::remove_file(&blobs).expect("removed");
    std::fs::rename(&aside, &blobs).expect("moved back");
    let others = [Role::Sampler, Role::Judge].map(|role| Working::start(role, address, Rehearsal::new()));
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    for worker in others.into_iter().chain([trainer]) {
        worker.stop().await;
    }
    coordinator.stop().await;
}

/// Another machine, where a run's judge has no folder.
struct Elsewhere;

impl Work for Elsewhere {
    fn prepare(&mut self, _: &RunId, _: &RunSpec, _: &RunAssets) -> Result<(), WorkError> {
        Err(WorkError::Retry("models/judge: no such folder".to_owned()))
    }

    fn perform(&mut self, unit: &Unit, _: &Assignment, _: &WorkContext) -> Result<Outcome, WorkError> {
        Err(WorkError::Fatal(format!("{unit} is not for a judge that is not ready")))
    }
}

// The pairs of such a run were counted as failed, chunk by chunk, until after some 20 minutes there were too many of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_a_judge_that_can_get_ready_and_says_at_once_what_the_others_lack() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    let mut spec = support::spec();
    spec.limits.attempts = 1;
    spec.limits.skipped_pairs = 0;
    spec.judge.back_end = ServerSpec {
        endpoint: "http://judge.example/v1".into(),
        model: "vlm".into(),
        api_key_env: Some("PGPASSWORD".into()),
        ..ServerSpec::default()
    }
    .into();
    let asks = Allowed {
        endpoints: vec!["http://judge.example/v1".parse().expect("an address")],
        key_variables: vec!["PGPASSWORD".into()],
        ..Allowed::default()
    };
    let judge = |allowed: &Allowed| WorkerOptions {
        allowed: allowed.clone(),
        ..WorkerOptions::new(address.to_string(), [Role::Judge], "cpu")
    };
    coordinator.submit_spec(spec).await;
    let mut workers: Vec<Working> = [Role::Sampler, Role::Trainer]
        .map(|role| Working::start(role, address, Rehearsal::new()))
        .into();
    for (lacking, reason) in [
        (
            Working::start_with(judge(&Allowed::default()), Rehearsal::new()),
            "--allow-endpoint http://judge.example/v1",
        ),
        (
            Working::start_with(judge(&asks), Elsewhere),
            "models/judge: no such folder",
        ),
    ] {
        let told = |status: &RunStatus| {
            let text = &status.waiting.text;
            text.contains("given back") && text.contains(reason)
        };
        coordinator.until(told).await;
        workers.push(lacking);
    }
    workers.push(Working::start_with(judge(&asks), Rehearsal::new()));
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    let run = RunId(RUN.into());
    let results = coordinator.handle.driver().inspect(&run, |run| run.results().clone());
    let results = results.await.expect("the run");
    let groups = results.steps.iter().flat_map(|step| &step.groups);
    let verdicts = groups.flat_map(|group| &group.verdicts);
    let held_out = results.comparisons.iter().chain(&results.calibration).flatten();
    assert!(
        verdicts.chain(held_out).all(VerdictRecord::is_judged),
        "no pair paid for it"
    );
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn a_worker_says_where_it_looked_when_there_is_no_coordinator() {
    let free = tokio::net::TcpListener::bind(support::any_port())
        .await
        .expect("a port");
    let address = free.local_addr().expect("its address");
    drop(free);
    let options = WorkerOptions {
        connect_within: Some(std::time::Duration::from_millis(300)),
        ..WorkerOptions::new(address.to_string(), [Role::Judge], "cpu")
    };
    let error = Working::start_with(options, Rehearsal::new())
        .ended()
        .await
        .expect_err("nobody is there");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
