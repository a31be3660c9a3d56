//! What the driver owns: the runs, the workers, those who wait for work, and the events that are not in the ledger yet.

mod aside;
mod asleep;
mod backoff;
#[cfg(test)]
mod fixtures;
mod offer;
mod rally;
mod release;
mod reported;
mod rules;
mod takeover;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use gavel_core::ids::{Digest, Fence, Millis, RunId, Step, WorkerId};
use gavel_core::panics::catch;
use gavel_core::run::{Commit, Effect, Event, Refusal, Run};
use gavel_core::work::LeaseKey;
use gavel_core::work::rally::Group;
use gavel_core::work::{Assignment, HeldLease, Role, Unit, WorkerFilter, WorkerStatus};
use tokio::sync::{oneshot, watch};

use crate::driver::DriverError;
use crate::ledger::{EventRecord, Position, SnapshotRecord, Written, write};
use crate::metrics;
use crate::snapshots::{self, Kept, Occasion};
use crate::steps::{self, Committed};
use crate::waiters::{Waiter, Waiters};
use crate::worker::Workers;
use aside::{NotApplied, SetAside};
use asleep::Asleep;
use backoff::Backoffs;
use rally::Calls;
use release::Release;
use turns::Turns;

pub(crate) use rally::{JoinReply, Offer, RallyReply};
pub(crate) use reported::kind;
use reported::{Reported, reason};

/// A unit in a worker's hands, as the worker is told.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) run: RunId,
    pub(crate) unit: Unit,
    pub(crate) fence: Fence,
    pub(crate) deadline: Millis,
    pub(crate) spec: Digest,
    pub(crate) assignment: Assignment,
}

/// The answer to a request for work that was not let run out.
#[derive(Debug)]
pub(crate) enum LeaseAnswer {
    Granted(Box<Grant>),
    /// Somebody else's commit needs this worker's gradient sums.
    Called(Box<Grant>, Group),
    Drain,
}

pub(crate) type LeaseReply = oneshot::Sender<Result<LeaseAnswer, DriverError>>;

/// An answer that is sent when the batch is in the ledger.
pub(crate) type Answer = Box<dyn FnOnce() + Send>;

/// A run with its place in the ledger.
#[derive(Debug)]
pub(crate) struct RunState {
    pub(crate) run: Run,
    pub(crate) created: Millis,
    /// Where its rows end, with those of the batch.
    position: Position,
    /// The time of its last event, or of its submission.
    at: Millis,
    /// When somebody last named it.
    named: Millis,
    kept: Kept,
    /// The number of the last event that is in the ledger; whoever watches the run listens here.
    changed: watch::Sender<u64>,
}

/// Events that were applied and are not in the ledger yet, with what may happen only when they are.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<EventRecord>,
    pub(crate) effects: Vec<(RunId, Effect)>,
    /// Steps that were committed, as they were then.
    pub(crate) committed: Vec<(RunId, Committed)>,
    /// What their commits made superfluous.
    pub(crate) released: Vec<(RunId, BTreeSet<Digest>)>,
    pub(crate) grants: Vec<(LeaseReply, Box<Grant>, WorkerId)>,
    pub(crate) answers: Vec<Answer>,
    changed: BTreeSet<RunId>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.grants.is_empty() && self.answers.is_empty()
    }
}

/// An event that a run has taken, and what follows from it.
struct Applied {
    /// As it goes to the ledger.
    text: String,
    reported: Reported,
    effects: Vec<Effect>,
}

impl Applied {
    fn to(run: &mut Run, event: Event, past: Option<Vec<Commit>>, now: Millis) -> Result<Self, DriverError> {
        let refused = |refusal: Refusal| {
            metrics::refused(reason(&refusal));
            DriverError::Refused(refusal)
        };
        run.precheck(&event).map_err(refused)?;
        let Written { text, value: event } =
            write(&event).map_err(|error| DriverError::NotReadable(error.to_string()))?;
        let reported = Reported::of(&event, run, now);
        let effects = match past {
            Some(past) => run.apply_with_past(event, past, now),
            None => run.apply(event, now),
        };
        let effects = effects.map_err(refused)?;
        Ok(Self {
            text,
            reported,
            effects,
        })
    }
}

#[derive(Default)]
pub(crate) struct State {
    runs: BTreeMap<RunId, RunState>,
    /// Ended runs at which nobody looks.
    asleep: BTreeMap<RunId, Asleep>,
    /// Runs that the ledger has and that cannot be read, or that have broken.
    aside: BTreeMap<RunId, SetAside>,
    /// The runs in the order of submission, also those that are asleep.
    order: Vec<RunId>,
    pub(crate) workers: Workers,
    waiters: Waiters,
    calls: Calls,
    releases: Vec<Release>,
    turns: Turns,
    backoffs: Backoffs,
    pub(crate) batch: Batch,
}

