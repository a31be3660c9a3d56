//! The network between workers and coordinator: it loses, doubles and delays messages.

use super::*;

impl World {
    pub(super) fn latency(&mut self) -> u64 {
        if self.chance.happens(self.faults.delay) {
            self.chance.between(50, 4_000)
        } else {
            self.chance.between(1, 15)
        }
    }

    pub(super) fn is_cut_off(&self, caller: Caller) -> bool {
        match caller {
            Caller::Worker { index, .. } => self.machines[index].cut_off > self.now,
            Caller::Operator => false,
        }
    }

    pub(super) fn send(&mut self, caller: Caller, request: Request, after: u64) {
        self.numbers += 1;
        let number = self.numbers;
        if let Request::Submit(run) = request {
            self.submissions.insert(number, run);
        }
        self.transmit(number, caller, request, after);
    }

    pub(super) fn transmit(&mut self, number: u64, caller: Caller, request: Request, after: u64) {
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

    pub(super) fn arrive(&mut self, number: u64, caller: Caller, request: Request) {
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

    pub(super) fn reply(&mut self, number: u64, caller: Caller, response: Response) {
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

    pub(super) fn respond(&mut self, answered: Answered) {
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

    pub(super) fn deliver(&mut self, number: u64, caller: Caller, response: Response) {
        match caller {
            Caller::Worker { index, life } => {
                let machine = &self.machines[index];
                if machine.worker.life != life || !machine.worker.alive {
                } else if machine.frozen > self.now {
                    let after = machine.frozen - self.now;
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
}
