//! What every ledger promises, held against each implementation; and what the coordinator does when a ledger breaks.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;

use gavel_coordinator::ledger::{EventRecord, Ledger, LedgerError, RunRecord, SqliteLedger};
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Millis, RunId};

fn run(name: &str, created: u64) -> RunRecord {
    RunRecord {
        run: RunId(name.into()),
        spec: "{\"spec\":1}".into(),
        assets: "{\"prompts\":[\"ein rotes Quadrat ✓\"]}".into(),
        spec_sha256: "00".repeat(32),
        created: Millis(created),
    }
}

fn event(run: &str, sequence: u64) -> EventRecord {
    EventRecord {
        run: RunId(run.into()),
        sequence,
        at: Millis(1_700_000_000_000 + sequence),
        kind: "granted".into(),
        event: format!("{{\"n\":{sequence}}}"),
    }
}

/// The promises. `reopen` gives a ledger over the same storage, as after a restart.
async fn keeps_its_promises<L: Ledger>(reopen: impl AsyncFn() -> L) {
    let ledger = reopen().await;
    assert!(ledger.runs().await.expect("an empty ledger").is_empty());

    ledger.create_run(&run("later", 20)).await.expect("a new run");
    ledger.create_run(&run("earlier", 10)).await.expect("a new run");
    let taken = ledger
        .create_run(&run("later", 30))
        .await
        .expect_err("the name is taken");
    assert!(
        matches!(&taken, LedgerError::RunExists { run } if run.0 == "later"),
        "{taken}"
    );

    ledger
        .append(&[event("later", 1), event("earlier", 1), event("later", 2)])
        .await
        .expect("new events");
    ledger.append(&[]).await.expect("nothing to do");
    let conflict = ledger
        .append(&[event("later", 3), event("later", 2)])
        .await
        .expect_err("2 is taken");
    assert!(
        matches!(&conflict, LedgerError::Conflict { sequence: 2, .. }),
        "{conflict}"
    );
    assert!(conflict.hint().is_some());
    // More than fit into one statement, of which one in the middle is taken.
    let many: Vec<_> = (3..200).chain([1]).chain(200..300).map(|n| event("later", n)).collect();
    let conflict = ledger.append(&many).await.expect_err("1 is taken");
    assert!(
        matches!(&conflict, LedgerError::Conflict { sequence: 1, .. }),
        "{conflict}"
    );
    let many: Vec<_> = (1..=300).map(|n| event("many", n)).collect();
    ledger.create_run(&run("many", 30)).await.expect("a new run");
    ledger.append(&many).await.expect("new events");
    assert_eq!(ledger.events(&RunId("many".into())).await.expect("events"), many);
    ledger
        .append(&[event("nobody", 1)])
        .await
        .expect_err("there is no such run");
    ledger.ready().await.expect("open");
    ledger.close().await;

    let ledger = reopen().await;
    assert_eq!(
        ledger.runs().await.expect("runs"),
        vec![run("earlier", 10), run("later", 20), run("many", 30)]
    );
    // Event 3 came with one that was refused: all of them or none.
    assert_eq!(
        ledger.events(&RunId("later".into())).await.expect("events"),
        vec![event("later", 1), event("later", 2)]
    );
    assert_eq!(
        ledger.events(&RunId("earlier".into())).await.expect("events"),
        vec![event("earlier", 1)]
    );
    ledger.close().await;
}

#[tokio::test]
async fn sqlite_keeps_its_promises() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("new").join("ledger.sqlite");
    keeps_its_promises(async || SqliteLedger::open(&file).await.expect("a ledger")).await;
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.sqlite");
    let text = "this is not a database, and long enough not to be taken for an empty one".repeat(20);
    std::fs::write(&file, &text).expect("a file");
    let error = SqliteLedger::open(&file).await.expect_err("not a database");
    assert!(error.to_string().contains("ledger.sqlite"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), text);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let occupied = folder.path().join("occupied");
    std::fs::write(&occupied, "a file where a folder is needed").expect("a file");
    let error = SqliteLedger::open(&occupied.join("ledger.sqlite"))
        .await
        .expect_err("no folder");
    assert!(matches!(error, LedgerError::Open { .. }), "{error}");
    assert!(error.to_string().contains("occupied"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--data")));
}

#[tokio::test]
async fn a_reader_may_look_on_while_the_ledger_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file: &Path = &folder.path().join("ledger.sqlite");
    let writer = SqliteLedger::open(file).await.expect("a ledger");
    writer.create_run(&run("one", 1)).await.expect("a run");
    let reader = SqliteLedger::open(file).await.expect("the same ledger");
    writer.append(&[event("one", 1)]).await.expect("an event");
    assert_eq!(reader.events(&RunId("one".into())).await.expect("events").len(), 1);
}
