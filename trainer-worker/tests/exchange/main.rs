//! Gradient sums that stay with their trainers give the same bytes as sums that go through blobs: with any number of
//! trainers, and over the death of one of them before and during the exchange.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod fleet;
mod loopback;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};

use fleet::{Fleet, SHARDS, STEPS};
use gavel_core::ids::{Digest, Step};
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::GradientExchange;
use gavel_trainer_worker::exchange::{Exchange, ExchangeError, Seat, Shard};
use loopback::Loopback;

fn adapter(status: &RunStatus) -> Digest {
    assert_eq!(status.phase, Phase::Finished);
    status.policy.as_ref().expect("a policy").adapter
}

/// The adapter where every sum is a blob, and the number of blobs before the first commit.
fn by_blobs() -> (Digest, usize) {
    static FOUND: OnceLock<(Digest, usize)> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let fleet = Fleet::start(GradientExchange::Blobs, 1);
        let (count, counted) = blobs_before_first_commit(&fleet);
        let trainer = fleet.trainer(Loopback::default(), count());
        let adapter = adapter(&fleet.finish());
        trainer.stop();
        fleet.stop();
        (adapter, counted.recv().unwrap())
    })
}

/// Counts the blobs when everything of the first step but its commit is done: nothing has been collected yet.
fn blobs_before_first_commit(fleet: &Fleet) -> (impl Fn() -> fleet::BeforeCommit + use<>, Receiver<usize>) {
    let (tell, told) = mpsc::channel();
    let data = fleet.folder.path().to_owned();
    let count = move || -> fleet::BeforeCommit {
        let (tell, data) = (tell.clone(), data.clone());
        Box::new(move |step| {
            if step == Step(1) {
                tell.send(blobs(&data)).unwrap();
            }
        })
    };
    (count, told)
}

fn blobs(data: &Path) -> usize {
    let shelves = std::fs::read_dir(data.join("blobs")).unwrap();
    let shelves = shelves.map(|shelf| shelf.unwrap().path());
    let shelves = shelves.filter(|shelf| shelf.is_dir() && shelf.file_name().unwrap().len() == 2);
    shelves.map(|shelf| std::fs::read_dir(shelf).unwrap().count()).sum()
}

/// A run with so many trainers, none of which dies.
fn undisturbed(trainers: usize) {
    let fleet = Fleet::start(GradientExchange::Nccl, trainers);
    let loopback = Loopback::default();
    let (count, counted) = blobs_before_first_commit(&fleet);
    let start = |_| fleet.trainer(loopback.clone(), count());
    let processes: Vec<_> = (0..trainers).map(start).collect();
    let found = adapter(&fleet.finish());
    let (expected, blobs_with_sums) = by_blobs();
    assert_eq!(found, expected);
    let blobs = counted.recv().unwrap();
    assert_eq!(blobs_with_sums - blobs, SHARDS as usize, "no sum is a blob");
    // A trainer that has every sum needs no group.
    let groups = if trainers == 1 {
        vec![]
    } else {
        vec![trainers; STEPS as usize]
    };
    assert_eq!(loopback.groups(), groups);
    processes.into_iter().for_each(fleet::Process::stop);
    fleet.stop();
}

#[test]
fn one_trainer_commits_alone() {
    undisturbed(1);
}

#[test]
fn two_trainers_exchange_to_the_same_bytes() {
    undisturbed(2);
}

#[test]
fn three_trainers_exchange_to_the_same_bytes() {
    undisturbed(3);
}

/// The first commit of the first step tells who makes it, and waits until it may go on.
fn pause_first_commit(
    trainer: usize,
    paused: &Arc<AtomicBool>,
    tell: Sender<usize>,
    go_on: &Arc<Mutex<Receiver<()>>>,
) -> fleet::BeforeCommit {
    let (paused, go_on) = (Arc::clone(paused), Arc::clone(go_on));
    Box::new(move |step| {
        if step == Step(1) && !paused.swap(true, Ordering::SeqCst) {
            tell.send(trainer).unwrap();
            go_on.lock().unwrap().recv().unwrap();
        }
    })
}

/// Three trainers, one of which is gone when the sums are asked for. `end` says how it goes.
fn dies_before(end: fn(fleet::Process)) {
    let fleet = Fleet::start(GradientExchange::Nccl, 3);
    let loopback = Loopback::default();
    let (tell, told) = mpsc::channel();
    let (resume, go_on) = mpsc::channel();
    let (paused, go_on) = (Arc::default(), Arc::new(Mutex::new(go_on)));
    let mut processes: Vec<_> = (0..3)
        .map(|trainer| {
            let before = pause_first_commit(trainer, &paused, tell.clone(), &go_on);
            fleet.trainer(loopback.clone(), before)
        })
        .collect();
    let committing: usize = told.recv().unwrap();
    fleet.turns.end();
    end(processes.remove((committing + 1) % 3));
    resume.send(()).unwrap();
    assert_eq!(adapter(&fleet.finish()), by_blobs().0);
    assert!(
        loopback.groups().iter().all(|size| *size == 2),
        "{:?}",
        loopback.groups()
    );
    processes.into_iter().for_each(fleet::Process::stop);
    fleet.stop();
}

#[test]
fn sums_of_a_trainer_that_left_are_made_again() {
    dies_before(fleet::Process::stop);
}

#[test]
fn sums_of_a_trainer_that_was_killed_are_made_again() {
    dies_before(fleet::Process::kill);
}

/// Tells when it takes part as one who was called, for the first time, and never comes back from there.
struct Dying {
    loopback: Loopback,
    trainer: usize,
    dead: Arc<AtomicBool>,
    tell: Sender<usize>,
    buried: Arc<Mutex<Receiver<()>>>,
}

impl Exchange for Dying {
    fn check(&self) -> Result<String, ExchangeError> {
        self.loopback.check()
    }

    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError> {
        self.loopback.rendezvous()
    }

    fn exchange(
        &self,
        seat: &Seat<'_>,
        shards: &[Shard<'_>],
        take: &mut dyn FnMut(&[f32]),
    ) -> Result<(), ExchangeError> {
        if seat.rank != 0 && !self.dead.swap(true, Ordering::SeqCst) {
            self.tell.send(self.trainer).unwrap();
            // Until the test ends: a dead process does nothing more.
            let _ = self.buried.lock().unwrap().recv();
            return Err(ExchangeError::Cancelled);
        }
        self.loopback.exchange(seat, shards, take)
    }
}

#[test]
fn a_trainer_that_is_killed_during_the_exchange_does_not_hold_up_the_others() {
    let fleet = Fleet::start(GradientExchange::Nccl, 3);
    let loopback = Loopback::default();
    let (tell, told) = mpsc::channel();
    let (bury, buried) = mpsc::channel();
    let (dead, buried) = (Arc::default(), Arc::new(Mutex::new(buried)));
    let mut processes: Vec<_> = (0..3)
        .map(|trainer| {
            let exchange = Dying {
                loopback: loopback.clone(),
                trainer,
                dead: Arc::clone(&dead),
                tell: tell.clone(),
                buried: Arc::clone(&buried),
            };
            fleet.trainer(exchange, Box::new(|_| {}))
        })
        .collect();
    let killed: usize = told.recv().unwrap();
    fleet.turns.end();
    processes.remove(killed).kill();
    assert_eq!(adapter(&fleet.finish()), by_blobs().0);
    assert!(
        loopback.groups().iter().all(|size| *size == 2),
        "{:?}",
        loopback.groups()
    );
    bury.send(()).unwrap();
    processes.into_iter().for_each(fleet::Process::stop);
    fleet.stop();
}
