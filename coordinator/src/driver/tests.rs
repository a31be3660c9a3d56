//! The driver on a ledger of its own, with clocks that are set by hand: what a wall clock that steps does to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gavel_core::ids::{Fence, Millis, RunId, Step, WorkerId};
use gavel_core::run::{Event, Phase, Run, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::work::{LeaseKey, Role};
use gavel_core::{RubricText, RunAssets};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::{mpsc, oneshot};

use super::submission::{Submission, Submitted};
use super::{Clock, Command, Driver, Heartbeat, Reply};
use crate::driver::DriverError;
use crate::ledger::SqliteLedger;
use crate::options::CoordinatorOptions;
use crate::state::LeaseAnswer;
use crate::worker::Introduction;

const HOUR: u64 = 3_600_000;
/// 2026-11-25, in milliseconds.
const TODAY: u64 = 1_795_600_000_000;
/// How long a lease lasts, and how long a worker may be silent.
const TERM: u64 = 60_000;

/// A coordinator's driver and the clocks of its machine.
struct Bench {
    driver: Driver,
    wall: Arc<AtomicU64>,
    monotonic: Arc<AtomicU64>,
}

impl Bench {
    /// A coordinator that takes over what is in the folder's ledger, on a machine whose clock says `wall`.
    async fn start(folder: &std::path::Path, wall: u64) -> Self {
        let (wall, monotonic) = (Arc::new(AtomicU64::new(wall)), Arc::new(AtomicU64::new(0)));
        let told = (Arc::clone(&wall), Arc::clone(&monotonic));
        let clock = Clock::new(
            move || Millis(told.0.load(Ordering::Relaxed)),
            move || Duration::from_millis(told.1.load(Ordering::Relaxed)),
        );
        let ledger = SqliteLedger::open(&folder.join("ledger.sqlite")).await.unwrap();
        let mut options = CoordinatorOptions::new(folder);
        options.worker_timeout = Duration::from_millis(TERM);
        let (bin, _) = mpsc::unbounded_channel();
        let (driver, _) = Driver::recover(Arc::new(ledger), options, bin, clock).await.unwrap();
        let mut bench = Self {
            driver,
            wall,
            monotonic,
        };
        bench.pass(0).await;
        bench
    }

    /// Lets time pass, and the driver look at its leases and workers.
    async fn pass(&mut self, milliseconds: u64) {
        self.monotonic.fetch_add(milliseconds, Ordering::Relaxed);
        self.wall.fetch_add(milliseconds, Ordering::Relaxed);
        self.driver.tick();
        self.driver.settle().await.unwrap();
    }

    async fn call<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, DriverError> {
        let (reply, answer) = oneshot::channel();
        self.driver.take(command(reply)).await;
        self.driver.settle().await.unwrap();
        answer.await.unwrap()
    }

    async fn submit(&mut self) -> Submitted {
        let mut spec = RunSpec {
            evaluation: Some(Default::default()),
            ..RunSpec::default()
        };
        spec.run.name = "run".into();
        spec.run.steps = 1;
        spec.prompts.per_step = 1;
        spec.fleet.lease = Duration::from_millis(TERM);
        let assets = RunAssets {
            prompts: vec!["a cat".into()],
            held_out: vec!["a dog".into(), "a bird".into()],
            rubric: RubricText::new("the first"),
            ..RunAssets::default()
        };
        let submission = Box::new(Submission {
            id: spec.id(),
            spec,
            assets,
        });
        self.call(|reply| Command::Submit { submission, reply }).await.unwrap()
    }

    async fn report(&mut self, event: Event) {
        let (run, event) = (RunId("run".into()), Box::new(event));
        self.call(|reply| Command::Report { run, event, reply }).await.unwrap();
    }

    /// The run's state, asked for as a page asks.
    async fn status(&mut self) -> RunStatus {
        let run = RunId("run".into());
        let id = run.clone();
        self.call(|reply| Command::Look {
            run,
            look: Box::new(move |state, now| {
                let status = state.and_then(|state| state.status(&id, Step(0), now));
                Box::new(move || drop(reply.send(status)))
            }),
        })
        .await
        .unwrap()
    }

    fn is_asleep(&self) -> bool {
        self.driver.state.asleep_at(&RunId("run".into())).is_some()
    }

    /// A sampler comes and leases a unit.
    async fn lease(&mut self, worker: &str) -> LeaseKey {
        let worker = WorkerId(worker.into());
        let introduction = Introduction {
            id: worker.clone(),
            role: Role::Sampler,
            host: String::new(),
            pid: 0,
            device: String::new(),
            version: String::new(),
            shares: None,
        };
        self.call(|reply| Command::Register { introduction, reply })
            .await
            .unwrap();
        match self.call(|reply| Command::Lease { worker, reply }).await.unwrap() {
            LeaseAnswer::Granted(grant) => LeaseKey {
                run: grant.run,
                unit: grant.unit,
                fence: grant.fence,
            },
            answer => panic!("there is work, not {answer:?}"),
        }
    }

    async fn beat(&mut self, worker: &str, held: &LeaseKey) -> Result<Heartbeat, DriverError> {
        let (worker, leases) = (WorkerId(worker.into()), vec![held.clone()]);
        let beat = |reply| Command::Heartbeat {
            worker,
            leases,
            used: None,
            reply,
        };
        self.call(beat).await
    }

    fn run(&self) -> &Run {
        self.driver.state.run(&RunId("run".into())).unwrap()
    }

    /// Who holds a lease.
    fn holders(&self) -> Vec<(&str, Fence)> {
        let leases = self.run().leases();
        leases
            .map(|(_, lease)| (lease.worker.0.as_str(), lease.fence))
            .collect()
    }
}

#[tokio::test]
async fn a_wall_clock_that_steps_neither_ends_leases_nor_keeps_them() {
    for step in [HOUR as i64, -(HOUR as i64)] {
        let folder = tempfile::tempdir().unwrap();
        let mut bench = Bench::start(folder.path(), TODAY).await;
        bench.submit().await;
        let living = bench.lease("living").await;
        bench.lease("dead").await;
        for _ in 0..6 {
            let stepped = bench.wall.load(Ordering::Relaxed).saturating_add_signed(step);
            bench.wall.store(stepped, Ordering::Relaxed);
            bench.pass(TERM / 5).await;
            assert!(bench.beat("living", &living).await.unwrap().lost.is_empty());
        }
        assert_eq!(
            bench.holders(),
            [("living", living.fence)],
            "a term has passed in silence"
        );
    }
}

#[tokio::test]
async fn a_standby_with_another_clock_gives_everybody_one_term_and_no_more() {
    for wall in [TODAY - HOUR, TODAY + HOUR] {
        let folder = tempfile::tempdir().unwrap();
        let mut leader = Bench::start(folder.path(), TODAY).await;
        leader.submit().await;
        let (living, dead) = (leader.lease("living").await, leader.lease("dead").await);
        drop(leader);

        let mut standby = Bench::start(folder.path(), wall).await;
        standby.pass(TERM).await;
        assert_eq!(standby.holders(), [("living", living.fence), ("dead", dead.fence)]);
        assert!(matches!(
            standby.beat("living", &living).await,
            Err(DriverError::UnknownWorker(_))
        ));
        let introduction = Introduction {
            id: WorkerId("living".into()),
            role: Role::Sampler,
            host: String::new(),
            pid: 0,
            device: String::new(),
            version: String::new(),
            shares: None,
        };
        standby
            .call(|reply| Command::Register { introduction, reply })
            .await
            .unwrap();
        assert!(standby.beat("living", &living).await.unwrap().lost.is_empty());
        standby.pass(1).await;
        assert_eq!(standby.holders(), [("living", living.fence)]);
        assert_eq!(standby.run().phase(), Phase::Preparing);
    }
}

#[tokio::test]
async fn an_ended_run_is_left_to_the_ledger_until_somebody_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(folder.path(), TODAY).await;
    bench.submit().await;
    bench.lease("sampler").await;
    let reason = "enough".to_owned();
    bench.report(Event::Cancelled { reason }).await;
    let ended = bench.status().await;
    let ended_in_short = bench.run().status_in_short(Millis(ended.now_unix_ms));
    let retained = bench.driver.state.retained();
    let positions = bench.driver.state.positions();
    bench.pass(TERM - 1).await;
    assert!(!bench.is_asleep());

    bench.pass(1).await;
    assert!(bench.is_asleep());
    assert_eq!(bench.driver.state.retained(), retained);
    assert_eq!(bench.driver.state.positions(), positions);
    let now = Millis(ended.now_unix_ms);
    assert_eq!(bench.driver.state.statuses(now), [ended_in_short]);

    let named = bench.status().await;
    assert!(!bench.is_asleep());
    // An ended run waits for nothing, since now.
    let named = RunStatus {
        now_unix_ms: ended.now_unix_ms,
        waiting: ended.waiting.clone(),
        ..named
    };
    assert_eq!(named, ended);

    bench.pass(TERM).await;
    assert!(bench.is_asleep() && bench.submit().await.existed);
    bench.pass(TERM).await;
    assert!(bench.is_asleep());
    bench.report(Event::Resumed).await;
    assert_eq!(bench.run().phase(), Phase::Preparing);
    bench.pass(TERM).await;
    assert!(!bench.is_asleep(), "it goes on");
}

#[tokio::test]
async fn a_run_that_is_damaged_while_it_sleeps_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(folder.path(), TODAY).await;
    bench.submit().await;
    let reason = "enough".to_owned();
    bench.report(Event::Cancelled { reason }).await;
    bench.pass(TERM).await;
    let options = SqliteConnectOptions::new().filename(folder.path().join("ledger.sqlite"));
    let mut ledger = options.connect().await.unwrap();
    sqlx::query("DELETE FROM events").execute(&mut ledger).await.unwrap();

    let Phase::Failed { reason } = bench.status().await.phase else {
        panic!("it cannot be read");
    };
    assert!(
        reason.contains("its events are others than the 1 that it ended with"),
        "{reason}"
    );
    assert!(!bench.is_asleep() && !bench.driver.state.is_whole());
}
