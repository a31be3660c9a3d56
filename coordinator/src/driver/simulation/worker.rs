//! A simulated worker: the protocol of `gavel-worker` as a small state machine, without the computing.

use std::collections::{BTreeMap, VecDeque};

use gavel_core::ids::WorkerId;
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, LeaseKey, Outcome, Role, Unit, Unusable};
use gavel_core::{RunAssets, forecast::rehearsal};
use tonic::Code;

use super::blobs::Blobs;
use super::chance::Chance;
use super::lies;
use super::plan::{Faults, PlannedWorker};
use super::protocol::{Request, Response, passes};

/// How long a worker finishes what it holds when it leaves.
const DRAIN: u64 = 3_000;
/// How long an answer may take that is not held back on purpose.
const ANSWER_WITHIN: u64 = 3_000;

/// What a worker wants from the world.
pub(super) enum Wish {
    /// Send this, and forget the call after so long.
    Send { number: u64, request: Request, within: u64 },
    /// Break off a call.
    HangUp { number: u64 },
    /// Ring after so long.
    Ring { after: u64, bell: Bell },
    /// The worker's process has ended.
    Left,
}

/// Why a worker is rung.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bell {
    Beat,
    Computed(LeaseKey),
    /// A call was not answered in time.
    Unanswered(u64),
    Again(Box<Purpose>),
    DrainEnds,
}

/// What a call is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Purpose {
    Register,
    Beat,
    Lease,
    Complete {
        key: LeaseKey,
        outcome: Box<Outcome>,
        honest: bool,
    },
    Fail {
        key: LeaseKey,
        reason: String,
        fatal: bool,
        unusable: Vec<Unusable>,
    },
    /// When the worker leaves.
    Release(Vec<LeaseKey>),
    /// What the unit needs is not to be had.
    GiveBack(LeaseKey),
    Deregister,
    /// An old or made-up report, whose answer nobody reads.
    Forgery,
}

/// What a worker may look at and draw from while something happens to it.
pub(super) struct Surroundings<'a> {
    pub(super) chance: &'a mut Chance,
    pub(super) faults: &'a Faults,
    pub(super) blobs: &'a mut Blobs,
    pub(super) heartbeat: u64,
    pub(super) lease_wait: u64,
    pub(super) next_number: &'a mut u64,
    pub(super) spec: &'a dyn Fn(&LeaseKey) -> (&'a RunSpec, &'a RunAssets),
    pub(super) wishes: &'a mut Vec<Wish>,
}

/// A worker, over all its lives.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) role: Role,
    pub(super) life: u64,
    pub(super) alive: bool,
    pub(super) name: Option<WorkerId>,
    pub(super) slowness: u64,
    pub(super) liar: bool,
    prefetch: usize,
    registered: bool,
    draining: bool,
    leaving: bool,
    held: BTreeMap<LeaseKey, Assignment>,
    queue: VecDeque<LeaseKey>,
    computing: Option<LeaseKey>,
    outstanding: BTreeMap<u64, Purpose>,
    /// What this worker, in all its lives, has handed in lately.
    past: VecDeque<(LeaseKey, Outcome)>,
}

impl Worker {
    pub(super) fn new(planned: &PlannedWorker) -> Self {
        Self {
            role: planned.role,
            life: 0,
            alive: false,
            name: None,
            slowness: planned.slowness,
            liar: planned.liar,
            prefetch: planned.prefetch,
            registered: false,
            draining: false,
            leaving: false,
            held: BTreeMap::new(),
            queue: VecDeque::new(),
            computing: None,
            outstanding: BTreeMap::new(),
            past: VecDeque::new(),
        }
    }

    /// A new process begins, under the old name or as somebody new.
    pub(super) fn start(&mut self, keeps_name: bool, around: &mut Surroundings<'_>) {
        self.life += 1;
        self.alive = true;
        if !keeps_name {
            self.name = None;
        }
        self.send(Purpose::Register, around);
    }

    /// The process dies on the spot. Returns the calls that break off.
    pub(super) fn die(&mut self) -> Vec<u64> {
        self.alive = false;
        self.registered = false;
        self.draining = false;
        self.leaving = false;
        self.held.clear();
        self.queue.clear();
        self.computing = None;
        std::mem::take(&mut self.outstanding).into_keys().collect()
    }

