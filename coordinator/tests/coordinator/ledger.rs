//! What every ledger promises, held against each implementation; and what the coordinator does when a ledger breaks.

use std::path::Path;

use gavel_coordinator::ledger::{
    self, Candidacy, CommitRecord, DetailsRecord, EventRecord, Leadership, Ledger, LedgerError, Position,
    PostgresLedger, Row, RunRecord, SnapshotRecord, SqliteLedger, StepRecords,
};
use gavel_core::hint::Hint as _;
use gavel_core::ids::{Digest, Millis, RunId, Step};
use sqlx::Connection as _;

use crate::servers::postgres::Postgres;

fn run(name: &str, created: u64) -> RunRecord {
    RunRecord::new(
        RunId(name.into()),
        "{\"spec\":1}".into(),
        "{\"prompts\":[\"ein rotes Quadrat ✓\"]}".into(),
        "00".repeat(32),
        Millis(created),
    )
}

/// An event that follows something: a ledger stores checksums, and does not look at them.
fn event(run: &str, sequence: u64) -> EventRecord {
    let previous = Digest::of(&(sequence - 1).to_le_bytes());
    let text = format!("{{\"n\":{sequence}}}");
    let at = Millis(1_700_000_000_000 + sequence);
    EventRecord::new(&previous, RunId(run.into()), sequence, at, "granted".into(), text)
}

/// Every run's row, in order.
async fn rows(ledger: &impl Ledger) -> Vec<RunRecord> {
    let mut rows = Vec::new();
    for id in ledger.runs().await.expect("runs") {
        rows.push(ledger.run(&id).await.expect("its row").expect("it is listed"));
    }
    rows
}

fn snapshot(run: &str, events: u64, state: &str) -> SnapshotRecord {
    let position = Position {
        events,
        chain: event(run, events).chain,
    };
    SnapshotRecord::new(RunId(run.into()), position, event(run, events).at, 3, state.into())
}

fn details(step: u32, result: &str) -> DetailsRecord {
    DetailsRecord::new(RunId("later".into()), Step(step), result.into())
}

fn commit(step: u32, result: &str) -> CommitRecord {
    CommitRecord::new(RunId("later".into()), Step(step), result.into())
}

