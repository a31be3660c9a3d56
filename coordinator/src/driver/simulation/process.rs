//! One life of the coordinator's process: the real driver over the simulated ledger, polled by hand.
//!
//! Nothing here waits: the ledger answers at once, so each of the driver's futures is ready when it is first polled. A
//! future that is not would mean that the driver waits for something besides its ledger, and the simulation fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use gavel_core::ids::{Digest, Millis, RunId, WorkerId};
use gavel_core::run::{Event, Refusal};
use gavel_core::work::{LeaseKey, WorkerFilter};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

use super::ledger::SimulatedLedger;
use super::plan::Plan;
use super::protocol::{Caller, Request, Response};
use crate::driver::{Clock, Command, Driver, DriverError, Heartbeat, Submission, Submitted};
use crate::error::Error;
use crate::grpc::status::of_driver;
use crate::options::CoordinatorOptions;
use crate::state::{LeaseAnswer, State};
use crate::sweeper::Chore;
use crate::worker::Introduction;

/// The running process.
pub(super) struct Process {
    driver: Driver,
    commands: mpsc::Sender<Command>,
    heartbeats: mpsc::Sender<Command>,
    chores: mpsc::UnboundedReceiver<Chore>,
    clocks: Arc<Clocks>,
    ledger: SimulatedLedger,
    arrived: Vec<Command>,
    /// Who is heard of by what has arrived, and whether it registers.
    heard: Vec<(WorkerId, bool)>,
    calls: Vec<Call>,
}

/// What the machine's clocks say, in milliseconds.
#[derive(Debug, Default)]
struct Clocks {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl Clocks {
    fn set(&self, now: u64, wall: u64) {
        self.monotonic.store(now, Ordering::Relaxed);
        self.wall.store(wall, Ordering::Relaxed);
    }
}

/// A call that is not answered yet.
pub(super) struct Call {
    /// The caller's number for it. A doubled message makes two calls of one number.
    pub(super) number: u64,
    pub(super) caller: Caller,
    pub(super) request: Request,
    /// The caller is gone; what it asked for is done all the same.
    pub(super) hung_up: bool,
    answer: Awaited,
}

/// What the driver will answer with.
enum Awaited {
    Name(oneshot::Receiver<Result<WorkerId, DriverError>>),
    Heartbeat(oneshot::Receiver<Result<Heartbeat, DriverError>>),
    Lease(oneshot::Receiver<Result<LeaseAnswer, DriverError>>),
    Submitted(oneshot::Receiver<Result<Submitted, DriverError>>),
    Done(oneshot::Receiver<Result<(), DriverError>>),
    Drained(oneshot::Receiver<Result<usize, DriverError>>),
    /// Several reports, of which those that are refused do not matter.
    Reports(Vec<oneshot::Receiver<Result<(), DriverError>>>),
}

/// A call with its answer, and the refusal if there was one.
pub(super) struct Answered {
    pub(super) call: Call,
    pub(super) response: Response,
    pub(super) refusal: Option<Refusal>,
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    future
        .now_or_never()
        .expect("the driver waits for nothing but its ledger, which answers at once")
}

impl Process {
    /// Starts the coordinator on what the ledger holds, at the true time `now`, on a machine whose clock says `wall`.
    pub(super) fn start(ledger: &SimulatedLedger, plan: &Plan, now: u64, wall: u64) -> Result<Self, Error> {
        let clocks = Arc::new(Clocks::default());
        clocks.set(now, wall);
        let mut options = CoordinatorOptions::new("nowhere");
        options.heartbeat = Duration::from_millis(plan.heartbeat);
        options.worker_timeout = Duration::from_millis(plan.worker_timeout);
        options.snapshot_events = plan.snapshot_events;
        let (told, passed) = (Arc::clone(&clocks), Arc::clone(&clocks));
        let clock_of_driver = Clock::new(
            move || Millis(told.wall.load(Ordering::Relaxed)),
            move || Duration::from_millis(passed.monotonic.load(Ordering::Relaxed)),
        );
        let (sender, chores) = mpsc::unbounded_channel();
        let ledger_of_driver = Arc::new(ledger.clone());
        let (driver, handle) = ready(Driver::recover(ledger_of_driver, options, sender, clock_of_driver))?;
        Ok(Self {
            driver,
            commands: handle.commands.clone(),
            heartbeats: handle.heartbeats.clone(),
            chores,
            clocks,
            ledger: ledger.clone(),
            arrived: Vec::new(),
            heard: Vec::new(),
            calls: Vec::new(),
        })
    }

