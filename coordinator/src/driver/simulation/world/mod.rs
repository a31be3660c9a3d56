//! Virtual time: what happens next, the network between workers and coordinator, and the faults.

mod faults;
mod machines;
mod network;
mod trace;

use std::collections::{BTreeMap, VecDeque};

use gavel_core::ids::Step;
use gavel_core::run::{Event, Phase};
use tonic::Code;

use super::blobs::Blobs;
use super::chance::Chance;
use super::ledger::{Fate, SimulatedLedger};
use super::oracle::Oracle;
use super::plan::{Faults, Plan, PlannedRun};
use super::process::{Answered, Process};
use super::protocol::{Caller, Request, Response, passes};
use super::worker::{Bell, Surroundings, Wish, Worker};
use super::{Tally, Violation};
use trace::{brief, brief_event, brief_response};

/// How often the driver looks at leases and workers.
const TICK: u64 = 500;
/// How long the coordinator still takes results when it ends in an orderly way.
const GRACE: u64 = 1_000;
/// Events of a schedule that a failure shows.
const TRACE: usize = 120;

/// Something that happens at a moment.
enum Happening {
    Arrive {
        number: u64,
        caller: Caller,
        request: Request,
    },
    Deliver {
        number: u64,
        caller: Caller,
        response: Response,
    },
    /// The coordinator takes what has arrived; if it is still in this life.
    Round(u64),
    Tick(u64),
    LeaseWaitEnds {
        number: u64,
        life: u64,
    },
    HangUp(u64),
    Bell {
        index: usize,
        life: u64,
        bell: Bell,
    },
    Start {
        index: usize,
        keeps_name: bool,
    },
    CoordinatorStarts,
    CoordinatorStops(u64),
    OperatorLooks,
    Fault(Fault),
    /// From now on nothing goes wrong.
    Heal,
}

/// What goes wrong now and then.
#[derive(Debug, Clone, Copy)]
enum Fault {
    WorkerCrash,
    WorkerLeaves,
    Freeze,
    Partition,
    CoordinatorCrash,
    LedgerFailure,
    CoordinatorRestart,
    Drain,
    Order,
    BlobLoss,
    ClockStep,
}

/// What the driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Round,
    Tick,
    BeginToEnd,
}

/// A worker with what the network and the machine do to it.
struct Machine {
    worker: Worker,
    /// Until then nothing gets through to it or from it.
    cut_off: u64,
    /// Until then it does nothing; what comes waits.
    frozen: u64,
}

/// One schedule.
pub(super) struct World {
    now: u64,
    plan: Plan,
    faults: Faults,
    chance: Chance,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    numbers: u64,
    ledger: SimulatedLedger,
    blobs: Blobs,
    coordinator: Option<Process>,
    coordinator_life: u64,
    /// The coordinator's wall clock minus the true time.
    skew: i64,
    /// Since when the coordinator is up, and how long it was up in its earlier lives.
    up_since: u64,
    up_before: u64,
    round_is_due: bool,
    ends: bool,
    machines: Vec<Machine>,
    /// Numbers of submissions, and which runs have been acknowledged.
    submissions: BTreeMap<u64, usize>,
    submitted: Vec<bool>,
    healed: bool,
    oracle: Oracle,
    happenings: u64,
    tally: Tally,
    traces: bool,
    trace: VecDeque<String>,
}

