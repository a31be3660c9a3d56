//! Two coordinators on one PostgreSQL ledger and one blob folder: the first is another process, which is killed or frozen in the
//! middle of a run; the second one goes on.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use gavel_client::{Code, ConnectOptions, Connection, Runs};
use gavel_coordinator::blobs::Blobs;
use gavel_coordinator::ledger::{Ledger as _, PostgresLedger};
use gavel_coordinator::{Coordinator, CoordinatorHandle, CoordinatorOptions, Error, Listeners};
use gavel_core::RunAssets;
use gavel_core::ids::{RunId, Step};
use gavel_core::run::{Event, Phase};
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, Outcome, Role, Unit};
use gavel_worker::{Work, WorkContext, WorkError, WorkerOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::servers::postgres::Postgres;
use crate::support::process::process;
use crate::support::{
    RUN, Rehearsal, Served, Working, adapter, any_port, assets, options, spec, submitted, undisturbed,
};

const LEDGER: &str = "GAVEL_TEST_LEDGER";
const BLOBS: &str = "GAVEL_TEST_BLOBS";

fn shared(folder: &Path, ledger: String, blobs: String) -> CoordinatorOptions {
    CoordinatorOptions {
        ledger: Some(ledger.into()),
        blobs: Some(blobs.into()),
        ..options(folder)
    }
}

/// The body of the other process. Without its environment, as when somebody runs the ignored tests, it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: the other process of those below"]
async fn the_other_coordinator() {
    let (Ok(ledger), Ok(blobs)) = (std::env::var(LEDGER), std::env::var(BLOBS)) else {
        return;
    };
    let listeners = Listeners::bind(any_port(), any_port()).await.expect("free ports");
    let options = shared(Path::new("unused"), ledger, blobs);
    let handle = Coordinator::start(options, listeners, CancellationToken::new())
        .await
        .expect("it leads");
    let mut stdout = std::io::stdout();
    writeln!(stdout, "serves {}", handle.grpc_address()).expect("somebody reads");
    let ended = handle.join().await;
    writeln!(stdout, "ended: {}", ended.expect_err("nobody asked it to end")).expect("somebody reads");
}

/// A coordinator in a process of its own.
struct Other {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    grpc: SocketAddr,
}

impl Other {
    fn start(ledger: &str, blobs: &str) -> Self {
        let mut process = process("standby::the_other_coordinator")
            .env(LEDGER, ledger)
            .env(BLOBS, blobs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let grpc = line_after(&mut output, "serves ").parse().expect("an address");
        Self { process, output, grpc }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.process.id().to_string()])
            .status();
        assert!(sent.expect("kill starts").success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The rest of the next line that begins so. The test harness of the other process prints lines of its own.
fn line_after(output: &mut impl std::io::BufRead, beginning: &str) -> String {
    let lines = output.lines().map_while(Result::ok);
    let found = lines
        .filter_map(|line| Some(line.split_once(beginning)?.1.to_owned()))
        .next();
    found.unwrap_or_else(|| panic!("the other process ended without a line `{beginning}...`"))
}

/// This process's coordinator, which waits.
struct Standby {
    grpc: SocketAddr,
    http: SocketAddr,
    shutdown: CancellationToken,
    start: JoinHandle<Result<CoordinatorHandle, Error>>,
}

impl Standby {
    async fn start(options: CoordinatorOptions) -> Self {
        let listeners = Listeners::bind(any_port(), any_port()).await.expect("free ports");
        let grpc = listeners.grpc.local_addr().expect("an address");
        let http = listeners.http.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let ends = shutdown.clone();
        let runtime = tokio::runtime::Handle::current();
        // On a thread of its own: the compiler cannot tell that the future of a migration may move between threads.
        let start = tokio::task::spawn_blocking(move || runtime.block_on(Coordinator::start(options, listeners, ends)));
        Self {
            grpc,
            http,
            shutdown,
            start,
        }
    }

    async fn leads(self) -> Served {
        let bound = std::time::Duration::from_secs(60);
        let started = tokio::time::timeout(bound, self.start).await.expect("it leads in time");
        Served {
            handle: started.expect("no panic").expect("it serves"),
            shutdown: self.shutdown,
        }
    }
}

/// The answer to a GET, as text.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

async fn runs_at(address: SocketAddr) -> Runs {
    let options = ConnectOptions::new(&address.to_string()).expect("an address");
    Connection::open(&options).await.expect("it listens").runs()
}

async fn submit(address: SocketAddr, blobs: &str) {
    let blobs = Blobs::open(blobs, 1 << 20).await.expect("the store");
    for blob in submitted() {
        blobs.put(blob.into()).await.expect("stored");
    }
    let submitted = runs_at(address)
        .await
        .submit(&RunId(RUN.into()), &spec(), &assets())
        .await;
    submitted.expect("submitted");
}

/// A trainer that stops in front of one step's commit, says so, and waits.
struct Halting {
    step: Step,
    reached: Sender<()>,
    go_on: Receiver<()>,
    then: Rehearsal,
}

impl Work for Halting {
    fn prepare(&mut self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<(), WorkError> {
        self.then.prepare(run, spec, assets)
    }

    fn perform(&mut self, unit: &Unit, assignment: &Assignment, context: &WorkContext) -> Result<Outcome, WorkError> {
        if matches!(unit, Unit::Commit { step } if *step == self.step) {
            self.reached.send(()).expect("the test waits for it");
            self.go_on.recv().expect("the test lets it go on");
        }
        self.then.perform(unit, assignment, context)
    }
}

/// The adapter of a run that nothing disturbs, on one machine.
/// How often the ledger says of each unit that its result was accepted.
async fn acceptances(url: &str) -> BTreeMap<String, u32> {
    let ledger = PostgresLedger::open(url).await.expect("the ledger");
    let mut counts = BTreeMap::new();
    for record in ledger.events(&RunId(RUN.into())).await.expect("the events") {
        if let Event::Completed { unit, .. } = serde_json::from_str(&record.event).expect("an event") {
            *counts.entry(unit.to_string()).or_default() += 1;
        }
    }
    counts
}

/// Runs a fleet on two coordinators and sends the leader `signal` while step 2 is being committed. Returns the leader's
/// process as the signal and the run's end left it.
async fn the_standby_goes_on_after(signal: &str, server: &Postgres) -> Other {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let url = server.url("postgres");
    let blobs = format!("file://{}", folder.path().join("blobs").display());
    let leader = Other::start(&url, &blobs);
    let standby = Standby::start(shared(folder.path(), url.clone(), blobs.clone())).await;
    let standby_grpc = standby.grpc;

    submit(leader.grpc, &blobs).await;
    assert!(get(standby.http, "/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = get(standby.http, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(
        ready.contains("standby; leader is") && ready.contains(&leader.grpc.to_string()),
        "{ready}"
    );
    let refused = runs_at(standby.grpc).await.list().await;
    let refused = refused.expect_err("it stands by");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("standby"), "{refused}");

    let worker = |first: SocketAddr, second: SocketAddr, role| {
        WorkerOptions::new(format!("{first}, http://{second}"), [role], "cpu")
    };
    let (reached, halts) = channel();
    let (release, go_on) = channel();
    let trainer = Halting {
        step: Step(2),
        reached,
        go_on,
        then: Rehearsal::new(),
    };
    let workers = [
        Working::start_with(worker(leader.grpc, standby_grpc, Role::Sampler), Rehearsal::new()),
        // This one asks the standby first, and must find the leader all the same.
        Working::start_with(worker(standby_grpc, leader.grpc, Role::Judge), Rehearsal::new()),
        Working::start_with(worker(leader.grpc, standby_grpc, Role::Trainer), trainer),
    ];
    tokio::task::spawn_blocking(move || halts.recv())
        .await
        .expect("no panic")
        .expect("the run comes to step 2");
    leader.signal(signal);
    let second = standby.leads().await;
    release.send(()).expect("the trainer waits");

    let status = second.until(|status| status.phase.is_ended()).await;
    assert_eq!(status.phase, Phase::Finished);
    assert_eq!(adapter(&status), expected, "the adapter of an undisturbed run");
    assert_eq!(
        second.handle.grpc_address(),
        standby_grpc,
        "where the workers look for it"
    );
    assert!(
        get(second.handle.http_address(), "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let accepted = acceptances(&url).await;
    assert!(accepted.len() > 20, "{accepted:?}");
    assert!(accepted.values().all(|count| *count == 1), "{accepted:?}");
    assert_eq!(server.sql("postgres", "SELECT term FROM leadership"), "2");
    for worker in workers {
        worker.stop().await;
    }
    second.stop().await;
    leader
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_followed_and_every_unit_is_accepted_once() {
    let Some(server) = Postgres::start() else { return };
    the_standby_goes_on_after("-KILL", &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_freezes_is_followed_and_ends_when_it_wakes_up() {
    let Some(server) = Postgres::start() else { return };
    let mut frozen = the_standby_goes_on_after("-STOP", &server).await;
    frozen.signal("-CONT");
    let ended = line_after(&mut frozen.output, "ended: ");
    assert!(ended.contains("ledger"), "{ended}");
    let mut rest = String::new();
    frozen.output.read_to_string(&mut rest).expect("its end");
    assert!(frozen.process.wait().expect("it ended").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_told_to_end_does_so_and_a_leader_in_good_order_hands_over() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = folder.path().join("blobs").display().to_string();
    let options = shared(folder.path(), server.url("postgres"), blobs);
    let leader = Standby::start(options.clone()).await.leads().await;
    leader.submit().await;

    let idle = Standby::start(options.clone()).await;
    idle.shutdown.cancel();
    let ended = idle.start.await.expect("no panic");
    assert!(matches!(ended, Err(Error::EndedAsStandby)), "{ended:?}");

    let next = Standby::start(options).await;
    leader.stop().await;
    let next = next.leads().await;
    let runs = next.handle.driver().statuses().await.expect("it serves");
    assert_eq!(runs.len(), 1, "it read the ledger after the other's last write");
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_ends_the_leader_and_a_standby_waits_until_it_is_back() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = folder.path().join("blobs").display().to_string();
    let options = shared(folder.path(), server.url("postgres"), blobs);
    let leader = Standby::start(options.clone()).await.leads().await;
    let standby = Standby::start(options).await;
    assert!(get(standby.http, "/readyz").await.contains("leader is"), "it stands by");
    server.kill();
    let error = leader.handle.join().await.expect_err("it leads no more");
    assert!(matches!(error, Error::Ledger(_)), "{error:?}");
    server.again();
    standby.leads().await.stop().await;
}
