//! What goes wrong, and when it stops going wrong.

use super::*;

impl World {
    pub(super) fn next_fault(&mut self, fault: Fault) {
        let mean = match fault {
            Fault::WorkerCrash => self.faults.worker_crash,
            Fault::WorkerLeaves => self.faults.worker_leaves,
            Fault::Freeze => self.faults.freeze,
            Fault::Partition => self.faults.partition,
            Fault::CoordinatorCrash => self.faults.coordinator_crash,
            Fault::LedgerFailure => self.faults.ledger_failure,
            Fault::CoordinatorRestart => self.faults.coordinator_restart,
            Fault::Drain => self.faults.drain,
            Fault::Order => self.faults.order,
            Fault::BlobLoss => self.faults.blob_loss,
            Fault::ClockStep => self.faults.clock_step,
        };
        if mean > 0 {
            let after = self.chance.wait(mean);
            self.after(after, Happening::Fault(fault));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), String> {
        self.next_fault(fault);
        let index = self.chance.below(self.machines.len() as u64) as usize;
        let alive = self.machines[index].worker.alive;
        match fault {
            Fault::WorkerCrash if alive => {
                self.tally.count("worker crashes");
                self.note(|| format!("worker {index} crashes"));
                self.kill(index, true);
            }
            Fault::WorkerLeaves if alive => {
                self.tally.count("workers told to leave");
                self.note(|| format!("worker {index} is told to leave"));
                self.with_worker(index, |worker, around| worker.drain(around));
            }
            Fault::Freeze if alive => {
                self.tally.count("workers frozen");
                let until = self.now + self.chance.between(200, 12_000);
                self.note(|| format!("worker {index} freezes until {until}"));
                self.machines[index].frozen = until;
            }
            Fault::Partition => {
                self.tally.count("workers cut off");
                let until = self.now + self.chance.between(200, 12_000);
                self.note(|| format!("worker {index} is cut off until {until}"));
                self.machines[index].cut_off = until;
            }
            Fault::CoordinatorCrash => self.end_coordinator("crashes"),
            Fault::LedgerFailure => {
                let fate = self.chance.pick(&[Fate::Lost, Fate::StoredAndReportedLost]);
                match self.chance.happens(0.7) {
                    true => self.ledger.pages().append = fate,
                    false => self.ledger.pages().kept = fate,
                }
                if self.chance.happens(self.faults.creation) {
                    self.ledger.pages().creation = self.chance.pick(&[Fate::Lost, Fate::StoredAndReportedLost]);
                }
            }
            Fault::CoordinatorRestart => self.restart_in_order()?,
            Fault::Drain => {
                self.note(|| "the operator drains the fleet".into());
                self.send(Caller::Operator, Request::Drain, 0);
            }
            Fault::Order => self.give_an_order(),
            Fault::BlobLoss => {
                if self.blobs.lose(&mut self.chance) {
                    self.tally.count("blobs lost");
                }
            }
            Fault::ClockStep => self.set_wall_clock(),
            Fault::WorkerCrash | Fault::WorkerLeaves | Fault::Freeze => {}
        }
        Ok(())
    }

    /// The operator stops a run, holds it, lets it end earlier, or takes steps back; later he looks after it.
    fn give_an_order(&mut self) {
        let run = &self.plan.runs[self.chance.below(self.plan.runs.len() as u64) as usize];
        let (id, steps) = (run.id.clone(), u64::from(run.spec.run.steps));
        let reason = "enough".to_owned();
        let event = match self.chance.below(4) {
            0 => Event::Cancelled { reason },
            _ if steps == 0 => Event::Paused { reason },
            1 => Event::Paused { reason },
            2 => Event::StepsChanged {
                steps: self.chance.between(1, steps) as u32,
            },
            _ => Event::RolledBack {
                to: Step(self.chance.below(steps) as u32),
            },
        };
        self.tally.count("orders");
        self.send(Caller::Operator, Request::Order(id, event), 0);
    }

    /// The next coordinator finds snapshots and commits that are not what they were.
    pub(super) fn damage_what_is_kept(&mut self) {
        let mut pages = self.ledger.pages();
        for snapshot in pages.snapshots.values_mut() {
            if self.chance.happens(self.faults.damage) {
                self.tally.count("snapshots damaged");
                match self.chance.below(3) {
                    0 => snapshot.state = snapshot.state.replacen('1', "2", 1),
                    1 => snapshot.version += 1,
                    _ => snapshot.position.events += 1,
                }
            } else {
                self.tally.count("starts at a snapshot");
            }
        }
        for commit in pages.commits.values_mut() {
            if self.chance.happens(self.faults.damage) {
                self.tally.count("commits damaged");
                commit.commit = commit.commit.replacen('1', "2", 1);
            }
        }
    }

    /// The wall clock of the coordinator's machine, or of the next one, says something else from now on.
    pub(super) fn set_wall_clock(&mut self) {
        if self.faults.clock > 0 {
            self.tally.count("wall clocks set");
            let either_way = 2 * self.faults.clock;
            self.skew = self.chance.between(0, either_way) as i64 - self.faults.clock as i64;
            self.note(|| "the wall clock is set".into());
        }
    }

    pub(super) fn restart_in_order(&mut self) -> Result<(), String> {
        if !self.ends {
            self.ends = true;
            self.note(|| "the coordinator begins to end".into());
            let life = self.coordinator_life;
            self.after(GRACE, Happening::CoordinatorStops(life));
            return self.drive(Act::BeginToEnd);
        }
        Ok(())
    }

    /// From now on nothing goes wrong: whoever was away comes back, and nobody lies.
    pub(super) fn heal(&mut self) {
        self.note(|| "from now on nothing goes wrong".into());
        self.faults = Faults::default();
        self.skew = 0;
        {
            let mut pages = self.ledger.pages();
            pages.append = Fate::Stored;
            pages.kept = Fate::Stored;
            pages.creation = Fate::Stored;
        }
        self.queue.retain(|_, happening| match happening {
            Happening::Fault(_) => false,
            Happening::Arrive { request, .. } => !matches!(request, Request::Drain | Request::Order(..)),
            _ => true,
        });
        self.healed = true;
        for index in 0..self.machines.len() {
            self.machines[index].cut_off = 0;
            self.machines[index].frozen = self.machines[index].frozen.min(self.now);
            let worker = &mut self.machines[index].worker;
            worker.slowness = worker.slowness.min(3);
            if worker.liar {
                // Somebody replaces the machine.
                worker.liar = false;
                if worker.alive {
                    self.kill(index, false);
                }
            }
        }
    }
}
