//! What a coordinator keeps of its runs besides the events: it begins at a snapshot, finds one that is of no use, and shows and takes back
//! steps that a run has let go of.

use std::path::Path;

use gavel_coordinator::ledger::{Ledger as _, SqliteLedger};
use gavel_coordinator::{CoordinatorOptions, read_rows, read_run, replayed_snapshot};
use gavel_core::ids::{RunId, Step};
use gavel_core::run::{Phase, Run, RunStatus, StepRecord, StepResult};
use gavel_core::spec::RunSpec;
use sqlx::Connection as _;

use crate::support::{RUN, Served, adapter, is_ended, options, spec, whole_fleet};

fn run() -> RunId {
    RunId(RUN.into())
}

/// Six steps, of which two are at hand, and each second of which is a checkpoint.
fn long() -> RunSpec {
    let mut spec = spec();
    spec.run.steps = 6;
    spec.coordinator.keep_steps = 1;
    spec.checkpoints.every = 2;
    spec
}

/// A snapshot every eight events.
fn often(folder: &Path) -> CoordinatorOptions {
    let mut options = options(folder);
    options.snapshot_events = 8;
    options
}

/// Takes the run from wherever it stands until it has taken so many steps, or to its end.
async fn work(folder: &Path, until: Option<Step>) -> RunStatus {
    let coordinator = Served::start(often(folder)).await;
    coordinator.submit_spec(long()).await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    let status = coordinator
        .until(|status| until.map_or(is_ended(status), |step| status.step >= step))
        .await;
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
    status
}

async fn ledger(folder: &Path) -> SqliteLedger {
    SqliteLedger::open(&folder.join("ledger.sqlite"))
        .await
        .expect("the ledger")
}

