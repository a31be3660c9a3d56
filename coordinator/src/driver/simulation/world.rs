//! Virtual time: what happens next, the network between workers and coordinator, and the faults.

mod faults;

use std::collections::{BTreeMap, VecDeque};

use gavel_core::run::{Event, Phase};
use tonic::Code;

use super::blobs::Blobs;
use super::chance::Chance;
use super::ledger::{Fate, SimulatedLedger};
use super::oracle::Oracle;
use super::plan::{Faults, Plan};
use super::process::{Answered, Process};
use super::protocol::{Caller, Request, Response, passes};
use super::worker::{Bell, Surroundings, Wish, Worker};
use super::{Tally, Violation};

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
    Cancel,
    BlobLoss,
}

/// What the driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Round,
    Tick,
    BeginToEnd,
}

/// A worker with what the network and the machine do to it.
struct Place {
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
    /// The coordinator's clock minus the true time.
    skew: i64,
    round_is_due: bool,
    ends: bool,
    places: Vec<Place>,
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
        let places = plan.workers.iter().map(|planned| Place {
            worker: Worker::new(planned),
            cut_off: 0,
            frozen: 0,
        });
        Self {
            now: 1_000_000,
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
            round_is_due: false,
            ends: false,
            places: places.collect(),
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
        for index in 0..self.places.len() {
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
            Fault::Cancel,
            Fault::BlobLoss,
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
        60_000 + 4 * (lease + self.plan.worker_timeout) + units * 5_000
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
                let place = &self.places[index];
                if place.worker.life != life || !place.worker.alive {
                } else if place.frozen > self.now {
                    let after = place.frozen - self.now;
                    self.after(after, Happening::Bell { index, life, bell });
                } else {
                    self.with_worker(index, |worker, around| worker.rung(bell, around));
                }
            }
            Happening::Start { index, keeps_name } => {
                if !self.places[index].worker.alive {
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

    // The network.

    fn latency(&mut self) -> u64 {
        if self.chance.happens(self.faults.delay) {
            self.chance.between(50, 4_000)
        } else {
            self.chance.between(1, 15)
        }
    }

    fn is_cut_off(&self, caller: Caller) -> bool {
        match caller {
            Caller::Worker { index, .. } => self.places[index].cut_off > self.now,
            Caller::Operator => false,
        }
    }

    fn send(&mut self, caller: Caller, request: Request, after: u64) {
        self.numbers += 1;
        let number = self.numbers;
        if let Request::Submit(run) = request {
            self.submissions.insert(number, run);
        }
        self.transmit(number, caller, request, after);
    }

    fn transmit(&mut self, number: u64, caller: Caller, request: Request, after: u64) {
        if self.is_cut_off(caller) || self.chance.happens(self.faults.loss) {
            self.tally.count("messages lost");
            return;
        }
        if self.chance.happens(self.faults.duplication) {
            self.tally.count("messages doubled");
            let after = after + self.latency();
            let request = request.clone();
            self.after(
                after,
                Happening::Arrive {
                    number,
                    caller,
                    request,
                },
            );
        }
        let after = after + self.latency();
        self.after(
            after,
            Happening::Arrive {
                number,
                caller,
                request,
            },
        );
    }

    fn arrive(&mut self, number: u64, caller: Caller, request: Request) {
        let Some(process) = &mut self.coordinator else {
            return self.reply(number, caller, Response::Failed(Code::Unavailable));
        };
        if self.traces {
            let line = format!("{:>9} #{number} {caller:?} asks {}", self.now, brief(&request));
            self.trace.push_back(line);
        }
        let life = self.coordinator_life;
        if let Request::Lease { .. } = request {
            self.queued += 1;
            let at = (self.now + self.plan.lease_wait, self.queued);
            self.queue.insert(at, Happening::LeaseWaitEnds { number, life });
        }
        process.arrive(number, caller, request, &self.plan);
        if !self.round_is_due {
            self.round_is_due = true;
            let after = self.chance.below(4);
            self.after(after, Happening::Round(life));
        }
    }

    fn reply(&mut self, number: u64, caller: Caller, response: Response) {
        if self.is_cut_off(caller) || self.chance.happens(self.faults.loss) {
            self.tally.count("messages lost");
            return;
        }
        let after = self.latency();
        self.after(
            after,
            Happening::Deliver {
                number,
                caller,
                response,
            },
        );
    }

    fn respond(&mut self, answered: Answered) {
        let Answered {
            call,
            response,
            refusal,
        } = answered;
        if refusal.is_some() {
            self.tally.count("calls refused");
        }
        self.note(|| match &refusal {
            Some(refusal) => format!("#{} is refused: {refusal}", call.number),
            None => format!("#{} is answered: {}", call.number, brief_response(&response)),
        });
        if !call.hung_up {
            self.reply(call.number, call.caller, response);
        }
    }

    fn deliver(&mut self, number: u64, caller: Caller, response: Response) {
        match caller {
            Caller::Worker { index, life } => {
                let place = &self.places[index];
                if place.worker.life != life || !place.worker.alive {
                } else if place.frozen > self.now {
                    let after = place.frozen - self.now;
                    self.after(
                        after,
                        Happening::Deliver {
                            number,
                            caller,
                            response,
                        },
                    );
                } else {
                    self.with_worker(index, |worker, around| worker.answered(number, response, around));
                }
            }
            // The operator looks at what is so, and asks again where it is not.
            Caller::Operator => {
                if let (Some(run), Response::Done) = (self.submissions.get(&number), response) {
                    self.submitted[*run] = true;
                }
            }
        }
    }

    // The workers.

    fn with_worker(&mut self, index: usize, act: impl FnOnce(&mut Worker, &mut Surroundings<'_>)) {
        let mut wishes = Vec::new();
        let runs = &self.plan.runs;
        let spec = |key: &gavel_core::work::LeaseKey| {
            let run = runs
                .iter()
                .find(|run| run.id == key.run)
                .expect("leases are of planned runs");
            (&run.spec, &run.assets)
        };
        let mut around = Surroundings {
            chance: &mut self.chance,
            faults: &self.faults,
            blobs: &mut self.blobs,
            heartbeat: self.plan.heartbeat,
            lease_wait: self.plan.lease_wait,
            next_number: &mut self.numbers,
            spec: &spec,
            wishes: &mut wishes,
        };
        act(&mut self.places[index].worker, &mut around);
        let life = self.places[index].worker.life;
        for wish in wishes {
            match wish {
                Wish::Send {
                    number,
                    request,
                    within,
                } => {
                    self.transmit(number, Caller::Worker { index, life }, request, 0);
                    let bell = Bell::Unanswered(number);
                    self.after(within, Happening::Bell { index, life, bell });
                }
                Wish::HangUp { number } => {
                    let after = self.latency();
                    self.after(after, Happening::HangUp(number));
                }
                Wish::Ring { after, bell } => self.after(after, Happening::Bell { index, life, bell }),
                Wish::Left => {
                    self.note(|| format!("worker {index} has left"));
                    self.kill(index, false);
                }
            }
        }
    }

    /// Ends a worker's process; another one comes later in its place.
    fn kill(&mut self, index: usize, crashes: bool) {
        let broken = self.places[index].worker.die();
        for number in broken {
            // A machine that dies does not say so.
            if !crashes || self.chance.happens(0.7) {
                let after = self.latency();
                self.after(after, Happening::HangUp(number));
            }
        }
        self.places[index].frozen = 0;
        let keeps_name = crashes && self.chance.happens(0.3);
        let after = self.chance.between(100, 4_000);
        self.after(after, Happening::Start { index, keeps_name });
    }

    // The coordinator.

    fn start_coordinator(&mut self) -> Result<(), String> {
        if self.coordinator.is_some() {
            return Ok(());
        }
        self.coordinator_life += 1;
        self.ends = false;
        self.round_is_due = false;
        let clock = self.clock();
        let process = Process::start(&self.ledger, &self.plan, clock)
            .map_err(|error| format!("the coordinator does not start: {error:?}"))?;
        let news = self.oracle.read(&self.ledger.pages(), &self.blobs)?;
        self.tell(&news);
        self.oracle.restarted(process.now());
        self.oracle.compare(process.state())?;
        self.coordinator = Some(process);
        self.tally.count("coordinator starts");
        self.note(|| "the coordinator starts".into());
        self.after(0, Happening::Tick(self.coordinator_life));
        Ok(())
    }

    fn clock(&self) -> u64 {
        self.now.saturating_add_signed(self.skew)
    }

    /// Lets the driver do something, then checks everything.
    fn drive(&mut self, act: Act) -> Result<(), String> {
        let clock = self.clock();
        let Some(process) = &mut self.coordinator else {
            return Ok(());
        };
        process.set_clock(clock);
        // A tick takes no messages: what has arrived is heard in the next round.
        let heard = if act == Act::Round { process.heard() } else { Vec::new() };
        let acted = match act {
            Act::Round => process.round(),
            Act::Tick => process.tick(),
            Act::BeginToEnd => process.begin_to_end(),
        };
        let now = process.now();
        let deleted = self.blobs.delete(process.garbage());
        self.tally.add("blobs deleted as garbage", deleted);
        // Also of a round that the process does not survive: an answer may have left before it died.
        let answered = process.answered();
        if acted.is_ok() {
            for (worker, registers) in heard {
                self.oracle.hear(worker, registers, now);
            }
            for answered in &answered {
                self.oracle
                    .keep_alive(&answered.call.request, &answered.response, now)?;
            }
        }
        let news = self.oracle.read(&self.ledger.pages(), &self.blobs)?;
        self.tell(&news);
        if let (Some(process), true) = (&self.coordinator, acted.is_ok()) {
            self.oracle.compare(process.state())?;
        }
        for answered in answered {
            self.oracle.check_answer(&answered)?;
            self.respond(answered);
        }
        if acted.is_err() {
            self.tally.count("ledger failures");
            self.end_coordinator("dies of its ledger");
        }
        Ok(())
    }

    fn tell(&mut self, news: &[(gavel_core::ids::RunId, Event)]) {
        for (run, event) in news {
            self.tally.count(crate::state::kind(event));
            self.note(|| format!("{run} {}", brief_event(event)));
        }
    }

    /// The process is gone; its callers notice, or do not.
    fn end_coordinator(&mut self, how: &str) {
        let Some(process) = self.coordinator.take() else { return };
        self.note(|| format!("the coordinator {how}"));
        self.coordinator_life += 1;
        for call in process.into_calls() {
            if self.chance.happens(0.8) {
                self.reply(call.number, call.caller, Response::Failed(Code::Unavailable));
            }
        }
        if self.faults.clock > 0 {
            let either_way = 2 * self.faults.clock;
            self.skew = self.chance.between(0, either_way) as i64 - self.faults.clock as i64;
        }
        let after = self.chance.between(50, 3_000);
        self.after(after, Happening::CoordinatorStarts);
    }

    // The operator.

    /// Submits what is not there yet and resumes what has stopped.
    fn look(&mut self) {
        self.after(1_000, Happening::OperatorLooks);
        if self.healed && self.coordinator.as_ref().is_some_and(Process::drains) {
            self.end_coordinator("is started again after a drain");
        }
        for run in 0..self.plan.runs.len() {
            let id = self.plan.runs[run].id.clone();
            let request = match self.oracle.watched.get(&id).map(|watched| watched.shadow.phase()) {
                _ if !self.submitted[run] => Request::Submit(run),
                Some(Phase::Failed { .. } | Phase::Stopped { .. }) => Request::Resume(id),
                _ => continue,
            };
            self.send(Caller::Operator, request, 0);
        }
    }

    // Faults.

    fn is_finished(&self) -> bool {
        let watched = &self.oracle.watched;
        watched.len() == self.plan.runs.len()
            && self.coordinator.is_some()
            && watched
                .values()
                .all(|watched| watched.shadow.phase() == Phase::Finished)
    }

    fn finish(&mut self) -> Result<(), String> {
        let Some(process) = &self.coordinator else {
            return Ok(());
        };
        self.oracle.compare(process.state())?;
        let equal = self
            .oracle
            .check_end(process.state(), &self.ledger.pages(), process.now())?;
        self.tally.add("runs", self.plan.runs.len() as u64);
        self.tally.add("runs equal to the undisturbed", u64::from(equal));
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
        for (index, place) in self.places.iter().enumerate() {
            text += &format!("\n  worker {index}: {:?}", place.worker);
        }
        text
    }
}

fn brief(request: &Request) -> String {
    match request {
        Request::Complete {
            worker, key, honest, ..
        } => format!("complete by {worker}: {} #{} honest {honest}", key.unit, key.fence),
        Request::Submit(run) => format!("submit {run}"),
        other => format!("{other:?}"),
    }
}

fn brief_response(response: &Response) -> String {
    match response {
        Response::Leased(grant) => format!("leased {} #{}", grant.unit, grant.fence),
        Response::Failed(code) if passes(*code) => format!("failed for now: {code:?}"),
        other => format!("{other:?}"),
    }
}

fn brief_event(event: &Event) -> String {
    match event {
        Event::Completed {
            unit, worker, fence, ..
        } => format!("completed {unit} #{fence} by {worker}"),
        other => format!("{other:?}"),
    }
}
