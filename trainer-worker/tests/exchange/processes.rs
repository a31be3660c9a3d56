//! Trainers as processes of their own, which exchange by the code for NCCL over a stand-in for libcuda and libnccl (standin.c).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use gavel_core::ids::Step;
use gavel_core::spec::{Device, GradientExchange};
use gavel_core::work::Unit;
use gavel_trainer_worker::exchange::{Communicator, Exchange, ExchangeError, Seat, Watch, of_this_build};

use crate::fleet::{BeforeUnit, Fleet, Process, Turns};
use crate::{adapter, by_blobs};

const COORDINATOR: &str = "GAVEL_TEST_COORDINATOR";
const TURNS: &str = "GAVEL_TEST_TURNS";

/// A trainer of these tests computes on the CPU, and has its sums on a GPU of the stand-in.
struct OnGpu(Box<dyn Exchange>);

impl Exchange for OnGpu {
    fn check(&self) -> Result<String, ExchangeError> {
        self.0.check()
    }

    fn rendezvous(&self) -> Result<Vec<u8>, ExchangeError> {
        self.0.rendezvous()
    }

    fn meet(&self, seat: &Seat<'_>, watch: &Watch<'_>) -> Result<Box<dyn Communicator>, ExchangeError> {
        let device = Device::Cuda(0);
        self.0.meet(&Seat { device, ..*seat }, watch)
    }
}

/// The body of a trainer's process. Without its environment, as when somebody runs the ignored tests, it has nothing to do.
#[test]
#[ignore = "no test: a trainer of those below"]
fn the_process_of_a_trainer() {
    let (Ok(coordinator), Ok(turns)) = (std::env::var(COORDINATOR), std::env::var(TURNS)) else {
        return;
    };
    let coordinator: SocketAddr = coordinator.parse().unwrap();
    let mut asks = UnixStream::connect(turns).unwrap();
    let mut answers = BufReader::new(asks.try_clone().unwrap());
    let before: BeforeUnit = Box::new(move |unit, _| {
        if let Unit::Gradient { step, shard } = unit {
            writeln!(asks, "{} {shard}", step.0).unwrap();
            answers.read_line(&mut String::new()).unwrap();
        }
    });
    let trainer = Process::trainer(coordinator, OnGpu(of_this_build()), before);
    // Until the test lets go of the other end, or dies.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    trainer.stop();
}