impl World {
    pub(super) fn new(seed: u64, traces: bool) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance);
        let machines = plan.workers.iter().map(|planned| Machine {
            worker: Worker::new(planned),
            cut_off: 0,
            frozen: 0,
        });
        Self {
            now: 10_000_000,
            faults: plan.faults,
            chance,
            queue: BTreeMap::new(),
            queued: 0,
            numbers: 0,
            ledger: SimulatedLedger::default(),
            blobs: Blobs::default(),
            coordinator: None,
            coordinator_life: 0,
            skew: 0,
            up_since: 0,
            up_before: 0,
            round_is_due: false,
            ends: false,
            machines: machines.collect(),
            submissions: BTreeMap::new(),
            submitted: vec![false; plan.runs.len()],
            healed: false,
            oracle: Oracle::new(plan.worker_timeout),
            happenings: 0,
            tally: Tally::default(),
            traces,
            trace: VecDeque::new(),
            plan,
        }
    }

    /// Lives through the schedule.
    pub(super) fn run(mut self) -> Result<Tally, Violation> {
        match self.live() {
            Ok(()) => Ok(self.tally),
            Err(what) => Err(Violation {
                what,
                trace: self.trace.into(),
            }),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.after(0, Happening::CoordinatorStarts);
        for index in 0..self.machines.len() {
            let after = self.chance.below(1_500);
            self.after(
                after,
                Happening::Start {
                    index,
                    keeps_name: false,
                },
            );
        }
        for run in 0..self.plan.runs.len() {
            let after = self.plan.runs[run].submitted;
            self.send(Caller::Operator, Request::Submit(run), after);
        }
        self.after(1_000, Happening::OperatorLooks);
        for fault in [
            Fault::WorkerCrash,
            Fault::WorkerLeaves,
            Fault::Freeze,
            Fault::Partition,
            Fault::CoordinatorCrash,
            Fault::LedgerFailure,
            Fault::CoordinatorRestart,
            Fault::Drain,
            Fault::Order,
            Fault::BlobLoss,
            Fault::ClockStep,
        ] {
            self.next_fault(fault);
        }
        let begun = self.now;
        self.after(self.plan.faults_until, Happening::Heal);
        let end = begun + self.plan.faults_until + self.patience();
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            self.happenings += 1;
            self.happen(happening)?;
            if self.is_finished() {
                return self.finish();
            }
            if self.now > end {
                return Err(format!("no end in sight: {}", self.waits_for()));
            }
        }
        Err("nothing happens any more".into())
    }

    /// How long the runs may take once nothing goes wrong any more: every unit one after the other, several times over.
    fn patience(&self) -> u64 {
        let units: u64 = self
            .plan
            .runs
            .iter()
            .map(|run| {
                let spec = &run.spec;
                let per_step = u64::from(spec.prompts.per_step);
                u64::from(spec.run.steps) * (3 * per_step + 1) + 40
            })
            .sum();
        let lease = self.plan.heartbeat * 6;
        // A unit may rest for a minute, and a worker be kept from a run for half a minute.
        150_000 + 4 * (lease + self.plan.worker_timeout) + units * 5_000
    }

    fn after(&mut self, time: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + time, self.queued), happening);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.traces {
            if self.trace.len() == TRACE {
                self.trace.pop_front();
            }
            let line = format!("{:>9} {}", self.now, what());
            self.trace.push_back(line);
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Arrive {
                number,
                caller,
                request,
            } => self.arrive(number, caller, request),
            Happening::Deliver {
                number,
                caller,
                response,
            } => self.deliver(number, caller, response),
            Happening::Round(life) => {
                if self.round_is_due && life == self.coordinator_life {
                    self.round_is_due = false;
                    if self.chance.happens(self.faults.hang_up)
                        && let Some(process) = &mut self.coordinator
                    {
                        process.hang_up_while_writing();
                    }
                    return self.drive(Act::Round);
                }
            }
            Happening::Tick(life) => {
                if life == self.coordinator_life && self.coordinator.is_some() {
                    self.after(TICK, Happening::Tick(life));
                    return self.drive(Act::Tick);
                }
            }
            Happening::LeaseWaitEnds { number, life } => {
                if life == self.coordinator_life {
                    let answered = self.coordinator.as_mut().map(|process| process.time_out(number));
                    for answered in answered.into_iter().flatten() {
                        self.oracle.check_answer(&answered)?;
                        self.respond(answered);
                    }
                }
            }
            Happening::HangUp(number) => {
                if let Some(process) = &mut self.coordinator {
                    process.hang_up(number);
                }
            }
            Happening::Bell { index, life, bell } => {
                let machine = &self.machines[index];
                if machine.worker.life != life || !machine.worker.alive {
                } else if machine.frozen > self.now {
                    let after = machine.frozen - self.now;
                    self.after(after, Happening::Bell { index, life, bell });
                } else {
                    self.with_worker(index, |worker, around| worker.rung(bell, around));
                }
            }
            Happening::Start { index, keeps_name } => {
                if !self.machines[index].worker.alive {
                    self.note(|| format!("worker {index} starts"));
                    self.with_worker(index, |worker, around| worker.start(keeps_name, around));
                }
            }
            Happening::CoordinatorStarts => return self.start_coordinator(),
            Happening::CoordinatorStops(life) => {
                if life == self.coordinator_life {
                    self.end_coordinator("stops");
                }
            }
            Happening::OperatorLooks => self.look(),
            Happening::Fault(fault) => return self.strike(fault),
            Happening::Heal => self.heal(),
        }
        Ok(())
    }

    /// Submits what is not there yet, resumes what stands still, and has each run go as far as it was meant to.
    fn look(&mut self) {
        self.after(1_000, Happening::OperatorLooks);
        for run in 0..self.plan.runs.len() {
            let PlannedRun { id, spec, .. } = &self.plan.runs[run];
            let (id, steps) = (id.clone(), spec.run.steps);
            let shadow = self.oracle.watched.get(&id).map(|watched| &watched.shadow);
            let request = match shadow.map(|shadow| (shadow.phase(), shadow.spec().run.steps)) {
                Some((_, fewer)) if fewer != steps => Request::Order(id, Event::StepsChanged { steps }),
                _ if !self.submitted[run] => Request::Submit(run),
                Some((Phase::Failed { .. } | Phase::Stopped { .. } | Phase::Paused { .. }, _)) => {
                    Request::Order(id, Event::Resumed)
                }
                _ => continue,
            };
            self.send(Caller::Operator, request, 0);
        }
    }

    fn is_finished(&self) -> bool {
        let watched = &self.oracle.watched;
        watched.len() == self.plan.runs.len()
            && self.coordinator.is_some()
            && self.plan.runs.iter().all(|planned| {
                let shadow = watched.get(&planned.id).map(|watched| &watched.shadow);
                shadow.is_some_and(|shadow| shadow.phase() == Phase::Finished && shadow.spec() == &planned.spec)
            })
    }

    fn finish(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.coordinator else {
            return Ok(());
        };
        self.oracle.compare(process.state())?;
        process.name_all(self.plan.runs.iter().map(|planned| &planned.id));
        let up = self.up_before + (self.now - self.up_since);
        self.oracle.check_seconds(up)?;
        let equal = self
            .oracle
            .check_end(process.state(), &self.ledger.pages(), process.now())?;
        self.tally.add("runs", self.plan.runs.len() as u64);
        self.tally.add("runs equal to the undisturbed", u64::from(equal));
        if self.oracle.looked_back > 0 {
            self.tally
                .add("looks at what a run had let go", self.oracle.looked_back);
        }
        self.tally.add("happenings", self.happenings);
        Ok(())
    }

    fn waits_for(&self) -> String {
        let mut text = format!(
            "coordinator {}; ",
            if self.coordinator.is_some() { "up" } else { "down" }
        );
        for (run, watched) in &self.oracle.watched {
            let now = gavel_core::ids::Millis(self.now);
            text += &format!("{run} waits for {}; ", watched.shadow.waiting_for(now).text);
        }
        for (index, machine) in self.machines.iter().enumerate() {
            text += &format!("\n  worker {index}: {:?}", machine.worker);
        }
        text
    }
}
