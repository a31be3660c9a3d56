//! The task that owns the runs.
//!
//! A round: take what has arrived, apply it, hand out work, append all accepted events in one transaction, and only then
//! answer and carry out effects. Nobody ever hears of an event that the ledger does not hold. When the ledger fails, the
//! driver ends with its error, because its memory is ahead of the disk.

mod clock;
mod error;
mod handle;
mod keeping;
mod looking_back;
#[cfg(test)]
mod simulation;
mod submission;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gavel_core::ids::{Millis, RunId, WorkerId};
use gavel_core::run::{Effect, Event, Run};
use gavel_core::work::rally::Presence;
use gavel_core::work::{DeviceUse, LeaseKey, WorkerFilter};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::ledger::{Ledger, LedgerError, Row, StepRecords};
use crate::metrics;
use crate::options::CoordinatorOptions;
use crate::recovery;
use crate::replay::ReplayError;
use crate::snapshots::Occasion;
use crate::state::{Answer, JoinReply, LeaseAnswer, LeaseReply, Offer, RallyReply, State};
use crate::sweeper::{Chore, ChoreSender};
use crate::waiters::Waiter;
use crate::worker::Introduction;

pub(crate) use clock::Clock;
use clock::Time;
pub use error::DriverError;
pub use handle::DriverHandle;
use submission::Submission;
pub use submission::Submitted;

/// Commands that may wait; beyond, callers are held back.
const QUEUE: usize = 8192;
/// Heartbeats that may wait: one for each worker of a large fleet, so that after a stall all are heard before any worker is
/// given up. Beyond, callers are held back.
const HEARTBEATS: usize = 1 << 16;
/// Commands that share one transaction at most. Much work makes large rounds by itself, and each round waits for the disk once:
/// a bound below what has arrived would bound the leases per second by the disk's latency.
const ROUND: usize = 4096;
/// How often leases and workers are looked at.
const TICK: Duration = Duration::from_millis(500);

type Reply<T> = oneshot::Sender<Result<T, DriverError>>;

/// Everything that can reach the driver, besides time.
enum Command {
    Register {
        introduction: Introduction,
        reply: Reply<WorkerId>,
    },
    Heartbeat {
        worker: WorkerId,
        leases: Vec<LeaseKey>,
        used: Option<DeviceUse>,
        reply: Reply<Heartbeat>,
    },
    Lease {
        worker: WorkerId,
        reply: LeaseReply,
    },
    Rally {
        worker: WorkerId,
        key: LeaseKey,
        rendezvous: Vec<u8>,
        kept: bool,
        wait: Duration,
        reply: RallyReply,
    },
    Join {
        worker: WorkerId,
        key: LeaseKey,
        presence: Presence,
        reply: JoinReply,
    },
    Report {
        run: RunId,
        event: Box<Event>,
        reply: Reply<()>,
    },
    Deregister {
        worker: WorkerId,
        reply: Reply<()>,
    },
    Submit {
        submission: Box<Submission>,
        reply: Reply<Submitted>,
    },
    Drain {
        meant: WorkerFilter,
        reply: Reply<usize>,
    },
    Read(Read),
    Look {
        run: RunId,
        look: Look,
    },
}

/// A look at the state; its answer is sent with the round's others.
type Read = Box<dyn FnOnce(&State, Millis) -> Answer + Send>;

/// The same for one run, which is awake then; an error where the ledger does not give it.
type Look = Box<dyn FnOnce(Result<&State, DriverError>, Millis) -> Answer + Send>;

/// The answer to a heartbeat.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) lost: Vec<LeaseKey>,
    pub(crate) drain: bool,
}