/// Snapshots, of which the latest stays, and what steps came to, of which the latest of each step stays.
async fn keeps_what_follows_from_events(ledger: &impl Ledger) {
    let run = RunId("later".into());
    assert_eq!(ledger.snapshot(&run).await.expect("an answer"), None);
    for kept in [
        snapshot("later", 1, "{\"n\":1}"),
        snapshot("later", 2, "{\"it's\":\"✓\"}"),
    ] {
        ledger.keep_snapshot(&kept).await.expect("kept");
        assert_eq!(ledger.snapshot(&run).await.expect("an answer"), Some(kept));
    }
    assert_eq!(
        ledger.snapshot(&RunId("earlier".into())).await.expect("an answer"),
        None
    );
    ledger
        .keep_snapshot(&snapshot("nobody", 1, "{}"))
        .await
        .expect_err("there is no such run");

    ledger.keep_steps(&StepRecords::default()).await.expect("nothing to do");
    let steps = |steps: &[(u32, &str)]| StepRecords {
        commits: steps.iter().map(|(step, text)| commit(*step, text)).collect(),
        details: steps.iter().map(|(step, text)| details(*step, text)).collect(),
    };
    let all = steps(&[(3, "3"), (1, "1"), (2, "2")]);
    ledger.keep_steps(&all).await.expect("kept");
    ledger.keep_steps(&steps(&[(2, "taken again")])).await.expect("kept");
    let alone = StepRecords {
        commits: vec![commit(4, "4")],
        details: Vec::new(),
    };
    ledger.keep_steps(&alone).await.expect("kept");
    let of = async |first: u32, most: u64| ledger.details(&run, Step(first), most).await.expect("an answer");
    assert_eq!(
        of(1, 9).await,
        [details(1, "1"), details(2, "taken again"), details(3, "3")]
    );
    assert_eq!(of(2, 1).await, [details(2, "taken again")]);
    assert_eq!(of(4, 9).await, []);
    let of = async |first: u32, most: u64| ledger.commits(&run, Step(first), most).await.expect("an answer");
    assert_eq!(
        of(2, 9).await,
        [commit(2, "taken again"), commit(3, "3"), commit(4, "4")]
    );
    assert_eq!(of(1, 1).await, [commit(1, "1")]);

    let mut half = steps(&[(5, "5")]);
    half.details[0].run = RunId("nobody".into());
    ledger.keep_steps(&half).await.expect_err("there is no such run");
    assert_eq!(of(5, 9).await, [], "all of it or nothing");
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

    let [known, unknown] = [Digest::of(b"known"), Digest::of(b"unknown")];
    let verdict = |text: &str| [(known, text.to_owned())];
    ledger
        .keep_verdicts(&verdict("{\"n\":1}"))
        .await
        .expect("a new verdict");
    ledger
        .keep_verdicts(&verdict("{\"n\":2}"))
        .await
        .expect("a known one stays");
    ledger.keep_verdicts(&[]).await.expect("nothing to do");
    // More than one transaction of SQLite's takes.
    let many = |n: u32| (Digest::of(&n.to_le_bytes()), format!("{{\"n\":{n}}}"));
    ledger
        .keep_verdicts(&(0..600).map(many).collect::<Vec<_>>())
        .await
        .expect("many");
    assert_eq!(
        ledger.verdicts(&[many(599).0]).await.expect("verdicts"),
        [Some(many(599).1)]
    );
    let found = ledger.verdicts(&[unknown, known, unknown]).await.expect("verdicts");
    assert_eq!(found, [None, Some("{\"n\":1}".into()), None]);

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
    ledger
        .append(&[event("later", 3), event("later", 3)])
        .await
        .expect_err("one event twice");
    // More than a transaction of a busy fleet has, with text that a statement put together by hand would break on.
    ledger.create_run(&run("Later", 20)).await.expect("another run");
    let many: Vec<_> = (1..=2_000)
        .map(|sequence| EventRecord {
            event: format!("{{\"quoted\":\"it's {{{sequence},\\\"NULL\\\"}} ✓ \\u0000\"}}"),
            ..event("Later", sequence)
        })
        .collect();
    ledger.append(&many).await.expect("many events");
    assert_eq!(ledger.events(&RunId("Later".into())).await.expect("events"), many);
    keeps_what_follows_from_events(&ledger).await;
    ledger.ready().await.expect("open");
    let identity = ledger.identity().await.expect("a name");
    ledger.close().await;

    let ledger = reopen().await;
    assert_eq!(ledger.identity().await.expect("the same name"), identity);
    for (sequence, chain) in [
        (0, Some(run("later", 20).chain)),
        (2, Some(event("later", 2).chain)),
        (3, None),
    ] {
        let found = ledger.chain(&RunId("later".into()), sequence).await;
        assert_eq!(found.expect("an answer"), chain, "{sequence}");
    }
    let unknown = RunId("unknown".into());
    assert_eq!(ledger.run(&unknown).await.expect("an answer"), None);
    assert_eq!(ledger.chain(&unknown, 0).await.expect("an answer"), None);
    assert_eq!(
        rows(&ledger).await,
        // Of the same moment, in the order of their bytes.
        vec![run("earlier", 10), run("Later", 20), run("later", 20), run("many", 30)]
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
async fn postgres_keeps_its_promises() {
    let Some(server) = Postgres::start() else { return };
    let url = server.url("postgres");
    keeps_its_promises(async || PostgresLedger::open(&url).await.expect("a ledger")).await;
}

#[tokio::test]
async fn an_address_chooses_the_ledger_and_its_password_is_never_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.sqlite");
    for url in [
        file.display().to_string(),
        format!("sqlite:{}", file.display()),
        format!("sqlite://{}", file.display()),
    ] {
        let ledger = ledger::open(&url).await.expect("a ledger");
        ledger.ready().await.expect("open");
    }
    assert_eq!(
        std::fs::read_dir(folder.path())
            .expect("the folder")
            .flatten()
            .filter(|entry| entry.path() == file)
            .count(),
        1
    );
    for url in [
        "mysql://user:secret@host/database",
        "postgres://user:secret@host:port/database",
        "postgres://user:secret@127.0.0.1:1/database",
    ] {
        let error = ledger::open(url).await.err().expect("no ledger there");
        let mut text = format!("{error} {:?}", error.hint().expect("a remedy"));
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text += &error.to_string();
            cause = error.source();
        }
        assert!(!text.contains("secret"), "{text}");
        let is_told_apart = match url.ends_with(":1/database") {
            true => matches!(error, LedgerError::Unreachable { .. }),
            false => matches!(error, LedgerError::Url { .. }),
        };
        assert!(is_told_apart, "{error:?}");
    }
}