    /// Begins to leave: finishes what it holds.
    pub(super) fn drain(&mut self, around: &mut Surroundings<'_>) {
        if self.draining {
            return;
        }
        self.draining = true;
        let asking = self.outstanding.iter().find(|(_, purpose)| **purpose == Purpose::Lease);
        if let Some(number) = asking.map(|(number, _)| *number) {
            self.outstanding.remove(&number);
            around.wishes.push(Wish::HangUp { number });
        }
        around.wishes.push(Wish::Ring {
            after: DRAIN,
            bell: Bell::DrainEnds,
        });
        self.leave_if_done(around);
    }

    pub(super) fn rung(&mut self, bell: Bell, around: &mut Surroundings<'_>) {
        match bell {
            Bell::Beat => {
                let beats = self.outstanding.values().any(|purpose| *purpose == Purpose::Beat);
                if self.registered && !beats {
                    self.send(Purpose::Beat, around);
                }
                if around.chance.happens(around.faults.forgery) {
                    self.forge(around);
                }
                around.wishes.push(Wish::Ring {
                    after: around.heartbeat,
                    bell: Bell::Beat,
                });
            }
            Bell::Computed(key) => self.computed(&key, around),
            Bell::Unanswered(number) => {
                if self.outstanding.contains_key(&number) {
                    around.wishes.push(Wish::HangUp { number });
                    self.answered(number, Response::Failed(Code::DeadlineExceeded), around);
                }
            }
            Bell::Again(purpose) => match *purpose {
                Purpose::Lease => self.ask(around),
                Purpose::Complete { ref key, .. } | Purpose::Fail { ref key, .. } | Purpose::GiveBack(ref key)
                    if !self.held.contains_key(key) => {}
                purpose => self.send(purpose, around),
            },
            Bell::DrainEnds => self.give_up(around),
        }
    }

    /// An answer has come to a call; a call that was given up has nobody who reads it.
    pub(super) fn answered(&mut self, number: u64, response: Response, around: &mut Surroundings<'_>) {
        let Some(purpose) = self.outstanding.remove(&number) else {
            return;
        };
        match purpose {
            Purpose::Register => self.registered_or_not(response, around),
            Purpose::Beat => self.beaten(response, around),
            Purpose::Lease => self.leased_or_not(response, around),
            Purpose::Complete { .. } | Purpose::Fail { .. } | Purpose::GiveBack(_) => {
                self.handed_in(purpose, response, around);
            }
            Purpose::Deregister => around.wishes.push(Wish::Left),
            Purpose::Release(_) if self.leaving => self.send(Purpose::Deregister, around),
            Purpose::Release(_) | Purpose::Forgery => {}
        }
    }

    fn registered_or_not(&mut self, response: Response, around: &mut Surroundings<'_>) {
        match response {
            Response::Registered(name) => {
                self.name = Some(name);
                if !self.registered {
                    self.registered = true;
                    around.wishes.push(Wish::Ring {
                        after: 0,
                        bell: Bell::Beat,
                    });
                }
                self.ask(around);
            }
            _ => self.again(Purpose::Register, around),
        }
    }

    fn beaten(&mut self, response: Response, around: &mut Surroundings<'_>) {
        match response {
            Response::Beaten { lost, drain } => {
                lost.iter().for_each(|key| self.lose(key));
                self.compute(around);
                self.ask(around);
                if drain {
                    self.drain(around);
                }
                self.leave_if_done(around);
            }
            Response::Failed(Code::NotFound) => self.register_again(around),
            _ => {}
        }
    }

    fn leased_or_not(&mut self, response: Response, around: &mut Surroundings<'_>) {
        match response {
            Response::Leased(grant) => {
                let key = LeaseKey {
                    run: grant.run,
                    unit: grant.unit,
                    fence: grant.fence,
                };
                self.held.insert(key.clone(), grant.assignment);
                self.queue.push_back(key);
                self.compute(around);
                self.ask(around);
            }
            Response::Drain => self.drain(around),
            Response::Failed(Code::NotFound) => self.register_again(around),
            Response::Failed(code) if passes(code) => self.again(Purpose::Lease, around),
            // It is in quarantine.
            Response::Failed(_) => self.give_up(around),
            _ => self.ask(around),
        }
    }

