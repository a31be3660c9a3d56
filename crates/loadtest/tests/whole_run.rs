//! A fleet of simulated workers takes a whole run through a real coordinator over real gRPC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use gavel_coordinator::ledger::{Ledger as _, SqliteLedger};
use gavel_coordinator::{Coordinator, CoordinatorOptions, Listeners, read_run};
use gavel_core::run::{Event, Phase};
use gavel_core::work::Unit;
use gavel_loadtest::{Fleet, FleetOptions, submit, synthetic_run};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_workers_have_each_unit_of_a_run_accepted_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = Listeners::bind(any_port, any_port).await.expect("free ports");
    let shutdown = CancellationToken::new();
    let mut options = CoordinatorOptions::new(folder.path());
    // Many beats within the short run.
    options.heartbeat = Duration::from_millis(50);
    let coordinator = Coordinator::start(options, listeners, shutdown.clone())
        .await
        .expect("a coordinator");

    let run = synthetic_run(2, 150).expect("a run");
    let options = FleetOptions {
        coordinator: format!("http://{}", coordinator.grpc_address()),
        workers: 200,
        connections: 20,
        work: Duration::ZERO,
    };
    let fleet = Fleet::start(&options, &run).await.expect("a fleet");
    let table = coordinator.driver().workers().await.expect("a table");
    assert_eq!(table.len(), 200);
    submit(&options.coordinator, &run).await.expect("submitted");
    let mut changes = coordinator.driver().watch(&run.id()).await.expect("the run");
    loop {
        changes.mark_unchanged();
        let status = coordinator.driver().status(&run.id()).await.expect("the run");
        if status.phase.is_ended() {
            assert_eq!(status.phase, Phase::Finished);
            break;
        }
        changes.changed().await.expect("the coordinator serves");
    }
    let tally = fleet.stop().await;
    shutdown.cancel();
    coordinator.join().await.expect("an orderly end");

    assert_eq!(tally.grants.count() as u64, run.units());
    assert_eq!(tally.troubles(), 0, "{:?}", tally.failures);
    let ledger = SqliteLedger::open(&folder.path().join("ledger.sqlite"))
        .await
        .expect("the ledger");
    let mut accepted: BTreeMap<Unit, u32> = BTreeMap::new();
    for record in ledger.events(&run.id()).await.expect("events") {
        if let Event::Completed { unit, .. } = serde_json::from_str(&record.event).expect("an event") {
            *accepted.entry(unit).or_default() += 1;
        }
    }
    assert_eq!(accepted.len() as u64, run.units());
    assert!(accepted.values().all(|count| *count == 1), "{accepted:?}");
    let replayed = read_run(&ledger, &run.id()).await.expect("the run");
    assert_eq!(replayed.phase(), Phase::Finished);
    let pairs: usize = replayed.results().steps.iter().map(|step| step.groups.len()).sum();
    assert_eq!(pairs, 300);
}
