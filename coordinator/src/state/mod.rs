//! What the driver owns: the runs, the workers, those who wait for work, and the events that are not in the ledger yet.

mod aside;
mod rally;
mod release;

use std::collections::{BTreeMap, BTreeSet};

use gavel_core::ids::{Digest, Fence, Millis, RunId, WorkerId};
use gavel_core::run::{Effect, Event, Refusal, Run};
use gavel_core::work::LeaseKey;
use gavel_core::work::rally::Group;
use gavel_core::work::{Assignment, Role, Unit};
use tokio::sync::{oneshot, watch};

use crate::driver::DriverError;
use crate::ledger::{EventRecord, Position, Written, write};
use crate::metrics::{self, VerdictCounts};
use crate::waiters::{Waiter, Waiters};
use crate::worker::{HeldLease, WorkerStatus, Workers};
use aside::SetAside;
use rally::Calls;
use release::Release;

pub(crate) use rally::RallyReply;

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
    /// The number of the last event that is in the ledger; whoever watches the run listens here.
    changed: watch::Sender<u64>,
}

/// Events that were applied and are not in the ledger yet, with what may happen only when they are.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<EventRecord>,
    pub(crate) effects: Vec<(RunId, Effect)>,
    pub(crate) grants: Vec<(LeaseReply, Box<Grant>, WorkerId)>,
    pub(crate) answers: Vec<Answer>,
    changed: BTreeSet<RunId>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.grants.is_empty() && self.answers.is_empty()
    }
}

#[derive(Default)]
pub(crate) struct State {
    runs: BTreeMap<RunId, RunState>,
    /// Runs that the ledger has and that cannot be read.
    aside: BTreeMap<RunId, SetAside>,
    /// The runs in the order of submission, which is the order in which they get workers.
    order: Vec<RunId>,
    pub(crate) workers: Workers,
    waiters: Waiters,
    calls: Calls,
    releases: Vec<Release>,
    pub(crate) draining: bool,
    pub(crate) batch: Batch,
}