/// The task that owns the runs.
pub(crate) struct Driver {
    state: State,
    ledger: Arc<dyn Ledger>,
    options: CoordinatorOptions,
    chores: ChoreSender,
    commands: mpsc::Receiver<Command>,
    /// Heartbeats overtake everything else: they cost next to nothing, and a worker must not be taken for dead because its
    /// sign of life waits behind the results of others.
    heartbeats: mpsc::Receiver<Command>,
    time: Time,
    /// A run has come since the blob store was last told.
    submitted: bool,
    /// What some steps came to, as long as it could not be written.
    unwritten: StepRecords,
    ends: bool,
}

impl Driver {
    /// Reads the ledger and gets ready to go on where it ends.
    pub(crate) async fn recover(
        ledger: Arc<dyn Ledger>,
        options: CoordinatorOptions,
        chores: ChoreSender,
        clock: Clock,
    ) -> Result<(Self, DriverHandle), Error> {
        let (state, latest) = recovery::recover(ledger.as_ref()).await?;
        let (sender, commands) = mpsc::channel(QUEUE);
        let (beat, heartbeats) = mpsc::channel(HEARTBEATS);
        let sharing = state.workers.sharing.clone();
        let handle = DriverHandle::new(Arc::clone(&ledger), sender, beat, sharing);
        let mut driver = Self {
            state,
            ledger,
            options,
            chores,
            commands,
            heartbeats,
            time: Time::after(latest, clock),
            submitted: false,
            unwritten: StepRecords::default(),
            ends: false,
        };
        driver.state.recover(driver.time.away_ms, driver.time.now());
        if driver.options.workers_gone {
            driver.state.release_leases(driver.time.now());
        }
        driver.settle().await?;
        driver.keep_snapshots_of_all(Occasion::Events).await?;
        driver.mark();
        if driver.state.is_whole() {
            driver.order(Chore::DiscardAllBut(driver.state.retained()));
        }
        Ok((driver, handle))
    }