    fn handed_in(&mut self, purpose: Purpose, response: Response, around: &mut Surroundings<'_>) {
        let key = match &purpose {
            Purpose::Complete { key, .. } | Purpose::Fail { key, .. } | Purpose::GiveBack(key) => key.clone(),
            _ => return,
        };
        match (purpose, response) {
            (purpose, Response::Failed(code)) if passes(code) => return self.again(purpose, around),
            // What this worker makes contradicts what it was asked for: its process ends.
            (Purpose::Complete { .. }, Response::Failed(Code::InvalidArgument)) => return self.give_up(around),
            _ => drop(self.held.remove(&key)),
        }
        self.leave_if_done(around);
    }

    /// Asks for work if there is room for it.
    fn ask(&mut self, around: &mut Surroundings<'_>) {
        let asks = self.outstanding.values().any(|purpose| *purpose == Purpose::Lease);
        let open = self.queue.len() + usize::from(self.computing.is_some());
        if self.registered && !self.draining && !asks && open <= self.prefetch {
            self.send(Purpose::Lease, around);
        }
    }

    /// Starts on the next unit, if there is one and nothing is being computed.
    fn compute(&mut self, around: &mut Surroundings<'_>) {
        if self.computing.is_some() {
            return;
        }
        let Some(key) = self.queue.pop_front() else { return };
        let usual = match key.unit {
            Unit::Sample { .. } | Unit::EvaluateSample { .. } => around.chance.between(100, 600),
            Unit::Gradient { .. } => around.chance.between(50, 400),
            _ => around.chance.between(10, 200),
        };
        around.wishes.push(Wish::Ring {
            after: usual * self.slowness,
            bell: Bell::Computed(key.clone()),
        });
        self.computing = Some(key);
    }

    fn computed(&mut self, key: &LeaseKey, around: &mut Surroundings<'_>) {
        if self.computing.as_ref() != Some(key) {
            return;
        }
        self.computing = None;
        if let Some(assignment) = self.held.get(key) {
            let faults = *around.faults;
            let unusable = around.blobs.unusable(assignment);
            let fails = |reason: &str, fatal, unusable| Purpose::Fail {
                key: key.clone(),
                reason: reason.to_owned(),
                fatal,
                unusable,
            };
            let purpose = if !unusable.is_empty() {
                fails("an input cannot be used", false, unusable)
            } else if around.chance.happens(faults.fatal) {
                fails("broken for good", true, vec![])
            } else if around.chance.happens(faults.failure) {
                fails("out of memory", false, vec![])
            } else if around.chance.happens(faults.unavailable) {
                Purpose::GiveBack(key.clone())
            } else {
                let (spec, assets) = (around.spec)(key);
                let outcome = rehearsal::work(spec, assets.general_rubric(&key.unit), assignment);
                let outcome = rehearsal::second_opinion(&key.unit, outcome);
                let outcome = rehearsal::left_out(&spec.judge, &key.unit, outcome);
                self.finish(key, outcome, around)
            };
            self.send(purpose, around);
        }
        self.compute(around);
        self.ask(around);
        self.leave_if_done(around);
    }

    /// Hands a result in, as it is or not.
    fn finish(&mut self, key: &LeaseKey, mut outcome: Outcome, around: &mut Surroundings<'_>) -> Purpose {
        let mut honest = true;
        if self.liar && around.chance.happens(around.faults.mislead) {
            if let Some(blob) = lies::mislead(&mut outcome, around.chance) {
                around.blobs.mislead(blob);
            }
        } else if self.liar && around.chance.happens(around.faults.lie) {
            honest = !lies::twist(&key.unit, &mut outcome, around.chance);
        }
        around.blobs.store(&outcome);
        if self.past.len() > 8 {
            self.past.pop_front();
        }
        self.past.push_back((key.clone(), outcome.clone()));
        let (key, outcome) = (key.clone(), Box::new(outcome));
        Purpose::Complete { key, outcome, honest }
    }

    /// Ends the work on a lease that belongs to somebody else now.
    fn lose(&mut self, key: &LeaseKey) {
        self.held.remove(key);
        self.queue.retain(|queued| queued != key);
        self.computing.take_if(|computing| computing == key);
    }

