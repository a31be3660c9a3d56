//! Trainers on their way to an exchange of gradient sums. Soft state: after a restart the commit's holder calls again.
//!
//! A call is open as long as the commit's lease that it was made under. Nobody waits in a circle: a trainer that is called
//! to one group cannot call another, it gives its commit back first. Whoever has joined waits until all have: nobody goes on
//! with a kept group that another member does not have.

use std::collections::BTreeMap;

use gavel_core::ids::{Millis, WorkerId};
use gavel_core::run::Event;
use gavel_core::work::rally::{self, Group, Presence, RallyOutcome};
use gavel_core::work::{Assignment, LeaseKey, Role};
use tokio::sync::oneshot;

use super::{Grant, LeaseAnswer, State};
use crate::driver::DriverError;

pub(crate) type RallyReply = oneshot::Sender<Result<RallyOutcome, DriverError>>;
pub(crate) type JoinReply = oneshot::Sender<Result<(), DriverError>>;

/// Where a caller wants to meet.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) rendezvous: Vec<u8>,
    /// The caller has kept the group that met there.
    pub(crate) kept: bool,
    /// When those who have not joined count as absent.
    pub(crate) until: Millis,
}

/// A call that is open.
#[derive(Debug)]
struct Call {
    commit: Grant,
    group: Group,
    /// Everybody but the caller.
    called: BTreeMap<WorkerId, Stage>,
    /// When those who have not joined count as absent.
    until: Millis,
    /// The caller, until everybody has joined.
    reply: Option<RallyReply>,
    /// Those who have joined, until everybody has.
    joined: BTreeMap<WorkerId, JoinReply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Called,
    Told,
    Joined,
    /// The caller calls again, under the same lease.
    Dismissed,
}

impl Call {
    fn key(&self) -> LeaseKey {
        LeaseKey {
            run: self.commit.run.clone(),
            unit: self.commit.unit,
            fence: self.commit.fence,
        }
    }

    fn not_joined(&self) -> Vec<WorkerId> {
        let open = self.called.iter().filter(|(_, stage)| **stage != Stage::Joined);
        open.map(|(worker, _)| worker.clone()).collect()
    }

    /// Tells everybody to go on, once everybody has joined.
    fn complete(&mut self) {
        // Whose connection broke while it waited joins again.
        for (worker, _) in self.joined.extract_if(.., |_, reply| reply.is_closed()) {
            self.called.insert(worker, Stage::Told);
        }
        if self.not_joined().is_empty() {
            self.answer(RallyOutcome::Complete {
                members: self.group.members.clone(),
            });
            for reply in std::mem::take(&mut self.joined).into_values() {
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// Lets go of those who have joined, and has the caller call again. The members keep the lease alive until it does.
    fn dismiss(&mut self) {
        self.called.values_mut().for_each(|stage| *stage = Stage::Dismissed);
        self.joined.clear();
        self.answer(RallyOutcome::NotKept);
    }

    /// Tells the caller, who is there or has lost the lease.
    fn answer(&mut self, outcome: RallyOutcome) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Ok(outcome));
        }
    }
}

/// The calls that are open.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

impl Calls {
    /// Whether a worker works on this lease as a member of its holder's group.
    pub(super) fn has_member(&self, key: &LeaseKey, worker: &WorkerId) -> bool {
        self.0
            .iter()
            .any(|call| call.called.contains_key(worker) && call.key() == *key)
    }
}