    pub(super) fn state(&self) -> &State {
        &self.driver.state
    }

    /// Somebody names these runs, so that those that are asleep are read from the ledger again.
    pub(super) fn name_all<'a>(&mut self, runs: impl Iterator<Item = &'a RunId>) {
        let now = self.now();
        for run in runs {
            // What the ledger does not give is missing afterwards.
            let _ = ready(self.driver.awaken(run, now));
        }
    }

    /// The time that the driver goes by.
    pub(super) fn now(&self) -> Millis {
        self.driver.time.now()
    }

    pub(super) fn set_clocks(&self, now: u64, wall: u64) {
        self.clocks.set(now, wall);
    }

    /// A message is here; the next round takes it.
    pub(super) fn arrive(&mut self, number: u64, caller: Caller, request: Request, plan: &Plan) {
        let (answer, command) = match &request {
            Request::Register { role, known_as } => {
                let (reply, answer) = oneshot::channel();
                // New names are drawn at random at the door; the caller's number is as unique, and repeatable.
                let id = known_as.clone().unwrap_or_else(|| WorkerId(format!("{role}-{number}")));
                self.heard.push((id.clone(), true));
                let introduction = Introduction {
                    id,
                    role: *role,
                    host: String::new(),
                    pid: 0,
                    device: String::new(),
                    version: String::new(),
                    shares: None,
                };
                (Awaited::Name(answer), vec![Command::Register { introduction, reply }])
            }
            Request::Heartbeat { worker, held } => {
                let (reply, answer) = oneshot::channel();
                self.heard.push((worker.clone(), false));
                let command = Command::Heartbeat {
                    worker: worker.clone(),
                    leases: held.clone(),
                    used: None,
                    reply,
                };
                (Awaited::Heartbeat(answer), vec![command])
            }
            Request::Lease { worker } => {
                let (reply, answer) = oneshot::channel();
                let worker = worker.clone();
                self.heard.push((worker.clone(), false));
                (Awaited::Lease(answer), vec![Command::Lease { worker, reply }])
            }
            Request::Complete {
                worker, key, outcome, ..
            } => done(key, |key| Event::Completed {
                unit: key.unit,
                worker: worker.clone(),
                fence: key.fence,
                outcome: outcome.clone(),
            }),
            Request::Fail {
                worker,
                key,
                reason,
                fatal,
                unusable,
            } => done(key, |key| Event::Failed {
                unit: key.unit,
                worker: worker.clone(),
                fence: key.fence,
                reason: reason.clone(),
                fatal: *fatal,
                unusable: unusable.clone(),
            }),
            Request::Release { worker, keys, reason } => {
                let reports = keys.iter().map(|key| {
                    let (reply, answer) = oneshot::channel();
                    let event = Box::new(Event::Released {
                        unit: key.unit,
                        worker: worker.clone(),
                        fence: key.fence,
                        reason: reason.clone(),
                    });
                    let run = key.run.clone();
                    (answer, Command::Report { run, event, reply })
                });
                let (answers, commands) = reports.unzip();
                (Awaited::Reports(answers), commands)
            }
            Request::Deregister { worker } => {
                let (reply, answer) = oneshot::channel();
                let worker = worker.clone();
                (Awaited::Done(answer), vec![Command::Deregister { worker, reply }])
            }
            Request::Submit(run) => {
                let (reply, answer) = oneshot::channel();
                let run = plan.runs[*run].clone();
                let submission = Box::new(Submission {
                    id: run.id,
                    spec: run.spec,
                    assets: run.assets,
                });
                (Awaited::Submitted(answer), vec![Command::Submit { submission, reply }])
            }
            Request::Order(run, event) => order(run, event.clone()),
            Request::Drain => {
                let (reply, answer) = oneshot::channel();
                let meant = WorkerFilter::default();
                (Awaited::Drained(answer), vec![Command::Drain { meant, reply }])
            }
        };
        self.arrived.extend(command);
        self.calls.push(Call {
            number,
            caller,
            request,
            hung_up: false,
            answer,
        });
    }