/// What somebody does to the ledger while no coordinator serves.
async fn change(folder: &Path, statement: &'static str) {
    let address = format!("sqlite:{}", folder.join("ledger.sqlite").display());
    let mut connection = sqlx::SqliteConnection::connect(&address).await.expect("the ledger");
    let changed = sqlx::query(statement).execute(&mut connection).await.expect("changed");
    assert!(changed.rows_affected() > 0, "{statement}");
    connection.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_begins_at_the_snapshot_and_reads_nothing_before_it() {
    let undisturbed = tempfile::tempdir().expect("a folder");
    let expected = work(undisturbed.path(), None).await;
    let folder = tempfile::tempdir().expect("a folder");
    work(folder.path(), Some(Step(3))).await;
    // Whoever read it would set the run aside.
    change(folder.path(), "UPDATE events SET event = '{}' WHERE sequence = 1").await;
    let status = work(folder.path(), None).await;
    assert_eq!(
        (status.phase.clone(), adapter(&status)),
        (Phase::Finished, adapter(&expected))
    );
    let error = read_run(&ledger(folder.path()).await, &run())
        .await
        .expect_err("damaged");
    assert!(error.to_string().contains("event 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_what_a_replay_of_its_events_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    work(folder.path(), Some(Step(4))).await;
    let ledger = ledger(folder.path()).await;
    let kept = ledger.snapshot(&run()).await.expect("read").expect("a snapshot");
    let (record, events) = read_rows(&ledger, &run()).await.expect("the run");
    // An orderly end leaves nothing to be replayed.
    assert_eq!(kept.position, record.position(&events));
    assert_eq!(kept, replayed_snapshot(&record, &events).expect("a replay"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_of_no_use_is_left_alone() {
    let undisturbed = tempfile::tempdir().expect("a folder");
    let expected = adapter(&work(undisturbed.path(), None).await);
    for damage in [
        "UPDATE snapshots SET version = version + 1",
        "UPDATE snapshots SET state = replace(state, '\"grants\":', '\"grants\":9')",
        "UPDATE snapshots SET state = 7",
        "UPDATE snapshots SET sequence = sequence - 1",
        "UPDATE snapshots SET chain = zeroblob(32)",
        "UPDATE snapshots SET chain = x'00'",
        "UPDATE snapshots SET checksum = zeroblob(32)",
        "DELETE FROM snapshots",
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        work(folder.path(), Some(Step(2))).await;
        change(folder.path(), damage).await;
        let status = work(folder.path(), None).await;
        assert_eq!(
            (status.phase.clone(), adapter(&status)),
            (Phase::Finished, expected),
            "{damage}"
        );
        let ledger = ledger(folder.path()).await;
        let (record, events) = read_rows(&ledger, &run()).await.expect("the run");
        let kept = ledger.snapshot(&run()).await.expect("read").expect("a snapshot");
        assert_eq!(kept, replayed_snapshot(&record, &events).expect("a replay"), "{damage}");
    }
}

/// The steps that a coordinator shows, and the first that its run itself has the details of.
async fn shown(folder: &Path) -> (Vec<StepResult>, Step) {
    let coordinator = Served::start(often(folder)).await;
    let driver = coordinator.handle.driver();
    let steps = driver.steps(&run(), Step(1), 100).await.expect("the steps");
    let from = driver.inspect(&run(), |run| run.details_from()).await.expect("the run");
    let part = driver.steps(&run(), Step(2), 3).await.expect("the steps");
    let expected = steps.iter().filter(|step| (2..5).contains(&step.record.step.0));
    assert_eq!(part, expected.cloned().collect::<Vec<_>>());
    coordinator.stop().await;
    (steps, from)
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_a_run_has_let_go_of_are_read_from_the_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    work(folder.path(), None).await;
    let run = read_run(&ledger(folder.path()).await, &run()).await.expect("the run");
    let whole: Vec<StepResult> = run.results().steps.iter().cloned().collect();
    assert_eq!(shown(folder.path()).await, (whole.clone(), Step(5)));

    // What is damaged is left out, and what is gone with the snapshot is made anew.
    change(
        folder.path(),
        "UPDATE details SET result = replace(result, '\"line\":', '\"line\":1') WHERE step = 2",
    )
    .await;
    let (steps, _) = shown(folder.path()).await;
    assert_eq!(steps, [&whole[..1], &whole[2..]].concat());
    change(folder.path(), "DELETE FROM details").await;
    change(folder.path(), "DELETE FROM snapshots").await;
    assert_eq!(shown(folder.path()).await, (whole.clone(), Step(5)));
}

fn figures(run: &Run) -> Vec<StepRecord> {
    run.results().steps.iter().map(|step| step.record.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_has_all_steps_also_those_that_the_run_has_left_to_the_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    work(folder.path(), None).await;
    let whole = read_run(&ledger(folder.path()).await, &run()).await.expect("the run");
    let expected = figures(&whole);

    let coordinator = Served::start(often(folder.path())).await;
    let driver = coordinator.handle.driver();
    let from = driver.inspect(&run(), Run::commits_from).await.expect("the run");
    assert_eq!(from, Step(5));
    assert_eq!(driver.status(&run()).await.expect("the state").steps, expected);
    let part = driver.figures(&run(), Step(3), 3).await.expect("the figures");
    assert_eq!(part, expected[2..5]);
    let policy = driver.policy(&run(), Step(1)).await.expect("an answer");
    assert_eq!(policy.as_ref(), whole.results().policies.get(1));
    assert_eq!(driver.policy(&run(), Step(7)).await.expect("an answer"), None);
    coordinator.stop().await;

    change(
        folder.path(),
        "UPDATE commits SET result = replace(result, '[2,', '[3,') WHERE step = 2",
    )
    .await;
    let coordinator = Served::start(often(folder.path())).await;
    let driver = coordinator.handle.driver();
    let found = driver.status(&run()).await.expect("the state").steps;
    assert_eq!(found, [&expected[..1], &expected[2..]].concat());
    assert!(
        driver.policy(&run(), Step(2)).await.expect("an answer").is_some(),
        "a checkpoint is at hand"
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_steps_came_to_is_written_once() {
    let folder = tempfile::tempdir().expect("a folder");
    work(folder.path(), Some(Step(4))).await;
    let first = ledger(folder.path())
        .await
        .commits(&run(), Step(1), 3)
        .await
        .expect("read");
    assert_eq!(first.len(), 3);
    // Whoever wrote one again would mend it.
    change(
        folder.path(),
        "UPDATE commits SET result = result || ' ' WHERE step = 1",
    )
    .await;
    work(folder.path(), None).await;
    let kept = ledger(folder.path())
        .await
        .commits(&run(), Step(1), 100)
        .await
        .expect("read");
    assert_eq!((kept.len(), &kept[1..3]), (6, &first[1..3]));
    assert!(kept[0].check().is_err() && kept[1..].iter().all(|commit| commit.check().is_ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_taken_back_to_before_those_that_the_run_has() {
    for damage in [
        None,
        Some("UPDATE commits SET result = replace(result, '[1,', '[3,') WHERE step = 1"),
        Some("DELETE FROM commits WHERE step = 2"),
        Some("UPDATE commits SET checksum = x'00' WHERE step = 3"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let expected = adapter(&work(folder.path(), None).await);
        let whole = read_run(&ledger(folder.path()).await, &run()).await.expect("the run");
        if let Some(damage) = damage {
            change(folder.path(), damage).await;
        }
        let coordinator = Served::start(often(folder.path())).await;
        let driver = coordinator.handle.driver();
        driver.roll_back(&run(), Step(2)).await.expect("taken back");
        let status = driver.status(&run()).await.expect("the state");
        assert_eq!(
            (status.steps, status.policy.as_ref()),
            (figures(&whole)[..2].to_vec(), whole.results().policies.get(2)),
            "{damage:?}"
        );
        // A start does not have to go back again.
        let ledger = ledger(folder.path()).await;
        let (record, events) = read_rows(&ledger, &run()).await.expect("the run");
        let kept = ledger.snapshot(&run()).await.expect("read").expect("a snapshot");
        assert_eq!(kept.position, record.position(&events), "{damage:?}");
        assert_eq!(
            kept,
            replayed_snapshot(&record, &events).expect("a replay"),
            "{damage:?}"
        );
        driver.resume(&run()).await.expect("resumed");
        coordinator.stop().await;

        let status = work(folder.path(), None).await;
        assert_eq!((status.phase.clone(), adapter(&status)), (Phase::Finished, expected));
        let commits = ledger.commits(&run(), Step(1), 100).await.expect("read");
        let intact = commits.iter().filter(|commit| commit.check().is_ok());
        assert_eq!(intact.count(), 6, "{damage:?}: what was damaged is written anew");
    }
}
