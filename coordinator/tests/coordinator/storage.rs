//! Ledger and blobs that are damaged, exchanged or old: what a coordinator does with them, and how they are copied.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gavel_coordinator::blobs::Blobs;
use gavel_coordinator::ledger::{Ledger as _, PostgresLedger, SqliteLedger};
use gavel_coordinator::{
    Adoption, BackupError, BindingError, Coordinator, CoordinatorOptions, DriverError, Error, Listeners, Stores, copy,
    read_run,
};
use gavel_core::RunAssets;
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Digest, PromptIndex, RunId};
use gavel_core::run::Phase;
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, KeptAnswer, KeptRubric, Outcome, Role, Unit, Verdict, VerdictRecord, Vote};
use gavel_worker::{Work, WorkContext, WorkError};
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;

use crate::servers::postgres::Postgres;
use crate::support::{self, RUN, Rehearsal, Served, Working, any_port, assets, is_ended, options, spec, whole_fleet};

/// The data folder of a run that has ended.
async fn finished() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
    folder
}

fn duplicate(from: &Path) -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("made");
        for entry in std::fs::read_dir(from).expect("a folder").flatten() {
            let target = to.join(entry.file_name());
            match entry.path().is_dir() {
                true => copy_into(&entry.path(), &target),
                false => drop(std::fs::copy(entry.path(), target).expect("copied")),
            }
        }
    }
    let to = tempfile::tempdir().expect("a folder");
    copy_into(from, to.path());
    to
}

/// Every file below the blobs that is a blob.
fn blob_files(data: &Path) -> BTreeSet<PathBuf> {
    let folders = std::fs::read_dir(data.join("blobs")).expect("the blobs").flatten();
    let folders = folders.filter(|entry| entry.file_name().len() == 2);
    folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).expect("a folder").flatten())
        .map(|entry| entry.path())
        .collect()
}

fn age(file: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(72 * 3600);
    let file = std::fs::File::open(file).expect("there");
    file.set_modified(long_ago).expect("aged");
}