impl State {
    pub(crate) fn insert(&mut self, run: Run, created: Millis, position: Position) {
        let id = run.id().clone();
        self.order.push(id.clone());
        self.runs.insert(
            id,
            RunState {
                run,
                created,
                position,
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

    /// The runs in the order of submission, with their times of submission.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&Run, Millis)> {
        self.order
            .iter()
            .filter_map(|id| self.runs.get(id))
            .map(|state| (&state.run, state.created))
    }

    /// Where the rows of each run end in the ledger, once the batch is there.
    pub(crate) fn positions(&self) -> BTreeMap<RunId, Position> {
        self.runs
            .iter()
            .map(|(id, state)| (id.clone(), state.position))
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
    /// would show nothing more, and would cost as much as the run is large.
    pub(crate) fn apply(&mut self, id: &RunId, event: Event, now: Millis) -> Result<(), DriverError> {
        let state = self
            .runs
            .get_mut(id)
            .ok_or_else(|| DriverError::UnknownRun(id.clone()))?;
        let refused = |refusal: Refusal| {
            metrics::refused(reason(&refusal));
            DriverError::Refused(refusal)
        };
        state.run.precheck(&event).map_err(refused)?;
        let kind = kind(&event);
        let Written { text, value: event } =
            write(&event).map_err(|error| DriverError::NotReadable(error.to_string()))?;
        let reported = Reported::of(&event, &state.run, now);
        let effects = state.run.apply(event, now).map_err(refused)?;
        reported.count(&mut self.workers);
        let Position { events, chain } = state.position;
        let record = EventRecord::new(&chain, id.clone(), events + 1, now, kind.to_owned(), text);
        state.position = Position {
            events: record.sequence,
            chain: record.chain,
        };
        self.batch.records.push(record);
        self.batch
            .effects
            .extend(effects.into_iter().map(|effect| (id.clone(), effect)));
        self.batch.changed.insert(id.clone());
        Ok(())
    }

    /// Applies what a worker reports. A result that contradicts its unit is refused, and its worker set apart.
    pub(crate) fn report(&mut self, id: &RunId, event: Event, now: Millis) -> Result<(), DriverError> {
        let suspect = match &event {
            Event::Completed { worker, .. } => Some(worker.clone()),
            _ => None,
        };
        let answer = self.apply(id, event, now);
        if let Err(DriverError::Refused(refusal @ (Refusal::InvalidOutcome { .. } | Refusal::WrongOutcome { .. }))) =
            &answer
            && let Some(worker) = suspect
        {
            let reason = refusal.to_string();
            tracing::error!(run = %id, %worker, reason, "worker put into quarantine");
            self.end_lease(id, Event::Quarantined { worker, reason }, now);
        }
        answer
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
        self.runs().flat_map(|(run, _)| run.retained()).collect()
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

    /// Gives work to those who wait for it, first come, first served.
    pub(crate) fn serve_waiters(&mut self, now: Millis) {
        self.tell_called();
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            while let Some(ready) = self.next_unit(role)
                && let Some(waiter) = self.waiters.pop(role)
            {
                if let Some(refusal) = self.quarantine(&waiter.worker) {
                    // A caller that hung up needs no answer.
                    let answer = move || drop(waiter.reply.send(Err(refusal)));
                    self.batch.answers.push(Box::new(answer));
                    continue;
                }
                let Some(grant) = self.grant(ready, &waiter.worker, now) else {
                    self.waiters.push(role, waiter);
                    break;
                };
                metrics::granted(role, waiter.since.elapsed().as_secs_f64());
                self.batch.grants.push((waiter.reply, grant, waiter.worker));
            }
        }
    }

    /// Forgets those who wait no more.
    pub(crate) fn sweep_waiters(&mut self) {
        self.waiters.sweep();
    }

    /// The unit that a worker of this role gets next, with its run and its fence.
    fn next_unit(&self, role: Role) -> Option<(RunId, Unit, Fence)> {
        self.runs()
            .find_map(|(run, _)| Some((run.id().clone(), run.next_unit(role)?, run.next_fence())))
    }

    fn grant(&mut self, (id, unit, fence): (RunId, Unit, Fence), worker: &WorkerId, now: Millis) -> Option<Box<Grant>> {
        let event = Event::Granted {
            unit,
            worker: worker.clone(),
            fence,
        };
        if let Err(error) = self.apply(&id, event, now) {
            tracing::error!(run = %id, %unit, %error, "the next unit could not be granted");
            return None;
        }
        let run = &self.runs.get(&id)?.run;
        let deadline = run.lease(&unit)?.deadline;
        let Some(assignment) = run.assignment(&unit) else {
            tracing::error!(run = %id, %unit, "a leased unit has no assignment");
            return None;
        };
        let spec = run.spec_sha256();
        Some(Box::new(Grant {
            run: id,
            unit,
            fence,
            deadline,
            spec,
            assignment,
        }))
    }

    /// Answers everybody who waits for work.
    pub(crate) fn dismiss_waiters(&mut self, answer: impl Fn() -> Result<LeaseAnswer, DriverError>) {
        for waiter in self.waiters.take_all() {
            // A caller that hung up needs no answer.
            let _ = waiter.reply.send(answer());
        }
    }

    /// Tells a worker that is not known any more, should it still wait for work. A unit that it got now would lie idle until
    /// its lease expires.
    pub(crate) fn dismiss_waiters_of(&mut self, worker: &WorkerId) {
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
    pub(crate) fn end_leases_of(&mut self, worker: &WorkerId, end: impl Fn(Unit, Fence) -> Event, now: Millis) {
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

    fn end_lease(&mut self, id: &RunId, event: Event, now: Millis) {
        if let Err(error) = self.apply(id, event, now) {
            tracing::error!(run = %id, %error, "a lease could not be ended");
        }
    }

    /// Gives open leases a fresh deadline after a restart.
    pub(crate) fn recovered(&mut self, now: Millis) {
        self.runs.values_mut().for_each(|state| state.run.recovered(now));
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
}

/// What an event adds to the counts, taken before the event is applied and counted after.
enum Reported {
    Completed {
        unit: Unit,
        worker: WorkerId,
        verdicts: VerdictCounts,
        seconds: f64,
    },
    Failed {
        role: Role,
        worker: WorkerId,
    },
    Expired {
        role: Role,
    },
    Other,
}

impl Reported {
    fn of(event: &Event, run: &Run, now: Millis) -> Self {
        match event {
            Event::Completed {
                unit, worker, outcome, ..
            } => {
                let granted = run.lease(unit).map_or(now, |lease| lease.granted);
                let seconds = now.0.saturating_sub(granted.0) as f64 / 1000.0;
                Self::Completed {
                    unit: *unit,
                    worker: worker.clone(),
                    verdicts: VerdictCounts::of(unit, outcome),
                    seconds,
                }
            }
            Event::Failed { unit, worker, .. } => Self::Failed {
                role: unit.role(),
                worker: worker.clone(),
            },
            Event::Expired { unit, .. } => Self::Expired { role: unit.role() },
            _ => Self::Other,
        }
    }

    fn count(&self, workers: &mut Workers) {
        match self {
            Self::Completed {
                unit,
                worker,
                verdicts,
                seconds,
            } => {
                metrics::completed(unit.role(), *verdicts, *seconds);
                workers.count_completed(worker);
            }
            Self::Failed { role, worker } => {
                metrics::failed(*role);
                workers.count_failed(worker);
            }
            Self::Expired { role } => metrics::expired(*role),
            Self::Other => {}
        }
    }
}

/// An event's kind, as the ledger's column shows it.
pub(crate) fn kind(event: &Event) -> &'static str {
    match event {
        Event::Granted { .. } => "granted",
        Event::Completed { .. } => "completed",
        Event::Failed { .. } => "failed",
        Event::Released { .. } => "released",
        Event::Expired { .. } => "expired",
        Event::Quarantined { .. } => "quarantined",
        Event::Cancelled { .. } => "cancelled",
        Event::Resumed => "resumed",
    }
}

/// A refusal's kind, as a label.
fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::StaleFence { .. } => "stale_fence",
        Refusal::Repeated { .. } => "repeated",
        Refusal::NotLeased { .. } => "not_leased",
        Refusal::OtherWorker { .. } => "other_worker",
        Refusal::Quarantined { .. } => "quarantined",
        Refusal::NotReady { .. } => "not_ready",
        Refusal::FenceOutOfSequence { .. } => "fence_out_of_sequence",
        Refusal::WrongOutcome { .. } => "wrong_outcome",
        Refusal::InvalidOutcome { .. } => "invalid_outcome",
        Refusal::Ended => "ended",
        Refusal::NotStopped => "not_stopped",
    }
}