impl State {
    /// Calls the holders of a step's gradient sums together, for the holder of the step's commit.
    pub(crate) fn rally(&mut self, caller: &WorkerId, key: LeaseKey, offer: Offer, reply: RallyReply) {
        self.forget_closed_calls();
        match self.call(caller, key, offer) {
            Ok(mut call) => {
                call.reply = Some(reply);
                let known = |worker: &WorkerId| self.workers.iter().any(|known| known.id == *worker);
                let absent: Vec<WorkerId> = call.called.keys().filter(|worker| !known(worker)).cloned().collect();
                if !absent.is_empty() {
                    call.answer(RallyOutcome::Incomplete { absent, lost: vec![] });
                } else if call.called.is_empty() {
                    let members = call.group.members.clone();
                    call.answer(RallyOutcome::Complete { members });
                } else {
                    // A caller that asks again has a new rendezvous.
                    self.calls.0.retain(|open| open.key() != call.key());
                    self.calls.0.push(call);
                }
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn call(&self, caller: &WorkerId, key: LeaseKey, offer: Offer) -> Result<Call, DriverError> {
        let LeaseKey { run: id, unit, fence } = key;
        let run = self.run(&id)?;
        run.check_lease(&unit, fence, Some(caller))?;
        let (Some(lease), Some(assignment @ Assignment::Commit { .. })) = (run.lease(&unit), run.assignment(&unit))
        else {
            return Err(DriverError::NothingToExchange(unit));
        };
        let holders = match &assignment {
            Assignment::Commit { holders, .. } => holders.as_slice(),
            _ => &[],
        };
        // One that has joined is back from there, or it could not have leased this.
        let awaited = |call: &&Call| matches!(call.called.get(caller), Some(Stage::Called | Stage::Told));
        if let Some(other) = self.calls.0.iter().find(awaited) {
            return Err(DriverError::CalledElsewhere {
                worker: caller.clone(),
                run: other.commit.run.clone(),
            });
        }
        let members = rally::members(caller, holders);
        let called = members.iter().skip(1).map(|member| (member.clone(), Stage::Called));
        let Offer {
            rendezvous,
            kept,
            until,
        } = offer;
        Ok(Call {
            called: called.collect(),
            group: Group {
                members,
                rendezvous,
                kept,
            },
            until,
            reply: None,
            joined: BTreeMap::new(),
            commit: Grant {
                run: id,
                unit,
                fence,
                deadline: lease.deadline,
                spec: run.spec_sha256(),
                assignment,
            },
        })
    }

    /// Answers a call. Whoever comes is answered when everybody has joined, or the call is over.
    pub(crate) fn join(&mut self, worker: &WorkerId, key: &LeaseKey, presence: Presence, reply: JoinReply) {
        self.forget_closed_calls();
        let over = DriverError::CallOver(key.unit);
        let Some(index) = self.calls.0.iter().position(|call| call.key() == *key) else {
            return drop(reply.send(Err(over)));
        };
        let call = &mut self.calls.0[index];
        let Some(stage) = call.called.get_mut(worker).filter(|stage| **stage != Stage::Dismissed) else {
            return drop(reply.send(Err(over)));
        };
        match presence {
            Presence::Ready => {
                *stage = Stage::Joined;
                match call.reply {
                    Some(_) => {
                        call.joined.insert(worker.clone(), reply);
                        call.complete();
                    }
                    // It asks again after it was let go on: the answer was lost.
                    None => drop(reply.send(Ok(()))),
                }
            }
            Presence::WithoutSums(lost) => {
                call.answer(RallyOutcome::Incomplete { absent: vec![], lost });
                self.calls.0.remove(index);
                let _ = reply.send(Ok(()));
            }
            Presence::WithoutGroup => {
                call.dismiss();
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// Tells those who wait for work that they are called.
    pub(super) fn tell_called(&mut self) {
        if self.calls.0.is_empty() {
            return;
        }
        self.forget_closed_calls();
        let waiters = &mut self.waiters;
        for call in &mut self.calls.0 {
            let untold = call.called.iter_mut().filter(|(_, stage)| **stage == Stage::Called);
            for (worker, stage) in untold {
                for waiter in waiters.take_of(worker) {
                    // A worker that hung up is told when it asks again.
                    if *stage == Stage::Called && !waiter.reply.is_closed() {
                        let answer = LeaseAnswer::Called(Box::new(call.commit.clone()), call.group.clone());
                        if waiter.reply.send(Ok(answer)).is_ok() {
                            *stage = Stage::Told;
                        }
                    } else {
                        waiters.push(Role::Trainer, waiter);
                    }
                }
            }
        }
    }

    /// Ends the calls that not everybody followed in time.
    pub(crate) fn expire_calls(&mut self, now: Millis) {
        self.forget_closed_calls();
        self.calls.0.retain_mut(|call| {
            let waits = call.reply.is_none() || now < call.until;
            if !waits {
                let absent = call.not_joined();
                call.answer(RallyOutcome::Incomplete { absent, lost: vec![] });
            }
            waits
        });
    }

    /// A worker has left: the groups that it belongs to cannot go on. Whoever waits for it is told; an exchange that has
    /// begun ends with the commit's lease, so that nobody waits for bytes that will not come.
    pub(super) fn dissolve_groups_of(&mut self, worker: &WorkerId, now: Millis) {
        let (dissolved, rest) = std::mem::take(&mut self.calls.0)
            .into_iter()
            .partition(|call| call.called.contains_key(worker));
        self.calls.0 = rest;
        self.forget_closed_calls();
        let dissolved: Vec<Call> = dissolved;
        for mut call in dissolved {
            let LeaseKey { run, unit, fence } = call.key();
            if call.reply.is_some() {
                let absent = vec![worker.clone()];
                call.answer(RallyOutcome::Incomplete { absent, lost: vec![] });
            } else if self
                .run(&run)
                .is_ok_and(|run| run.check_lease(&unit, fence, None).is_ok())
            {
                tracing::warn!(%run, %unit, %worker, "a trainer left while gradient sums were exchanged, the step is committed anew");
                self.end_lease(&run, Event::Expired { unit, fence }, now);
            }
        }
    }

    /// A call ends with the lease that it was made under, and when nobody waits for its answer.
    fn forget_closed_calls(&mut self) {
        let runs = &self.runs;
        self.calls.0.retain(|call| {
            let Grant { run, unit, fence, .. } = &call.commit;
            let caller = call.group.members.first();
            let leased = runs
                .get(run)
                .is_some_and(|state| state.run.check_lease(unit, *fence, caller).is_ok());
            leased && !call.reply.as_ref().is_some_and(RallyReply::is_closed)
        });
    }
}
