//! The processes: workers that start and die, and the coordinator, which is checked whenever it has done something.

use gavel_core::work::Unit;

use super::*;
use crate::error::Error;
use crate::ledger::LedgerError;
use crate::replay::ReplayError;

impl World {
    pub(super) fn with_worker(&mut self, index: usize, act: impl FnOnce(&mut Worker, &mut Surroundings<'_>)) {
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
        act(&mut self.machines[index].worker, &mut around);
        let life = self.machines[index].worker.life;
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
    pub(super) fn kill(&mut self, index: usize, crashes: bool) {
        let broken = self.machines[index].worker.die();
        for number in broken {
            // A machine that dies does not say so.
            if !crashes || self.chance.happens(0.7) {
                let after = self.latency();
                self.after(after, Happening::HangUp(number));
            }
        }
        self.machines[index].frozen = 0;
        let keeps_name = crashes && self.chance.happens(0.3);
        let after = self.chance.between(100, 4_000);
        self.after(after, Happening::Start { index, keeps_name });
    }

    pub(super) fn start_coordinator(&mut self) -> Result<(), String> {
        if self.coordinator.is_some() {
            return Ok(());
        }
        self.coordinator_life += 1;
        self.ends = false;
        self.round_is_due = false;
        self.damage_what_is_kept();
        let started = Process::start(&self.ledger, &self.plan, self.now, self.wall_clock());
        let news = self.oracle.read(&self.ledger.pages(), &self.blobs, self.now)?;
        self.tell(&news);
        let process = match started {
            Ok(process) => process,
            Err(
                Error::Ledger(LedgerError::Database { .. })
                | Error::Replay(ReplayError::Ledger(LedgerError::Database { .. })),
            ) => {
                self.tally.count("ledger failures");
                let after = self.chance.between(50, 3_000);
                self.after(after, Happening::CoordinatorStarts);
                return Ok(());
            }
            Err(error) => return Err(format!("the coordinator does not start: {error:?}")),
        };
        self.oracle.restarted();
        self.oracle.compare(process.state())?;
        self.up_since = self.now;
        self.coordinator = Some(process);
        self.tally.count("coordinator starts");
        self.note(|| "the coordinator starts".into());
        self.after(0, Happening::Tick(self.coordinator_life));
        Ok(())
    }

    fn wall_clock(&self) -> u64 {
        self.now.saturating_add_signed(self.skew)
    }

    /// Lets the driver do something, then checks everything.
    pub(super) fn drive(&mut self, act: Act) -> Result<(), String> {
        let wall = self.wall_clock();
        let Some(process) = &mut self.coordinator else {
            return Ok(());
        };
        process.set_clocks(self.now, wall);
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
                self.oracle.hear(worker, registers, self.now);
            }
            for answered in &answered {
                self.oracle
                    .keep_alive(&answered.call.request, &answered.response, now, self.now)?;
            }
        }
        let news = self.oracle.read(&self.ledger.pages(), &self.blobs, self.now)?;
        self.tell(&news);
        if let (Some(process), true) = (&self.coordinator, acted.is_ok()) {
            self.oracle.compare(process.state())?;
            if act == Act::Tick {
                self.oracle.check_expired(self.now)?;
            }
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

    pub(super) fn tell(&mut self, news: &[(gavel_core::ids::RunId, Event)]) {
        for (run, event) in news {
            self.tally.count(crate::state::kind(event));
            if let Event::Completed {
                unit: Unit::AnswerQuestions { .. },
                ..
            } = event
            {
                self.tally.count("pictures answered about");
            }
            self.note(|| format!("{run} {}", brief_event(event)));
        }
    }

    /// The process is gone; its callers notice, or do not.
    pub(super) fn end_coordinator(&mut self, how: &str) {
        let Some(process) = self.coordinator.take() else { return };
        self.note(|| format!("the coordinator {how}"));
        self.coordinator_life += 1;
        self.up_before += self.now - self.up_since;
        for call in process.into_calls() {
            if self.chance.happens(0.8) {
                self.reply(call.number, call.caller, Response::Failed(Code::Unavailable));
            }
        }
        self.set_wall_clock();
        let after = self.chance.between(50, 3_000);
        self.after(after, Happening::CoordinatorStarts);
    }
}