#[tokio::test]
async fn what_a_postgres_server_refuses_is_sorted_by_what_to_do_about_it() {
    let Some(server) = Postgres::start() else { return };
    for url in [
        server.url_as("gavel", "wrong", "postgres"),
        server.url_as("nobody", "wrong", "postgres"),
        server.url("missing"),
    ] {
        let error = PostgresLedger::open(&url).await.expect_err("not let in");
        assert!(matches!(error, LedgerError::Login { .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("PGPASSWORD")), "{error}");
    }

    let ledger = PostgresLedger::open(&server.url("postgres")).await.expect("a ledger");
    ledger.create_run(&run("one", 1)).await.expect("a run");
    server.sql(
        "postgres",
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk()",
    );
    let error = ledger.append(&[event("one", 1)]).await.expect_err("no space");
    assert!(matches!(error, LedgerError::Full { .. }), "{error:?}");
    server.sql("postgres", "DROP TRIGGER full_disk ON events");

    server.sql(
        "postgres",
        "CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
    );
    let url = server.url_as("reader", "reader", "postgres");
    let error = PostgresLedger::open(&url).await.expect_err("no right to create tables");
    assert!(matches!(error, LedgerError::Forbidden { .. }), "{error:?}");
    server.sql(
        "postgres",
        "GRANT CREATE ON SCHEMA public TO reader; GRANT INSERT ON _sqlx_migrations TO reader",
    );
    let reader = PostgresLedger::open(&url).await.expect("a ledger to read");
    assert_eq!(reader.runs().await.expect("runs").len(), 1);
    let error = reader.append(&[event("one", 1)]).await.expect_err("no right to write");
    assert!(matches!(error, LedgerError::Forbidden { .. }), "{error:?}");

    // As on a replica.
    server.sql("postgres", "ALTER ROLE gavel SET default_transaction_read_only = on");
    let error = PostgresLedger::open(&server.url("postgres"))
        .await
        .expect_err("read-only");
    assert!(matches!(error, LedgerError::Forbidden { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("replica")), "{error}");
    server.sql("postgres", "ALTER ROLE gavel RESET default_transaction_read_only");

    // A newer Gavel has been here.
    server.sql(
        "postgres",
        "INSERT INTO _sqlx_migrations
         (version, description, success, checksum, execution_time) VALUES (999, 'newer', TRUE, '\\x00', 0)",
    );
    let error = PostgresLedger::open(&server.url("postgres")).await.expect_err("newer");
    assert!(matches!(error, LedgerError::Schema { .. }), "{error:?}");

    server.kill();
    let error = ledger.append(&[event("one", 1)]).await.expect_err("no server");
    assert!(matches!(error, LedgerError::Unreachable { .. }), "{error:?}");
    assert!(error.hint().is_some(), "{error}");
}

/// Becomes the leader, or says who is.
async fn lead(ledger: &PostgresLedger, name: &str) -> Result<Leadership, String> {
    match ledger.lead(name).await.expect("an answer") {
        Candidacy::Leads(leadership) => Ok(leadership),
        Candidacy::StandsBy { leader } => Err(leader),
    }
}

/// Becomes the leader as soon as the server has noticed that the earlier one is gone.
async fn lead_next(ledger: &PostgresLedger, name: &str) -> Leadership {
    let attempts = async {
        loop {
            if let Ok(leadership) = lead(ledger, name).await {
                return leadership;
            }
        }
    };
    let bound = std::time::Duration::from_secs(60);
    tokio::time::timeout(bound, attempts).await.expect("the lock is free")
}

#[tokio::test]
async fn one_coordinator_leads_a_postgres_ledger_and_the_writes_of_an_earlier_leader_are_refused() {
    let Some(server) = Postgres::start() else { return };
    let url = server.url("postgres");
    let first = PostgresLedger::open(&url).await.expect("a ledger");
    let second = PostgresLedger::open(&url).await.expect("the same ledger");
    let mut leadership = lead(&first, "the first").await.expect("nobody else is there");
    first.create_run(&run("one", 1)).await.expect("a run");
    first.append(&[event("one", 1)]).await.expect("an event");
    assert_eq!(lead(&second, "the second").await.expect_err("not yet"), "the first");

    // Two ledgers in one database have nothing to do with each other.
    server.sql("postgres", "CREATE SCHEMA other");
    let elsewhere = PostgresLedger::open(&format!("{url}&options[search_path]=other")).await;
    let elsewhere = elsewhere.expect("another ledger");
    let other = lead(&elsewhere, "somebody else").await.expect("nobody leads there");
    assert!(elsewhere.runs().await.expect("runs").is_empty());
    drop(other);

    // The first leader's connection is cut. It hears of it, and whether or not it acts on that, it changes nothing any more.
    server.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted",
    );
    assert!(matches!(leadership.lost().await, LedgerError::Deposed { .. }));
    let next = lead_next(&second, "the second").await;
    for refused in [
        first.append(&[event("one", 2)]).await,
        first.create_run(&run("two", 2)).await,
        first.keep_snapshot(&snapshot("one", 1, "{}")).await,
        first
            .keep_steps(&StepRecords {
                commits: Vec::new(),
                details: vec![DetailsRecord::new(RunId("one".into()), Step(1), "{}".into())],
            })
            .await,
    ] {
        let error = refused.expect_err("deposed");
        assert!(matches!(error, LedgerError::Deposed { .. }), "{error:?}");
        assert!(error.hint().is_some());
    }
    second.append(&[event("one", 2)]).await.expect("the leader writes");
    assert_eq!(second.events(&RunId("one".into())).await.expect("events").len(), 2);

    // Who resigns is followed at once.
    next.resign().await;
    lead(&first, "the first again").await.expect("nobody leads");
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.sqlite");
    let text = "this is not a database, and long enough not to be taken for an empty one".repeat(20);
    std::fs::write(&file, &text).expect("a file");
    let error = SqliteLedger::open(&file).await.expect_err("not a database");
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("ledger.sqlite"), "{error}");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("gavel restore")),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), text);
}

