//! Trainers on their way to an exchange of gradient sums. Soft state: after a restart the commit's holder calls again.
//!
//! A call is open as long as the commit's lease that it was made under. Nobody waits in a circle: a trainer that is called
//! to one group cannot call another, it gives its commit back first.

use std::collections::BTreeMap;

use gavel_core::ids::{Digest, Millis, WorkerId};
use gavel_core::run::Event;
use gavel_core::work::rally::{self, Group, RallyOutcome};
use gavel_core::work::{Assignment, LeaseKey, Role};
use tokio::sync::oneshot;

use super::{Grant, LeaseAnswer, State};
use crate::driver::DriverError;

pub(crate) type RallyReply = oneshot::Sender<Result<RallyOutcome, DriverError>>;

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Called,
    Told,
    Joined,
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
    pub(crate) fn rally(
        &mut self,
        caller: &WorkerId,
        key: LeaseKey,
        rendezvous: Vec<u8>,
        until: Millis,
        reply: RallyReply,
    ) {
        self.forget_closed_calls();
        match self.call(caller, key, rendezvous, until) {
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

    fn call(&self, caller: &WorkerId, key: LeaseKey, rendezvous: Vec<u8>, until: Millis) -> Result<Call, DriverError> {
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
        let awaited = |call: &&Call| call.called.get(caller).is_some_and(|stage| *stage != Stage::Joined);
        if let Some(other) = self.calls.0.iter().find(awaited) {
            return Err(DriverError::CalledElsewhere {
                worker: caller.clone(),
                run: other.commit.run.clone(),
            });
        }
        let members = rally::members(caller, holders);
        let called = members.iter().skip(1).map(|member| (member.clone(), Stage::Called));
        Ok(Call {
            called: called.collect(),
            group: Group { members, rendezvous },
            until,
            reply: None,
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

    /// Answers a call: with what the worker was to bring and does not have.
    pub(crate) fn join(&mut self, worker: &WorkerId, key: &LeaseKey, lost: Vec<Digest>) -> Result<(), DriverError> {
        self.forget_closed_calls();
        let place = self.calls.0.iter().position(|call| call.key() == *key);
        let Some((place, call)) = place.map(|place| (place, &mut self.calls.0[place])) else {
            return Err(DriverError::CallOver(key.unit));
        };
        let Some(stage) = call.called.get_mut(worker) else {
            return Err(DriverError::CallOver(key.unit));
        };
        if lost.is_empty() {
            *stage = Stage::Joined;
            if call.not_joined().is_empty() {
                let members = call.group.members.clone();
                call.answer(RallyOutcome::Complete { members });
            }
        } else {
            call.answer(RallyOutcome::Incomplete { absent: vec![], lost });
            self.calls.0.remove(place);
        }
        Ok(())
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