    /// Serves until `stop`. When `shutdown` begins, those who wait for work are sent away; results are still accepted, so
    /// that work that ends now is not lost.
    pub(crate) async fn run(mut self, shutdown: CancellationToken, stop: CancellationToken) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = shutdown.cancelled(), if !self.ends => self.begin_to_end(),
                Some(heartbeat) = self.heartbeats.recv() => self.take_heartbeats(heartbeat).await,
                _ = ticks.tick() => {
                    self.tick();
                    metrics::tick(&self.state.workers);
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.take_round(command).await,
                    None => break,
                },
            }
            self.settle().await?;
        }
        self.mark();
        let kept = self.keep_snapshots_of_all(Occasion::End).await;
        self.ledger.close().await;
        kept
    }

    fn begin_to_end(&mut self) {
        self.ends = true;
        self.state.dismiss_waiters(|| Err(DriverError::ShuttingDown));
    }

    /// Takes this heartbeat and all that have arrived. Every event so far is in the ledger, so that they are answered at once.
    async fn take_heartbeats(&mut self, first: Command) {
        self.take(first).await;
        for _ in 1..HEARTBEATS {
            let Ok(heartbeat) = self.heartbeats.try_recv() else {
                break;
            };
            self.take(heartbeat).await;
        }
    }

    /// Takes this command and whatever else has arrived.
    async fn take_round(&mut self, first: Command) {
        self.take(first).await;
        for _ in 1..ROUND {
            let Ok(command) = self.commands.try_recv() else { break };
            self.take(command).await;
        }
    }

    async fn take(&mut self, command: Command) {
        let now = self.time.now();
        match command {
            Command::Register { introduction, reply } => {
                let role = introduction.role;
                if let Err(exceeded) = self.state.workers.find_room(&introduction.id) {
                    return self.answer(reply, Err(exceeded.into()));
                }
                let id = self.state.workers.register(introduction, now);
                tracing::info!(worker = %id, ?role, "worker registered");
                self.answer(reply, Ok(id));
            }
            Command::Heartbeat {
                worker,
                leases,
                used,
                reply,
            } => {
                let answer = match self.state.workers.seen(&worker, now) {
                    Some(_) => {
                        self.state.workers.note_use(&worker, used);
                        let lost = self.state.keep_alive(&worker, leases, now);
                        Ok(Heartbeat {
                            lost,
                            drain: self.state.workers.leaves(&worker),
                        })
                    }
                    None => Err(DriverError::UnknownWorker(worker)),
                };
                self.answer(reply, answer);
            }
            Command::Lease { worker, reply } => self.lease(worker, reply, now),
            Command::Rally {
                worker,
                key,
                rendezvous,
                kept,
                wait,
                reply,
            } => {
                let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                let until = now.plus(wait);
                self.state.rally(
                    &worker,
                    key,
                    Offer {
                        rendezvous,
                        kept,
                        until,
                    },
                    reply,
                );
            }
            Command::Join {
                worker,
                key,
                presence,
                reply,
            } => self.state.join(&worker, &key, presence, reply),
            Command::Report { run, event, reply } => {
                let answer = self.report(&run, *event, now).await;
                self.answer(reply, answer);
            }
            Command::Deregister { worker, reply } => {
                let released = |unit, fence| Event::Released {
                    unit,
                    worker: worker.clone(),
                    fence,
                    reason: None,
                };
                if self.state.part_with(&worker, released, now) {
                    tracing::info!(%worker, "worker left");
                }
                self.answer(reply, Ok(()));
            }
            Command::Submit { submission, reply } => {
                let answer = self.submit(*submission, now).await;
                self.submitted = true;
                self.answer(reply, answer);
            }
            Command::Drain { meant, reply } => {
                let leaving = self.state.drain(&meant);
                tracing::info!(workers = leaving, "workers of this moment are told to leave");
                let answer = match leaving {
                    0 if !meant.is_all() => Err(DriverError::NoneMeant),
                    leaving => Ok(leaving),
                };
                self.answer(reply, answer);
            }
            Command::Read(read) => {
                let answer = read(&self.state, now);
                self.state.batch.answers.push(answer);
            }
            Command::Look { run, look } => {
                let awake = self.awaken(&run, now).await;
                let answer = look(awake.map(|()| &self.state), now);
                self.state.batch.answers.push(answer);
            }
        }
    }

    /// Has a run at hand that somebody names: one that is asleep is read from the ledger. One that cannot be read is set aside.
    async fn awaken(&mut self, id: &RunId, now: Millis) -> Result<(), DriverError> {
        let Some(position) = self.state.asleep_at(id) else {
            self.state.named(id, now);
            return Ok(());
        };
        let damaged = match recovery::read(self.ledger.as_ref(), id).await {
            Ok((_, replay, kept)) if replay.position() == position => {
                let at = replay.at();
                self.state.awaken(replay.into_run(), at, kept, now);
                return Ok(());
            }
            Ok((_, replay, _)) => ReplayError::from(LedgerError::Corrupt {
                run: id.clone(),
                row: Row::Event(replay.position().events),
                problem: format!("its events are others than the {} that it ended with", position.events),
            }),
            Err(ReplayError::Ledger(error)) if !error.is_damage() => return Err(DriverError::NotRead(Arc::new(error))),
            Err(damaged) => damaged,
        };
        self.state.set_aside(id.clone(), &damaged);
        Ok(())
    }

    /// Applies what is reported of a run, with what the run has let go where the event takes steps back.
    async fn report(&mut self, id: &RunId, event: Event, now: Millis) -> Result<(), DriverError> {
        self.awaken(id, now).await?;
        let past = match self.state.needs_past(id, &event) {
            Some(end) => Some(self.past(id, end).await?),
            None => None,
        };
        self.state.report(id, event, past, now)
    }

    fn lease(&mut self, worker: WorkerId, reply: LeaseReply, now: Millis) {
        let refusal = match self.state.workers.seen(&worker, now) {
            None => Err(DriverError::UnknownWorker(worker)),
            Some(_) if self.ends => Err(DriverError::ShuttingDown),
            Some(_) if self.state.workers.leaves(&worker) => Ok(LeaseAnswer::Drain),
            Some(role) => match self.state.quarantine(&worker) {
                Some(refusal) => Err(refusal),
                None => {
                    return self.state.wait(
                        role,
                        Waiter {
                            worker,
                            since: Instant::now(),
                            reply,
                        },
                    );
                }
            },
        };
        self.answer(reply, refusal);
    }

    fn tick(&mut self) {
        let now = self.time.now();
        // Between two rounds the ledger has every event.
        self.state.fall_asleep(now);
        self.state.expire(now);
        self.state.sweep_waiters();
        for worker in self.state.workers.silent(now, self.options.worker_timeout) {
            tracing::warn!(%worker, "worker silent for too long, its leases go to others");
            self.state
                .part_with(&worker, |unit, fence| Event::Expired { unit, fence }, now);
        }
        self.state.expire_calls(now);
    }

    /// Hands out work, writes the batch down, answers; again while answers that nobody took give units back.
    async fn settle(&mut self) -> Result<(), Error> {
        loop {
            let now = self.time.now();
            if !self.ends {
                self.state.serve_waiters(now);
            }
            if self.state.batch.is_empty() {
                return Ok(());
            }
            let mut batch = self.state.take_batch();
            if !batch.records.is_empty() {
                let began = Instant::now();
                self.ledger.append(&batch.records).await?;
                metrics::appended(batch.records.len(), began.elapsed().as_secs_f64());
            }
            if std::mem::take(&mut self.submitted) || !batch.effects.is_empty() {
                self.mark();
            }
            for answer in std::mem::take(&mut batch.answers) {
                answer();
            }
            for (reply, grant, worker) in std::mem::take(&mut batch.grants) {
                let (run, unit, fence) = (grant.run.clone(), grant.unit, grant.fence);
                if reply.send(Ok(LeaseAnswer::Granted(grant))).is_err() {
                    // The caller hung up in this very round.
                    let returned = Event::Released {
                        unit,
                        worker,
                        fence,
                        reason: None,
                    };
                    if let Err(error) = self.state.apply(&run, returned, now) {
                        tracing::warn!(%run, %unit, %error, "a lease that nobody took could not be given back");
                    }
                }
            }
            self.state.announce(&batch);
            for (run, effect) in &batch.effects {
                self.carry_out(run, effect);
            }
            for (run, blobs) in std::mem::take(&mut batch.released) {
                self.state.release(&run, blobs);
            }
            let garbage = self.state.garbage();
            if !garbage.is_empty() {
                self.order(Chore::Discard(garbage));
            }
            self.keep(&mut batch).await?;
        }
    }

    /// Tells people and metrics what happened.
    fn carry_out(&mut self, run: &RunId, effect: &Effect) {
        match effect {
            Effect::StepCommitted(step, policy) => {
                if let Some(result) = self.state.run(run).ok().and_then(|run| run.results().steps.last()) {
                    metrics::step(run, &result.record);
                }
                tracing::info!(%run, step = step.0, adapter = policy.adapter.short(), "step committed");
            }
            Effect::Ended => {
                let phase = self.state.run(run).map(Run::phase).ok();
                tracing::info!(%run, ?phase, "run ended");
            }
        }
    }

    /// Lets the blob store know how far the ledger reaches; to be called when the ledger holds all that was applied.
    fn mark(&self) {
        self.order(Chore::Mark(self.state.positions()));
    }

    fn order(&self, chore: Chore) {
        if self.chores.send(chore).is_err() {
            tracing::debug!("nobody keeps the blob store any more");
        }
    }

    /// Answers when the batch is in the ledger: even a refusal may rest on an event of this batch.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, DriverError>) {
        // A caller that hung up needs no answer.
        self.state
            .batch
            .answers
            .push(Box::new(move || drop(reply.send(answer))));
    }
}