    /// Takes what has arrived, as the driver's loop does; an error is the end of the process.
    pub(super) fn round(&mut self) -> Result<(), Error> {
        let arrived = std::mem::take(&mut self.arrived);
        let (heartbeats, arrived): (Vec<_>, Vec<_>) = arrived
            .into_iter()
            .partition(|command| matches!(command, Command::Heartbeat { .. }));
        let mut heartbeats = heartbeats.into_iter();
        if let Some(first) = heartbeats.next() {
            for heartbeat in heartbeats {
                let sent = self.heartbeats.try_send(heartbeat);
                assert!(sent.is_ok(), "the driver's queue of heartbeats is longer than a round");
            }
            ready(self.driver.take_heartbeats(first));
            ready(self.driver.settle())?;
        }
        let mut arrived = arrived.into_iter();
        if let Some(first) = arrived.next() {
            for command in arrived {
                let sent = self.commands.try_send(command);
                assert!(sent.is_ok(), "the driver's queue is longer than a round");
            }
            ready(self.driver.take_round(first));
        }
        ready(self.driver.settle())
    }

    /// What the driver's loop does now and then.
    pub(super) fn tick(&mut self) -> Result<(), Error> {
        self.driver.tick();
        ready(self.driver.settle())
    }

    /// Begins an orderly end: those who wait are sent away, results are still taken.
    pub(super) fn begin_to_end(&mut self) -> Result<(), Error> {
        self.driver.begin_to_end();
        ready(self.driver.settle())
    }

    /// Blobs that are to be deleted now. Those without an owner are left alone for a day, which is longer than a schedule.
    pub(super) fn garbage(&mut self) -> BTreeSet<Digest> {
        let mut blobs = BTreeSet::new();
        while let Ok(chore) = self.chores.try_recv() {
            if let Chore::Discard(released) = chore {
                blobs.extend(released);
            }
        }
        blobs
    }

    /// Calls that have been answered since the last look.
    pub(super) fn answered(&mut self) -> Vec<Answered> {
        let mut answered = Vec::new();
        for mut call in std::mem::take(&mut self.calls) {
            match call.poll() {
                Some((response, refusal)) => answered.push(Answered {
                    call,
                    response,
                    refusal,
                }),
                None => self.calls.push(call),
            }
        }
        answered
    }

    /// The time of requests for work of this number is up. Returns their answers.
    pub(super) fn time_out(&mut self, number: u64) -> Vec<Answered> {
        let mut answered = Vec::new();
        for mut call in std::mem::take(&mut self.calls) {
            if call.number == number
                && let Awaited::Lease(receiver) = &mut call.answer
            {
                // As in `DriverHandle::lease`: a grant may have been sent in this very moment.
                receiver.close();
                let (response, refusal) = match receiver.is_empty() {
                    true => (Response::Nothing, None),
                    false => call.poll().unwrap_or((Response::Nothing, None)),
                };
                answered.push(Answered {
                    call,
                    response,
                    refusal,
                });
            } else {
                self.calls.push(call);
            }
        }
        answered
    }

