//! The way to the driver, for servers and for programs that embed the coordinator.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use gavel_core::RunAssets;
use gavel_core::ids::{Digest, Millis, RunId, Step, WorkerId};
use gavel_core::panics::catch;
use gavel_core::run::{Event, Run, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::work::rally::{Presence, RallyOutcome};
use gavel_core::work::{DeviceUse, LeaseKey, WorkerFilter, WorkerStatus};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, DriverError, Heartbeat, Reply, Submission, Submitted};
use crate::ledger::Ledger;
use crate::metrics;
use crate::sharing::Sharing;
use crate::state::{LeaseAnswer, State};
use crate::worker::Introduction;

/// The way to the driver. Clones lead to the same one. Every method fails with [`DriverError::ShuttingDown`] when it has ended.
#[derive(Clone)]
pub struct DriverHandle {
    /// For what the runs have let go of.
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) heartbeats: mpsc::Sender<Command>,
    /// Which workers share blobs.
    pub(super) sharing: Sharing,
}

impl fmt::Debug for DriverHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DriverHandle")
    }
}

impl DriverHandle {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        commands: mpsc::Sender<Command>,
        heartbeats: mpsc::Sender<Command>,
        sharing: Sharing,
    ) -> Self {
        Self {
            ledger,
            commands,
            heartbeats,
            sharing,
        }
    }

    /// Which workers share blobs.
    pub(crate) fn sharing(&self) -> &Sharing {
        &self.sharing
    }

    /// Creates a run. `spec` has passed its checks. Submitting the same spec under the same name again is harmless.
    ///
    /// # Errors
    /// [`DriverError::RunDiffers`] when the name is taken by another spec, [`DriverError::FilesDiffer`] by one with other files.
    pub async fn submit(&self, id: RunId, spec: RunSpec, assets: RunAssets) -> Result<Submitted, DriverError> {
        let submission = Box::new(Submission { id, spec, assets });
        self.call(|reply| Command::Submit { submission, reply }).await
    }

    /// A run's state [in short](Run::status_in_short).
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`].
    pub async fn status_in_short(&self, run: &RunId) -> Result<RunStatus, DriverError> {
        let id = run.clone();
        self.look(run, move |state, now| {
            state.status_by(&id, now, |run| run.status_in_short(now))
        })
        .await
    }

    /// Every run's state [in short](Run::status_in_short), in the order of submission.
    ///
    /// # Errors
    /// Only [`DriverError::ShuttingDown`].
    pub async fn statuses(&self) -> Result<Vec<RunStatus>, DriverError> {
        self.read(|state, now| Ok(state.statuses(now))).await
    }

    /// Looks at a run in the driver's own task: be quick.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`].
    pub async fn inspect<T: Send + 'static>(
        &self,
        run: &RunId,
        look: impl FnOnce(&Run) -> T + Send + 'static,
    ) -> Result<T, DriverError> {
        let id = run.clone();
        self.look(run, move |state, _| Ok(look(state.run(&id)?))).await
    }

    /// A receiver that changes whenever the run does.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`].
    pub async fn watch(&self, run: &RunId) -> Result<watch::Receiver<u64>, DriverError> {
        let id = run.clone();
        self.read(move |state, _| state.watch(&id)).await
    }

    /// The worker table.
    ///
    /// # Errors
    /// Only [`DriverError::ShuttingDown`].
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, DriverError> {
        self.read(|state, _| Ok(state.worker_table())).await
    }

    /// Which of these blobs a run needs; `None` while a run is set aside, whose needs are not known.
    pub(crate) async fn needed(&self, mut blobs: BTreeSet<Digest>) -> Result<Option<BTreeSet<Digest>>, DriverError> {
        self.read(move |state, _| {
            let retained = state.retained();
            blobs.retain(|blob| retained.contains(blob));
            Ok(state.is_whole().then_some(blobs))
        })
        .await
    }

    /// Has the figures of every run measured, for whoever reads the metrics next.
    pub(crate) async fn measure(&self) -> Result<(), DriverError> {
        self.read(|state, _| {
            metrics::runs(state.runs().map(|(run, _)| run));
            Ok(())
        })
        .await
    }

    /// Answers as soon as the driver's turn comes.
    pub(crate) async fn answers(&self) -> Result<(), DriverError> {
        self.read(|_, _| Ok(())).await
    }

    /// Stops a run; what is committed stays.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`], [`DriverError::Refused`] when it has ended.
    pub async fn cancel(&self, run: &RunId, reason: impl Into<String>) -> Result<(), DriverError> {
        self.report(run.clone(), Event::Cancelled { reason: reason.into() })
            .await
    }

    /// Holds a run: what is in work comes to its end, and nothing more is handed out.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`], [`DriverError::Refused`] when it has ended or is held already.
    pub async fn pause(&self, run: &RunId, reason: impl Into<String>) -> Result<(), DriverError> {
        self.report(run.clone(), Event::Paused { reason: reason.into() }).await
    }

    /// Has a run end after so many steps.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`], [`DriverError::Refused`] when more are committed or the run would break a rule.
    pub async fn change_steps(&self, run: &RunId, steps: u32) -> Result<(), DriverError> {
        self.report(run.clone(), Event::StepsChanged { steps }).await
    }

    /// Takes the steps after `to` back, and pauses the run there.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`], [`DriverError::Refused`] when there are none, or the policy of `to` is not kept.
    pub async fn roll_back(&self, run: &RunId, to: Step) -> Result<(), DriverError> {
        self.report(run.clone(), Event::RolledBack { to }).await
    }

    /// Lets a paused, stopped or failed run go on.
    ///
    /// # Errors
    /// [`DriverError::UnknownRun`], [`DriverError::Refused`] when there is nothing to resume.
    pub async fn resume(&self, run: &RunId) -> Result<(), DriverError> {
        self.report(run.clone(), Event::Resumed).await
    }

    /// Tells some of the workers that are there to finish what they hold and to leave; how many there were.
    ///
    /// # Errors
    /// [`DriverError::NoneMeant`].
    pub async fn drain(&self, meant: WorkerFilter) -> Result<usize, DriverError> {
        self.call(|reply| Command::Drain { meant, reply }).await
    }

    pub(crate) async fn report(&self, run: RunId, event: Event) -> Result<(), DriverError> {
        self.call(|reply| Command::Report {
            run,
            event: Box::new(event),
            reply,
        })
        .await
    }

    pub(crate) async fn register(&self, introduction: Introduction) -> Result<WorkerId, DriverError> {
        self.call(|reply| Command::Register { introduction, reply }).await
    }

    /// Fails with [`DriverError::UnknownWorker`] where the worker is not registered (any more).
    pub(crate) async fn check_registered(&self, worker: WorkerId) -> Result<(), DriverError> {
        self.read(move |state, _| match state.workers.knows(&worker) {
            true => Ok(()),
            false => Err(DriverError::UnknownWorker(worker)),
        })
        .await
    }

    pub(crate) async fn heartbeat(
        &self,
        worker: WorkerId,
        leases: Vec<LeaseKey>,
        used: Option<DeviceUse>,
    ) -> Result<Heartbeat, DriverError> {
        let (reply, answer) = oneshot::channel();
        let heartbeat = Command::Heartbeat {
            worker,
            leases,
            used,
            reply,
        };
        let sent = self.heartbeats.send(heartbeat).await;
        sent.map_err(|_| DriverError::ShuttingDown)?;
        answer.await.unwrap_or(Err(DriverError::ShuttingDown))
    }

    /// Waits for work at most `wait`; `None` when there is none.
    pub(crate) async fn lease(
        &self,
        worker: WorkerId,
        wait: std::time::Duration,
    ) -> Result<Option<LeaseAnswer>, DriverError> {
        let (reply, mut answer) = oneshot::channel();
        self.send(Command::Lease { worker, reply }).await?;
        match tokio::time::timeout(wait, &mut answer).await {
            Ok(Ok(answer)) => answer.map(Some),
            Ok(Err(_)) => Err(DriverError::ShuttingDown),
            Err(_) => {
                // A grant may have been sent in this very moment: close, then look, so that it is not dropped unseen.
                answer.close();
                answer.try_recv().map_or(Ok(None), |answer| answer.map(Some))
            }
        }
    }

    /// Calls the holders of gradient sums together, and waits until all have joined or one cannot.
    pub(crate) async fn rally(
        &self,
        worker: WorkerId,
        key: LeaseKey,
        rendezvous: Vec<u8>,
        kept: bool,
        wait: std::time::Duration,
    ) -> Result<RallyOutcome, DriverError> {
        let (reply, answer) = oneshot::channel();
        let unit = key.unit;
        let command = Command::Rally {
            worker,
            key,
            rendezvous,
            kept,
            wait,
            reply,
        };
        self.send(command).await?;
        // A call that is dropped unanswered has ended with its lease.
        answer.await.unwrap_or(Err(DriverError::CallOver(unit)))
    }

    /// Answers a call; where the worker comes, waits until all have joined.
    pub(crate) async fn join(&self, worker: WorkerId, key: LeaseKey, presence: Presence) -> Result<(), DriverError> {
        let (reply, answer) = oneshot::channel();
        let unit = key.unit;
        let command = Command::Join {
            worker,
            key,
            presence,
            reply,
        };
        self.send(command).await?;
        // A call that is over lets go of those who have joined.
        answer.await.unwrap_or(Err(DriverError::CallOver(unit)))
    }

    pub(crate) async fn deregister(&self, worker: WorkerId) -> Result<(), DriverError> {
        self.call(|reply| Command::Deregister { worker, reply }).await
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State, Millis) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        self.call(|reply| {
            Command::Read(Box::new(move |state, now| {
                let answer = catch(|| read(state, now)).unwrap_or_else(|panicked| Err(panicked.into()));
                // A caller that hung up needs no answer.
                Box::new(move || drop(reply.send(answer)))
            }))
        })
        .await
    }

    /// The same for one run, which is read from the ledger if it is asleep.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        run: &RunId,
        look: impl FnOnce(&State, Millis) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let run = run.clone();
        self.call(|reply| Command::Look {
            run,
            look: Box::new(move |state, now| {
                let answer =
                    state.and_then(|state| catch(|| look(state, now)).unwrap_or_else(|panicked| Err(panicked.into())));
                // A caller that hung up needs no answer.
                Box::new(move || drop(reply.send(answer)))
            }),
        })
        .await
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, DriverError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.unwrap_or(Err(DriverError::ShuttingDown))
    }

    async fn send(&self, command: Command) -> Result<(), DriverError> {
        self.commands.send(command).await.map_err(|_| DriverError::ShuttingDown)
    }
}