impl State {
    /// Takes a run in, which stands where `position` says since `at`.
    pub(crate) fn insert(&mut self, run: Run, created: Millis, position: Position, at: Millis, kept: Kept) {
        let id = run.id().clone();
        self.order.push(id.clone());
        self.runs.insert(
            id,
            RunState {
                run,
                created,
                position,
                at,
                named: at,
                kept,
                changed: watch::Sender::new(position.events),
            },
        );
    }

    pub(crate) fn run(&self, id: &RunId) -> Result<&Run, DriverError> {
        self.runs
            .get(id)
            .map(|state| &state.run)
            .ok_or_else(|| self.absence(id))
    }

    /// The runs that are not asleep in the order of submission, with their times of submission.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&Run, Millis)> {
        self.order
            .iter()
            .filter_map(|id| self.runs.get(id))
            .map(|state| (&state.run, state.created))
    }

    /// Where the rows of each run end in the ledger, once the batch is there.
    pub(crate) fn positions(&self) -> BTreeMap<RunId, Position> {
        let awake = self.runs.iter().map(|(id, state)| (id, state.position));
        let asleep = self.asleep.iter().map(|(id, asleep)| (id, asleep.position()));
        awake
            .chain(asleep)
            .map(|(id, position)| (id.clone(), position))
            .collect()
    }

    /// The worker table with the leases that each holds.
    pub(crate) fn worker_table(&self) -> Vec<WorkerStatus> {
        let mut table: Vec<WorkerStatus> = self.workers.iter().cloned().collect();
        for (run, _) in self.runs() {
            for (unit, lease) in run.leases() {
                // The workers come in the order of their names.
                if let Ok(row) = table.binary_search_by(|worker| worker.id.cmp(&lease.worker)) {
                    let granted_unix_ms = lease.granted.0;
                    table[row].leases.push(HeldLease {
                        run: run.id().clone(),
                        unit: unit.to_string(),
                        granted_unix_ms,
                    });
                }
            }
        }
        table
    }

    /// Applies an event and puts it into the batch. On `Err` nothing has changed.
    ///
    /// What is applied is the event as it reads back from the text that goes to the ledger. So the run has gone through exactly
    /// what a replay will go through, and stands where a replay will stand: a copy of the run on which to try the event first
    /// would show nothing more, and would cost as much as the run is large. Should the state machine panic, the run is set aside:
    /// the others go on, and the ledger still has this one as it was before the event.
    pub(crate) fn apply(&mut self, id: &RunId, event: Event, now: Millis) -> Result<(), DriverError> {
        self.apply_with_past(id, event, None, now)
    }

    fn apply_with_past(
        &mut self,
        id: &RunId,
        event: Event,
        past: Option<Vec<Commit>>,
        now: Millis,
    ) -> Result<(), DriverError> {
        let Some(state) = self.runs.get_mut(id) else {
            return Err(self.absence(id));
        };
        let kind = kind(&event);
        let sequence = state.position.events + 1;
        let goes_back = past.is_some();
        let applied = match catch(|| Applied::to(&mut state.run, event, past, now)) {
            Ok(applied) => applied?,
            Err(panicked) => {
                let error = NotApplied {
                    sequence,
                    kind,
                    panicked,
                };
                self.set_aside(id.clone(), &error);
                return Err(self.absence(id));
            }
        };
        let Applied {
            text,
            reported,
            effects,
        } = applied;
        reported.count(&mut self.workers);
        reported.hold_off(&mut self.backoffs, id, now);
        let record = EventRecord::new(&state.position.chain, id.clone(), sequence, now, kind.to_owned(), text);
        state.position = Position {
            events: record.sequence,
            chain: record.chain,
        };
        state.at = now;
        if goes_back {
            state.kept = state.kept.outdated();
        }
        let committed = steps::committed(&state.run, &effects);
        self.batch.committed.extend(committed.map(|step| (id.clone(), step)));
        if effects.iter().any(|effect| matches!(effect, Effect::StepCommitted(..))) {
            self.batch.released.push((id.clone(), state.run.released()));
        }
        self.batch.records.push(record);
        self.batch
            .effects
            .extend(effects.into_iter().map(|effect| (id.clone(), effect)));
        self.batch.changed.insert(id.clone());
        Ok(())
    }

    /// Applies what a worker reports. A result that contradicts its unit is refused, and its worker set apart.
    /// `past` is what the run has let go, where it [needs that](State::needs_past).
    pub(crate) fn report(
        &mut self,
        id: &RunId,
        event: Event,
        past: Option<Vec<Commit>>,
        now: Millis,
    ) -> Result<(), DriverError> {
        let may_break_a_rule = event.is_measured();
        let suspect = match &event {
            Event::Completed { worker, .. } => Some(worker.clone()),
            _ => None,
        };
        let answer = self.apply_with_past(id, event, past, now);
        if let Err(DriverError::Refused(refusal @ (Refusal::InvalidOutcome { .. } | Refusal::WrongOutcome { .. }))) =
            &answer
            && let Some(worker) = suspect
        {
            let reason = refusal.to_string();
            tracing::error!(run = %id, %worker, reason, "worker put into quarantine");
            self.end_lease(id, Event::Quarantined { worker, reason }, now);
        }
        if may_break_a_rule {
            self.pause_by_rule(id, now);
        }
        answer
    }

    /// The first step that the run has, of one that needs all before it for an event.
    pub(crate) fn needs_past(&self, id: &RunId, event: &Event) -> Option<Step> {
        let run = &self.runs.get(id)?.run;
        // What panics here panics there too, where the run is set aside for it.
        let needs_past = catch(|| run.needs_past(event)).unwrap_or_default();
        needs_past.then(|| run.commits_from())
    }

    /// Why a worker gets no work: of the runs that have not ended, the first that has put it into quarantine.
    pub(crate) fn quarantine(&self, worker: &WorkerId) -> Option<DriverError> {
        self.runs()
            .filter(|(run, _)| !run.phase().is_ended())
            .find_map(|(run, _)| {
                Some(DriverError::Quarantined {
                    run: run.id().clone(),
                    worker: worker.clone(),
                    reason: run.quarantine(worker)?.to_owned(),
                })
            })
    }

    /// Every blob that some run needs.
    pub(crate) fn retained(&self) -> BTreeSet<Digest> {
        let awake = self.runs().flat_map(|(run, _)| run.retained());
        let asleep = self
            .asleep
            .values()
            .flat_map(|asleep| asleep.retained().iter().copied());
        awake.chain(asleep).collect()
    }

    /// Renews a worker's leases; returns those that it has lost.
    pub(crate) fn keep_alive(&mut self, worker: &WorkerId, leases: Vec<LeaseKey>, now: Millis) -> Vec<LeaseKey> {
        let mut by_run: BTreeMap<RunId, Vec<(Unit, Fence)>> = BTreeMap::new();
        for key in leases {
            if self.calls.has_member(&key, worker) {
                continue;
            }
            let LeaseKey { run, unit, fence } = key;
            by_run.entry(run).or_default().push((unit, fence));
        }
        let mut lost = Vec::new();
        for (run, leases) in by_run {
            let lost_here = match self.runs.get_mut(&run) {
                Some(state) => state.run.keep_alive(worker, &leases, now),
                None => leases,
            };
            lost.extend(lost_here.into_iter().map(|(unit, fence)| LeaseKey {
                run: run.clone(),
                unit,
                fence,
            }));
        }
        lost
    }

    pub(crate) fn wait(&mut self, role: Role, waiter: Waiter) {
        self.waiters.push(role, waiter);
    }

    /// Forgets those who wait no more.
    pub(crate) fn sweep_waiters(&mut self) {
        self.waiters.sweep();
    }

    /// Answers everybody who waits for work.
    pub(crate) fn dismiss_waiters(&mut self, answer: impl Fn() -> Result<LeaseAnswer, DriverError>) {
        for waiter in self.waiters.take_all() {
            // A caller that hung up needs no answer.
            let _ = waiter.reply.send(answer());
        }
    }

    /// Tells some workers to leave, also those that wait for work; how many there are.
    pub(crate) fn drain(&mut self, meant: &WorkerFilter) -> usize {
        let leaving = self.workers.drain(meant);
        for waiter in leaving.iter().flat_map(|worker| self.waiters.take_of(worker)) {
            // A caller that hung up needs no answer.
            let _ = waiter.reply.send(Ok(LeaseAnswer::Drain));
        }
        leaving.len()
    }

    /// Tells a worker that is not known any more, should it still wait for work. A unit that it got now would lie idle until
    /// its lease expires.
    fn dismiss_waiters_of(&mut self, worker: &WorkerId) {
        for waiter in self.waiters.take_of(worker) {
            // A caller that hung up needs no answer.
            let _ = waiter.reply.send(Err(DriverError::UnknownWorker(worker.clone())));
        }
    }

    /// Ends the leases whose deadlines have passed.
    pub(crate) fn expire(&mut self, now: Millis) {
        let expired: Vec<_> = self
            .runs()
            .flat_map(|(run, _)| {
                run.expired(now)
                    .into_iter()
                    .map(|(unit, fence)| (run.id().clone(), unit, fence))
            })
            .collect();
        for (id, unit, fence) in expired {
            tracing::warn!(run = %id, %unit, fence = fence.0, "lease expired");
            self.end_lease(&id, Event::Expired { unit, fence }, now);
        }
    }

    /// Ends the leases of a worker that is gone. `end` makes the event from unit and fence.
    fn end_leases_of(&mut self, worker: &WorkerId, end: impl Fn(Unit, Fence) -> Event, now: Millis) {
        let held: Vec<_> = self
            .runs()
            .flat_map(|(run, _)| {
                let leases = run.leases_of(worker).into_iter();
                leases.map(|(unit, fence)| (run.id().clone(), end(unit, fence)))
            })
            .collect();
        for (id, event) in held {
            self.end_lease(&id, event, now);
        }
    }

    /// A worker is gone: its leases end, and nothing is kept about it. `end` makes the event from unit and fence. Returns
    /// whether it was known.
    pub(crate) fn part_with(&mut self, worker: &WorkerId, end: impl Fn(Unit, Fence) -> Event, now: Millis) -> bool {
        let known = self.workers.remove(worker).is_some();
        self.end_leases_of(worker, end, now);
        self.dismiss_waiters_of(worker);
        self.dissolve_groups_of(worker, now);
        self.turns.forget(worker);
        self.backoffs.forget(worker);
        known
    }

    /// Ends a lease. A unit that has lost too many workers in a row is given up: only its own run pays for it.
    fn end_lease(&mut self, id: &RunId, event: Event, now: Millis) {
        if self.has_ended(id) {
            // It was given up in this very moment, with another unit: that ended its leases.
            return;
        }
        let lost = match event {
            Event::Expired { unit, .. } => Some(unit),
            _ => None,
        };
        if let Err(error) = self.apply(id, event, now) {
            tracing::error!(run = %id, %error, "a lease could not be ended");
        }
        let hopeless = |unit: Unit| Some((unit, self.run(id).ok()?.hopeless(&unit)?));
        if let Some((unit, reason)) = lost.and_then(hopeless) {
            self.give_up(id, unit, reason, now);
        }
    }

    fn has_ended(&self, id: &RunId) -> bool {
        self.run(id).is_ok_and(|run| run.phase().is_ended())
    }

    /// Ends a run with a unit that nobody can do.
    fn give_up(&mut self, id: &RunId, unit: Unit, reason: String, now: Millis) {
        tracing::error!(run = %id, %unit, reason, "unit given up");
        if let Err(error) = self.apply(id, Event::GivenUp { unit, reason }, now) {
            tracing::error!(run = %id, %unit, %error, "a unit could not be given up");
        }
    }

    /// Takes the batch; to be answered when it is in the ledger.
    pub(crate) fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Tells those who watch.
    pub(crate) fn announce(&self, batch: &Batch) {
        for state in batch.changed.iter().filter_map(|id| self.runs.get(id)) {
            state.changed.send_replace(state.position.events);
        }
    }
    /// The snapshots that are due of the runs that this batch has changed.
    pub(crate) fn due_after(&mut self, batch: &Batch, every: u64) -> Vec<SnapshotRecord> {
        let changed = batch.changed.iter();
        changed.filter_map(|id| self.due(id, Occasion::Events, every)).collect()
    }

    /// The snapshots that are due of all runs.
    pub(crate) fn due_of_all(&mut self, occasion: Occasion, every: u64) -> Vec<SnapshotRecord> {
        let runs = self.order.clone();
        runs.iter().filter_map(|id| self.due(id, occasion, every)).collect()
    }

    fn due(&mut self, id: &RunId, occasion: Occasion, every: u64) -> Option<SnapshotRecord> {
        let state = self.runs.get_mut(id)?;
        let occasion = match state.run.phase().is_ended() {
            true => Occasion::End,
            false => occasion,
        };
        if !state.kept.is_due(occasion, state.position.events, every) {
            return None;
        }
        let made = snapshots::of(&state.run, state.position, state.at);
        let snapshot = made.inspect_err(|error| tracing::warn!(run = %id, %error, "no snapshot can be written"));
        let snapshot = snapshot.ok()??;
        state.kept = Kept::of(&snapshot);
        Some(snapshot)
    }
}