    /// The caller of this number is not there any more.
    pub(super) fn hang_up(&mut self, number: u64) {
        self.calls
            .retain(|call| call.number != number || !matches!(call.answer, Awaited::Lease(_)));
        for call in self.calls.iter_mut().filter(|call| call.number == number) {
            call.hung_up = true;
        }
    }

    /// The callers that wait for work will hang up while the ledger writes.
    pub(super) fn hang_up_while_writing(&mut self) {
        for call in std::mem::take(&mut self.calls) {
            match call.answer {
                Awaited::Lease(receiver) => self.ledger.pages().hang_up_while_writing.push(receiver),
                _ => self.calls.push(call),
            }
        }
    }

    /// Who was heard of by what the last round took, and whether it registered.
    pub(super) fn heard(&mut self) -> Vec<(WorkerId, bool)> {
        std::mem::take(&mut self.heard)
    }

    /// Everybody who waits for an answer, when the process ends.
    pub(super) fn into_calls(self) -> Vec<Call> {
        self.calls
    }
}

fn done(key: &LeaseKey, event: impl FnOnce(&LeaseKey) -> Event) -> (Awaited, Vec<Command>) {
    let (reply, answer) = oneshot::channel();
    let command = Command::Report {
        run: key.run.clone(),
        event: Box::new(event(key)),
        reply,
    };
    (Awaited::Done(answer), vec![command])
}

fn order(run: &RunId, event: Event) -> (Awaited, Vec<Command>) {
    let (reply, answer) = oneshot::channel();
    let command = Command::Report {
        run: run.clone(),
        event: Box::new(event),
        reply,
    };
    (Awaited::Done(answer), vec![command])
}

impl Call {
    fn poll(&mut self) -> Option<(Response, Option<Refusal>)> {
        match &mut self.answer {
            Awaited::Name(answer) => poll(answer, Response::Registered),
            Awaited::Heartbeat(answer) => poll(answer, |Heartbeat { lost, drain }| Response::Beaten { lost, drain }),
            Awaited::Lease(answer) => poll(answer, |answer| match answer {
                LeaseAnswer::Granted(grant) => Response::Leased(grant),
                LeaseAnswer::Drain => Response::Drain,
                LeaseAnswer::Called(..) => unreachable!("simulated trainers exchange sums as blobs, and nobody calls"),
            }),
            Awaited::Submitted(answer) => poll(answer, |_| Response::Done),
            Awaited::Done(answer) => poll(answer, |()| Response::Done),
            Awaited::Drained(answer) => poll(answer, |_| Response::Done),
            Awaited::Reports(answers) => {
                let mut died = false;
                answers.retain_mut(|answer| match poll(answer, |()| Response::Done) {
                    None => true,
                    Some((response, _)) => {
                        died |= matches!(response, Response::Failed(Code::Unavailable));
                        false
                    }
                });
                match died {
                    true => Some((Response::Failed(Code::Unavailable), None)),
                    false => answers.is_empty().then_some((Response::Done, None)),
                }
            }
        }
    }
}

fn poll<T>(
    answer: &mut oneshot::Receiver<Result<T, DriverError>>,
    response: impl FnOnce(T) -> Response,
) -> Option<(Response, Option<Refusal>)> {
    let answer = match answer.try_recv() {
        Ok(answer) => answer,
        Err(oneshot::error::TryRecvError::Empty) => return None,
        Err(oneshot::error::TryRecvError::Closed) => Err(DriverError::ShuttingDown),
    };
    match answer {
        Ok(value) => Some((response(value), None)),
        // The caller may take it for a success.
        Err(DriverError::Refused(Refusal::Repeated { .. })) => Some((Response::Done, None)),
        Err(error) => {
            let code = of_driver(&error).code();
            let refusal = match error {
                DriverError::Refused(refusal) => Some(refusal),
                _ => None,
            };
            Some((Response::Failed(code), refusal))
        }
    }
}