#[tokio::test]
async fn a_file_whose_pages_have_changed_is_said_to_be_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.sqlite");
    let ledger = SqliteLedger::open(&file).await.expect("a ledger");
    ledger.create_run(&run("one", 1)).await.expect("a run");
    ledger.close().await;
    let mut bytes = std::fs::read(&file).expect("the file");
    bytes[4096..].fill(0xff);
    std::fs::write(&file, bytes).expect("written");
    let error = match SqliteLedger::open(&file).await {
        Ok(ledger) => ledger.run(&RunId("one".into())).await.expect_err("damaged"),
        Err(error) => error,
    };
    assert!(error.is_damage(), "{error:?}");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("gavel restore")),
        "{error}"
    );
}

/// The rows get the checksums that they would have had from the beginning.
async fn seals_what_was_written_before<L: Ledger>(open: impl AsyncFn() -> L, unseal: impl AsyncFn(&str)) {
    let ledger = open().await;
    let before = run("before", 1);
    let mut chain = before.chain;
    let events: Vec<EventRecord> = (1..=2_500)
        .map(|sequence| {
            let event = event("before", sequence);
            let event = EventRecord::new(&chain, event.run, sequence, event.at, event.kind, event.event);
            chain = event.chain;
            event
        })
        .collect();
    ledger.create_run(&before).await.expect("a run");
    ledger.append(&events).await.expect("events");
    let identity = ledger.identity().await.expect("a name");
    ledger.close().await;
    for statement in [
        "UPDATE runs SET spec_chain = NULL, chain = NULL",
        "UPDATE events SET chain = NULL",
        "DELETE FROM identity",
    ] {
        unseal(statement).await;
    }
    let ledger = open().await;
    assert_ne!(ledger.identity().await.expect("a name"), identity);
    assert_eq!(rows(&ledger).await, [before]);
    assert_eq!(ledger.events(&RunId("before".into())).await.expect("events"), events);
    ledger.close().await;
    // Later on a row without a checksum is a damaged one.
    unseal("UPDATE events SET chain = NULL WHERE sequence = 7").await;
    let error = open()
        .await
        .events(&RunId("before".into()))
        .await
        .expect_err("no checksum");
    assert!(
        matches!(error, LedgerError::Corrupt { row: Row::Event(7), .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn rows_of_before_there_were_checksums_get_them_once_in_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.sqlite");
    let url = format!("sqlite:{}", file.display());
    seals_what_was_written_before(
        async || SqliteLedger::open(&file).await.expect("a ledger"),
        async |statement: &str| {
            let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("the ledger");
            let statement = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()));
            statement.execute(&mut connection).await.expect("SQL");
            connection.close().await.expect("closed");
        },
    )
    .await;
}

#[tokio::test]
async fn rows_of_before_there_were_checksums_get_them_once_in_postgres() {
    let Some(server) = Postgres::start() else { return };
    let url = server.url("postgres");
    seals_what_was_written_before(
        async || PostgresLedger::open(&url).await.expect("a ledger"),
        async |statement: &str| drop(server.sql("postgres", statement)),
    )
    .await;
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