/// Changes the ledger from outside.
async fn sql(data: &Path, statement: &str) {
    let url = format!("sqlite:{}", data.join("ledger.sqlite").display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("the ledger");
    sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
        .execute(&mut connection)
        .await
        .expect("SQL");
    connection.close().await.expect("closed");
}

/// Starts a coordinator that is expected not to serve.
async fn refusal(options: CoordinatorOptions) -> Error {
    let stores = Stores::open(&options).await.expect("stores");
    let listeners = Listeners::bind(any_port(), any_port()).await.expect("free ports");
    let started = Coordinator::start_with(options, stores, listeners, CancellationToken::new()).await;
    started.expect_err("it does not serve")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_run_is_set_aside_by_name_and_the_others_go_on() {
    let before = finished().await;
    for (damage, row) in [
        (
            "UPDATE runs SET assets = replace(assets, 'prompt 1', 'prompt 7')",
            "the contents of its files",
        ),
        ("UPDATE runs SET spec = CAST(x'7bff' AS TEXT)", "its row"),
        (
            "UPDATE events SET event = replace(event, '\"fence\":3', '\"fence\":9') WHERE event LIKE '%\"fence\":3}%'",
            "event",
        ),
        (
            "UPDATE events SET at_unix_ms = at_unix_ms + 1 WHERE sequence = 4",
            "event 4",
        ),
        (
            "UPDATE events SET event = CAST(x'ff' AS TEXT) WHERE sequence = 5",
            "event 5",
        ),
        ("DELETE FROM events WHERE sequence = 6", "event 6"),
    ] {
        let folder = duplicate(before.path());
        sql(folder.path(), damage).await;
        let orphan = folder.path().join("blobs/ab").join("c".repeat(62));
        std::fs::create_dir_all(orphan.parent().expect("a folder")).expect("made");
        std::fs::write(&orphan, "what the damaged run may need").expect("written");
        age(&orphan);

        let coordinator = Served::start(options(folder.path())).await;
        let driver = coordinator.handle.driver();
        let damaged = RunId(RUN.into());
        let status = driver.status(&damaged).await.expect("it is shown");
        let Phase::Failed { reason } = &status.phase else {
            panic!("{damage}: {:?}", status.phase)
        };
        assert!(
            reason.contains("set aside") && reason.contains(row),
            "{damage}: {reason}"
        );
        assert!(reason.contains("gavel restore"), "it says what to do: {reason}");
        let again = driver.submit(damaged, spec(), assets()).await.expect_err("it is there");
        assert!(matches!(again, DriverError::SetAside { .. }), "{again}");

        // A new run under another name takes its way from beginning to end.
        let other = RunId("other".into());
        for blob in support::submitted() {
            coordinator.handle.blobs().put(blob.into()).await.expect("stored");
        }
        driver.submit(other.clone(), spec(), assets()).await.expect("submitted");
        if row == "its row" {
            let workers = whole_fleet(coordinator.handle.grpc_address());
            let mut changes = driver.watch(&other).await.expect("the run");
            while !driver.status(&other).await.expect("the run").phase.is_ended() {
                changes.changed().await.expect("the coordinator serves");
            }
            for worker in workers {
                worker.stop().await;
            }
        }
        let listed = driver.statuses().await.expect("a list");
        let names: Vec<&str> = listed.iter().map(|status| status.run.0.as_str()).collect();
        assert_eq!(names, ["other", RUN]);
        coordinator.stop().await;
        assert!(orphan.exists(), "nobody knows what the damaged run needs");
    }
}

/// Hands in a vote that JSON has no form for.
struct Weightless(Rehearsal);

impl Work for Weightless {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.0.prepare(run, spec, assets)
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        let mut outcome = self.0.perform(unit, assignment, context)?;
        if let Outcome::Judged { verdicts, .. } = &mut outcome {
            let reason = "no answer".to_owned();
            verdicts[0].votes.push(Vote {
                judge: "a".into(),
                weight: f64::NAN,
                verdict: Verdict::Failed { reason },
                veto: false,
            });
        }
        Ok(outcome)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_read_back_is_refused_and_the_ledger_opens_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let address = coordinator.handle.grpc_address();
    let mut unwritable = spec();
    unwritable.optimizer.learning_rate = f64::NAN;
    let refused = coordinator
        .handle
        .driver()
        .submit(RunId("nan".into()), unwritable, assets())
        .await;
    let refused = refused.expect_err("it would not read back");
    assert!(matches!(refused, DriverError::NotReadable(_)), "{refused}");

    coordinator.submit().await;
    let others = [Role::Trainer, Role::Sampler].map(|role| Working::start(role, address, Rehearsal::new()));
    let judge = Working::start(Role::Judge, address, Weightless(Rehearsal::new()));
    let error = judge.ended().await.expect_err("it is set apart").to_string();
    assert!(
        error.contains("quarantine") && error.contains("`votes.weight` is NaN"),
        "{error}"
    );
    let judge = Working::start(Role::Judge, address, Rehearsal::new());
    assert_eq!(coordinator.until(is_ended).await.phase, Phase::Finished);
    for worker in others.into_iter().chain([judge]) {
        worker.stop().await;
    }
    coordinator.stop().await;

    let coordinator = Served::start(options(folder.path())).await;
    let listed = coordinator.handle.driver().statuses().await.expect("a list");
    let phases: Vec<(&str, &Phase)> = listed
        .iter()
        .map(|status| (status.run.0.as_str(), &status.phase))
        .collect();
    assert_eq!(phases, [(RUN, &Phase::Finished)]);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_missing_empty_foreign_or_older_deletes_nothing_until_told() {
    let before = finished().await;
    let elsewhere = tempfile::tempdir().expect("a folder");
    Served::start(options(elsewhere.path())).await.stop().await;
    type Exchange<'a> = &'a dyn Fn(&Path);
    let without_ledger = |data: &Path| {
        for file in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
            // The last two are there only while it is open.
            let _ = std::fs::remove_file(data.join(file));
        }
    };
    let exchanges: [(&str, Exchange); 5] = [
        ("missing", &without_ledger),
        ("empty", &|data| {
            without_ledger(data);
            std::fs::write(data.join("ledger.sqlite"), "").expect("written");
        }),
        ("missing, of blobs without a mark", &|data| {
            without_ledger(data);
            std::fs::remove_file(data.join("blobs/identity.json")).expect("the mark");
        }),
        ("another", &|data| {
            without_ledger(data);
            std::fs::copy(elsewhere.path().join("ledger.sqlite"), data.join("ledger.sqlite")).expect("copied");
        }),
        ("older", &|_| {}),
    ];
    for (what, exchange) in exchanges {
        let folder = duplicate(before.path());
        exchange(folder.path());
        if what == "older" {
            sql(folder.path(), "DELETE FROM events WHERE sequence > 9").await;
        }
        let blobs = blob_files(folder.path());
        assert!(blobs.len() > 10);
        blobs.iter().for_each(|file| age(file));

        let error = refusal(options(folder.path())).await;
        let Error::Binding(problem) = &error else {
            panic!("{what}: {error}")
        };
        let is_as_expected = match what {
            "missing, of blobs without a mark" => matches!(problem, BindingError::NoLedger { .. }),
            "older" => matches!(problem, BindingError::OlderLedger { .. }),
            "another" => matches!(problem, BindingError::OtherLedger { .. }),
            _ => matches!(problem, BindingError::OtherLedger { is_empty: true, .. }),
        };
        assert!(is_as_expected, "{what}: {problem:?}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("--adopt-blobs")),
            "{what}"
        );
        assert_eq!(blob_files(folder.path()), blobs, "{what}");

        // Told to, it starts and puts what is nobody's into the trash, from which it can still be read.
        let mut adopting = options(folder.path());
        adopting.adoption = Adoption::Allowed;
        adopting.trash = Duration::from_secs(3600);
        Served::start(adopting.clone()).await.stop().await;
        assert_eq!(blob_files(folder.path()), blobs, "{what}");
        // From then on they belong together.
        adopting.adoption = Adoption::Refused;
        Served::start(adopting).await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_before_there_were_marks_is_marked_and_goes_on() {
    let folder = finished().await;
    let mark = folder.path().join("blobs/identity.json");
    std::fs::remove_file(&mark).expect("the mark");
    Served::start(options(folder.path())).await.stop().await;
    let mark = std::fs::read_to_string(&mark).expect("a mark");
    assert!(mark.contains(RUN), "{mark}");
}

#[tokio::test(flavor = "multi_thread")]
async fn released_blobs_stay_readable_in_the_trash() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = options(folder.path());
    options.trash = Duration::from_secs(3600);
    let coordinator = Served::start(options).await;
    let mut spec = spec();
    spec.coordinator.keep_steps = 0;
    coordinator.submit_spec(spec).await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    coordinator.until(is_ended).await;
    for worker in workers {
        worker.stop().await;
    }
    let blobs = coordinator.handle.blobs().clone();
    let run = RunId(RUN.into());
    let retained = coordinator.handle.driver().inspect(&run, |run| run.retained()).await;
    let retained = retained.expect("the run");
    coordinator.stop().await;
    let discarded = blobs
        .discarded(SystemTime::now() + Duration::from_secs(60))
        .await
        .expect("lists");
    let discarded: BTreeSet<Digest> = discarded.into_iter().flat_map(|list| list.blobs).collect();
    assert!(!discarded.is_empty() && discarded.is_disjoint(&retained));
    for blob in discarded {
        blobs.peek(&blob).await.expect("still there");
    }
}

async fn sqlite_stores(data: &Path) -> Stores {
    Stores::open(&CoordinatorOptions::new(data)).await.expect("stores")
}

/// Copies there and back, and goes on with what comes back.
async fn there_and_back(source: &Path, to: Stores) {
    let from = sqlite_stores(source).await;
    // More than are listed at a time, and one that nobody can read.
    let record = VerdictRecord::failed(PromptIndex(0), "as an example".to_owned(), Digest::of(b"rubric"));
    let record = serde_json::to_string(&record).expect("JSON");
    let key = |number: u32| Digest::of(&number.to_le_bytes());
    let mut verdicts: Vec<_> = (0..1100).map(|number| (key(number), record.clone())).collect();
    verdicts.push((key(1100), "no verdict".to_owned()));
    let rubric = KeptAnswer::Rubric(KeptRubric::Worse);
    verdicts.push((key(1101), serde_json::to_string(&rubric).expect("JSON")));
    from.ledger.keep_verdicts(&verdicts).await.expect("kept");
    let there = copy(&from, &to).await.expect("a copy");
    assert_eq!(there.verdicts, 1101);
    assert!(there.runs == 1 && there.events > 20 && there.blobs > 10 && there.missing.is_empty());
    let error = copy(&from, &to).await.expect_err("a copy is there");
    assert!(matches!(error, Error::Backup(BackupError::Taken { .. })), "{error}");
    assert!(error.hint().is_some());

    let folder = tempfile::tempdir().expect("a folder");
    let back = sqlite_stores(folder.path()).await;
    let copied = copy(&to, &back).await.expect("a copy of the copy");
    assert_eq!((copied.events, copied.bytes), (there.events, there.bytes));
    let keys: Vec<Digest> = verdicts.iter().map(|(key, _)| *key).collect();
    let kept = back.ledger.verdicts(&keys).await.expect("verdicts");
    assert!(kept[..1100].iter().all(|verdict| verdict.as_ref() == Some(&record)));
    assert_eq!(kept[1100], None);
    assert_eq!(kept[1101].as_ref(), Some(&verdicts[1101].1));
    let run = RunId(RUN.into());
    let [before, after] = [&from, &back].map(|stores| stores.ledger.clone());
    let (before, after) = (
        read_run(before.as_ref(), &run).await.expect("the run"),
        read_run(after.as_ref(), &run).await.expect("the run"),
    );
    assert_eq!(before, after);
    for blob in after.retained() {
        back.blobs.peek(&blob).await.expect("it is needed");
    }
    back.ledger.close().await;
    Served::start(options(folder.path())).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_on_where_it_was_taken() {
    let source = finished().await;
    let folder = tempfile::tempdir().expect("a folder");
    there_and_back(source.path(), sqlite_stores(folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_moves_between_sqlite_and_postgres() {
    let Some(server) = Postgres::start() else { return };
    let source = finished().await;
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = PostgresLedger::open(&server.url("postgres")).await.expect("a ledger");
    let blobs = Blobs::open_folder(folder.path(), 1 << 30).await.expect("a store");
    let ledger = std::sync::Arc::new(ledger);
    there_and_back(source.path(), Stores { ledger, blobs }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_says_what_it_could_not_copy() {
    let source = finished().await;
    let run = RunId(RUN.into());
    let ledger = SqliteLedger::open(&source.path().join("ledger.sqlite"))
        .await
        .expect("the ledger");
    let policy = read_run(&ledger, &run)
        .await
        .expect("the run")
        .policy()
        .expect("a policy")
        .clone();
    ledger.close().await;
    let name = policy.adapter.to_string();
    std::fs::remove_file(source.path().join("blobs").join(&name[..2]).join(&name[2..])).expect("removed");
    let folder = tempfile::tempdir().expect("a folder");
    let copied = copy(&sqlite_stores(source.path()).await, &sqlite_stores(folder.path()).await).await;
    assert_eq!(copied.expect("a copy").missing, BTreeSet::from([policy.adapter]));

    sql(source.path(), "UPDATE events SET kind = 'failed' WHERE sequence = 2").await;
    let folder = tempfile::tempdir().expect("a folder");
    let copied = copy(&sqlite_stores(source.path()).await, &sqlite_stores(folder.path()).await).await;
    let copied = copied.expect("a copy of the others");
    assert!(copied.unreadable[0].1.contains("event 2"), "{:?}", copied.unreadable);
    assert_eq!((copied.runs, copied.blobs), (0, 0));
}