/// Answers the processes when it is their turn.
fn serve_turns(turns: &Arc<Turns>, listener: UnixListener) {
    let turns = Arc::clone(turns);
    std::thread::spawn(move || {
        for asks in listener.incoming() {
            let turns = Arc::clone(&turns);
            let mut answers = asks.unwrap();
            let asks = BufReader::new(answers.try_clone().unwrap());
            std::thread::spawn(move || {
                // Until the process has ended.
                for ask in asks.lines().map_while(Result::ok) {
                    let (step, shard) = ask.split_once(' ').unwrap();
                    turns.wait(Step(step.parse().unwrap()), shard.parse().unwrap(), &|| false);
                    if answers.write_all(b"\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A folder with the stand-in's libraries, sockets and log.
struct StandIn(tempfile::TempDir);

impl StandIn {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchange/standin.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let library = folder.path().join("libcuda.so");
        let status = Command::new(&compiler)
            .args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"])
            .args([source.as_os_str(), "-o".as_ref(), library.as_os_str()])
            .status()
            .unwrap_or_else(|error| panic!("{compiler}, which compiles C, does not start: {error}"));
        assert!(status.success(), "{compiler}: {status}");
        // One library under both names: they share their streams.
        std::os::unix::fs::symlink(&library, folder.path().join("libnccl.so")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the processes did, each line with the process, a word and a number.
    fn log(&self) -> Vec<(u32, String, usize)> {
        let log = std::fs::read_to_string(self.path("log")).unwrap();
        let line = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            (
                words[0].parse().unwrap(),
                words[1].to_owned(),
                words[2].parse().unwrap(),
            )
        };
        log.lines().map(line).collect()
    }

    /// The numbers that stand by a word, of all processes but one.
    fn of_others(&self, word: &str, process: u32) -> Vec<usize> {
        let log = self.log().into_iter();
        log.filter(|(of, found, _)| *of != process && found == word)
            .map(|(_, _, number)| number)
            .collect()
    }
}

/// When the first trainer is to die, and whether the library tells the others.
struct Death {
    /// In which of its groups of calls; the first step has two, one to scatter and one to gather.
    group: usize,
    is_told: bool,
}

struct Trainers {
    fleet: Fleet,
    stand_in: StandIn,
    processes: Vec<(Child, Option<ChildStdin>)>,
}

impl Trainers {
    fn start(count: usize, death: Option<&Death>) -> Self {
        let fleet = Fleet::start(GradientExchange::Nccl, count);
        let stand_in = StandIn::new();
        serve_turns(&fleet.turns, UnixListener::bind(stand_in.path("turns")).unwrap());
        if death.is_some() {
            let made = Command::new("mkfifo").arg(stand_in.path("tell")).status().unwrap();
            assert!(made.success());
        }
        let start = |number: usize| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args([
                    "--exact",
                    "processes::the_process_of_a_trainer",
                    "--ignored",
                    "--nocapture",
                ])
                .env("LD_LIBRARY_PATH", stand_in.0.path())
                .env("STANDIN_FOLDER", stand_in.0.path())
                .env(COORDINATOR, fleet.address().to_string())
                .env(TURNS, stand_in.path("turns"))
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            if let Some(death) = death {
                if number == 0 {
                    command
                        .env("STANDIN_DIE_AT", death.group.to_string())
                        .env("STANDIN_TELL", stand_in.path("tell"));
                }
                if !death.is_told {
                    command.env("STANDIN_SILENT", "1");
                }
            }
            let mut process = command.spawn().unwrap();
            let stdin = process.stdin.take();
            (process, stdin)
        };
        let processes = (0..count).map(start).collect();
        Self {
            fleet,
            stand_in,
            processes,
        }
    }

    /// Kills the first trainer in the middle of what it was to die in. Returns its process.
    fn kill(&mut self) -> u32 {
        // The other end stays open as long as the process lives.
        let mut told = [0];
        let mut fifo = std::fs::File::open(self.stand_in.path("tell")).unwrap();
        fifo.read_exact(&mut told).unwrap();
        self.fleet.turns.end();
        let (mut process, _stdin) = self.processes.remove(0);
        process.kill().unwrap();
        process.wait().unwrap();
        process.id()
    }

    /// The run's end; the trainers leave in good order.
    fn finish(self) -> StandIn {
        assert_eq!(adapter(&self.fleet.finish()), by_blobs().0);
        for (mut process, stdin) in self.processes {
            drop(stdin);
            assert!(process.wait().unwrap().success());
        }
        self.fleet.stop();
        self.stand_in
    }
}

/// The bytes of blobs, and one communicator for all steps.
fn exchanges_in_one_group(trainers: usize) {
    let stand_in = Trainers::start(trainers, None).finish();
    assert_eq!(stand_in.of_others("met", 0), vec![trainers; trainers]);
    assert_eq!(stand_in.of_others("left", 0), vec![trainers; trainers]);
    assert!(stand_in.of_others("aborted", 0).is_empty());
    let log = stand_in.log();
    let processes: BTreeSet<u32> = log.iter().map(|(process, ..)| *process).collect();
    assert_eq!(processes.len(), trainers);
    // As many shards each: everybody receives as much, but for the rounding of slices.
    let received = |process| -> usize {
        let of_process = log.iter().filter(|(of, word, _)| of == process && word == "received");
        of_process.map(|(.., bytes)| bytes).sum()
    };
    let received: Vec<usize> = processes.iter().map(received).collect();
    let (least, most) = (received.iter().min().unwrap(), received.iter().max().unwrap());
    assert!(*least > 0 && most - least < 1000, "{received:?}");
}

#[test]
fn two_processes_exchange_by_nccl_to_the_same_bytes_in_one_group() {
    exchanges_in_one_group(2);
}

#[test]
fn three_processes_exchange_by_nccl_to_the_same_bytes_in_one_group() {
    exchanges_in_one_group(3);
}

/// Three trainers, of which one is killed with half of its numbers sent.
fn one_is_killed(death: &Death) {
    let mut trainers = Trainers::start(3, Some(death));
    let killed = trainers.kill();
    let stand_in = trainers.finish();
    assert_eq!(
        stand_in.of_others("aborted", killed),
        [3, 3],
        "both others gave their group up"
    );
    // They formed another one, which they left when the run was done.
    assert_eq!(stand_in.of_others("met", killed), [3, 3, 2, 2]);
    assert_eq!(stand_in.of_others("left", killed), [2, 2]);
}

#[test]
fn a_member_that_is_killed_in_the_first_exchange_is_noticed_by_nccl() {
    one_is_killed(&Death {
        group: 2,
        is_told: true,
    });
}

#[test]
fn a_member_that_is_killed_in_a_kept_group_is_noticed_by_the_coordinator() {
    one_is_killed(&Death {
        group: 3,
        is_told: false,
    });
}