    fn register_again(&mut self, around: &mut Surroundings<'_>) {
        let registers = self.outstanding.values().any(|purpose| *purpose == Purpose::Register);
        if !registers && !self.leaving {
            self.send(Purpose::Register, around);
        }
    }

    fn leave_if_done(&mut self, around: &mut Surroundings<'_>) {
        if self.draining && self.held.is_empty() {
            self.give_up(around);
        }
    }

    /// Gives back what is held and leaves.
    fn give_up(&mut self, around: &mut Surroundings<'_>) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        self.queue.clear();
        self.computing = None;
        let held: Vec<LeaseKey> = std::mem::take(&mut self.held).into_keys().collect();
        if self.name.is_none() {
            around.wishes.push(Wish::Left);
        } else if held.is_empty() {
            self.send(Purpose::Deregister, around);
        } else {
            self.send(Purpose::Release(held), around);
        }
    }

    /// Reports what is not so: a result twice, a result under another fence, somebody's lease given back.
    fn forge(&mut self, around: &mut Surroundings<'_>) {
        if self.past.is_empty() || self.name.is_none() {
            return;
        }
        let which = around.chance.below(self.past.len() as u64) as usize;
        let (mut key, outcome) = self.past[which].clone();
        let Some(worker) = self.name.clone() else { return };
        let request = match around.chance.below(3) {
            0 => Request::Complete {
                worker,
                key,
                outcome,
                honest: false,
            },
            1 => {
                key.fence.0 = (key.fence.0 + 4).saturating_sub(around.chance.between(1, 8));
                Request::Complete {
                    worker,
                    key,
                    outcome,
                    honest: false,
                }
            }
            _ => {
                key.fence.0 += around.chance.between(1, 3);
                Request::Release {
                    worker: WorkerId("nobody".into()),
                    keys: vec![key],
                    reason: None,
                }
            }
        };
        let number = self.number(Purpose::Forgery, around);
        around.wishes.push(Wish::Send {
            number,
            request,
            within: ANSWER_WITHIN,
        });
    }

    fn again(&mut self, purpose: Purpose, around: &mut Surroundings<'_>) {
        if self.leaving {
            return;
        }
        around.wishes.push(Wish::Ring {
            after: around.chance.between(20, 500),
            bell: Bell::Again(Box::new(purpose)),
        });
    }

    fn number(&mut self, purpose: Purpose, around: &mut Surroundings<'_>) -> u64 {
        *around.next_number += 1;
        self.outstanding.insert(*around.next_number, purpose);
        *around.next_number
    }

    fn send(&mut self, purpose: Purpose, around: &mut Surroundings<'_>) {
        let name = self.name.clone();
        let named = || name.clone().unwrap_or_else(|| WorkerId("nobody".into()));
        let request = match &purpose {
            Purpose::Register => Request::Register {
                role: self.role,
                known_as: name.clone(),
            },
            Purpose::Beat => Request::Heartbeat {
                worker: named(),
                held: self.held.keys().cloned().collect(),
            },
            Purpose::Lease => Request::Lease { worker: named() },
            Purpose::Complete { key, outcome, honest } => Request::Complete {
                worker: named(),
                key: key.clone(),
                outcome: (**outcome).clone(),
                honest: *honest,
            },
            Purpose::Fail {
                key,
                reason,
                fatal,
                unusable,
            } => Request::Fail {
                worker: named(),
                key: key.clone(),
                reason: reason.clone(),
                fatal: *fatal,
                unusable: unusable.clone(),
            },
            Purpose::Release(keys) => Request::Release {
                worker: named(),
                keys: keys.clone(),
                reason: None,
            },
            Purpose::GiveBack(key) => Request::Release {
                worker: named(),
                keys: vec![key.clone()],
                reason: Some("a server is away".into()),
            },
            Purpose::Deregister | Purpose::Forgery => Request::Deregister { worker: named() },
        };
        let within = match purpose {
            Purpose::Lease => around.lease_wait + ANSWER_WITHIN,
            _ => ANSWER_WITHIN,
        };
        let number = self.number(purpose, around);
        around.wishes.push(Wish::Send {
            number,
            request,
            within,
        });
    }
}
