//! Gradient sums that stay with their trainers give the same bytes as sums that go through blobs: with any number of
//! trainers, and over the death of one of them before and during the exchange.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod fleet;
mod loopback;
mod processes;
mod same_bytes;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};

use fleet::{Fleet, SHARDS};
use gavel_core::ids::{Digest, Step};
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::GradientExchange;
use gavel_trainer_worker::exchange::{Communicator, Exchange, ExchangeError, Parts, Seat, Watch};
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
    // A trainer that has every sum needs no group; others keep theirs from step to step.
    let groups = if trainers == 1 { vec![] } else { vec![trainers] };
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
    /// What this one called others to.
    opened: Mutex<Vec<Vec<u8>>>,
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
        let opened = self.loopback.rendezvous()?;
        self.opened.lock().unwrap().push(opened.clone());
        Ok(opened)
    }

    fn meet(&self, seat: &Seat<'_>, watch: &Watch<'_>) -> Result<Box<dyn Communicator>, ExchangeError> {
        let is_called = !self.opened.lock().unwrap().iter().any(|own| own == seat.rendezvous);
        if is_called && !self.dead.swap(true, Ordering::SeqCst) {
            self.tell.send(self.trainer).unwrap();
            // Until the test ends: a dead process does nothing more.
            let _ = self.buried.lock().unwrap().recv();
            return Err(ExchangeError::Cancelled);
        }
        self.loopback.meet(seat, watch)
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
                opened: Mutex::default(),
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

/// Once, whoever was called first believes that the exchange failed, after the others have what they need.
struct Doubting {
    loopback: Loopback,
    opened: Mutex<Vec<Vec<u8>>>,
    has_doubted: Arc<AtomicBool>,
}

impl Exchange for Doubting {
    fn check(&self) -> Result<String, ExchangeError> {
        self.loopback.check()
    }

    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError> {
        let opened = self.loopback.rendezvous()?;
        self.opened.lock().unwrap().push(opened.clone());
        Ok(opened)
    }

    fn meet(&self, seat: &Seat<'_>, watch: &Watch<'_>) -> Result<Box<dyn Communicator>, ExchangeError> {
        let communicator = self.loopback.meet(seat, watch)?;
        let is_called = !self.opened.lock().unwrap().iter().any(|own| own == seat.rendezvous);
        let doubts = is_called && !self.has_doubted.swap(true, Ordering::SeqCst);
        Ok(Box::new(Doubtful { communicator, doubts }))
    }
}

struct Doubtful {
    communicator: Box<dyn Communicator>,
    doubts: bool,
}

impl Communicator for Doubtful {
    fn scatter(
        &mut self,
        parts: &Parts<'_>,
        received: &mut [f32],
        meanwhile: &mut dyn FnMut(),
        watch: &Watch<'_>,
    ) -> Result<(), ExchangeError> {
        self.communicator.scatter(parts, received, meanwhile, watch)
    }

    fn gather(&mut self, own: &[f32], all: &mut [f32], watch: &Watch<'_>) -> Result<(), ExchangeError> {
        self.communicator.gather(own, all, watch)?;
        match self.doubts {
            true => Err(ExchangeError::Mismatch {
                problem: "it is doubted".into(),
            }),
            false => Ok(()),
        }
    }
}

#[test]
fn a_group_that_one_member_no_longer_has_is_formed_anew() {
    let fleet = Fleet::start(GradientExchange::Nccl, 3);
    let loopback = Loopback::default();
    let has_doubted = Arc::default();
    let processes: Vec<_> = (0..3)
        .map(|_| {
            let exchange = Doubting {
                loopback: loopback.clone(),
                opened: Mutex::default(),
                has_doubted: Arc::clone(&has_doubted),
            };
            fleet.trainer(exchange, Box::new(|_| {}))
        })
        .collect();
    assert_eq!(adapter(&fleet.finish()), by_blobs().0);
    assert!(has_doubted.load(Ordering::SeqCst));
    assert_eq!(loopback.groups(), [3, 3]);
    processes.into_iter().for_each(fleet::Process::stop);
    fleet.stop();
}
