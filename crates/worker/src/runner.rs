//! The worker's life: register, lease, work, hand in, leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gavel_client::{CallError, Code, ConnectOptions, Connection, Failure, Lease, LeaseAnswer, persist};
use gavel_core::hint::Hint as _;
use gavel_core::spec::Device;
use gavel_core::work::rally::Presence;
use gavel_core::work::{DeviceUse, Outcome, Role};
use gavel_telemetry::span;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, Span};

use crate::allowed::Guarded;
use crate::blobs::Blobs;
use crate::busy::Busy;
use crate::context::WorkContext;
use crate::error::Error;
use crate::heartbeat;
use crate::kept::Kept;
use crate::lease::Held;
use crate::options::WorkerOptions;
use crate::session::Session;
use crate::sharer::KeptSharer;
use crate::specs::Specs;
use crate::thread::{self, Done, Job};
use crate::work::{Work, WorkError};

/// How long a worker waits before it asks again, when it was granted what it could not read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a worker that has left waits for its work to let go of what it had, such as a group that others still receive from.
const LET_GO_WITHIN: Duration = Duration::from_secs(6);

/// Works for the coordinator until `shutdown` or until it wants the fleet to leave. Then the unit at work is finished
/// within [`WorkerOptions::drain`] or given back, and the worker leaves. One of several roles leaves in all of them once one of
/// them has ended by an error.
///
/// A unit that does not look at [`WorkContext::cancelled`] keeps its thread after this returns; it ends with the process.
///
/// # Errors
/// [`Error::Unreachable`] and [`Error::Refused`] at the start; [`Error::Panicked`] at any time.
pub async fn run(options: WorkerOptions, work: impl Work + 'static, shutdown: CancellationToken) -> Result<(), Error> {
    let coordinator = ConnectOptions::with(&options.coordinator, options.credentials.clone())?;
    let connection = Connection::lazy(&coordinator);
    let began = Instant::now();
    let busy = Busy::new(began);
    let guarded = Guarded::new(work, options.allowed.clone(), options.roles.clone());
    let open_max = (options.prefetch + 1) * options.roles.len();
    let (jobs, thread_ended) = thread::start(guarded, busy.clone(), open_max)?;
    let kept = Arc::new(Kept::new(options.cache_bytes, options.keeps_what_it_stores()));
    let sharer = match &options.sharing {
        Some(sharing) => tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            sharer = KeptSharer::open(sharing, connection.addresses(), Arc::clone(&kept), options.connect_within) => Some(sharer?),
        },
        None => None,
    };
    let certificate = sharer.as_ref().map(|sharer| sharer.shares().certificate);
    let machine = Machine {
        blobs: Blobs::remote(&connection, kept, options.blob_folder.as_deref(), certificate),
        specs: Arc::new(Specs::new(&connection, options.relocated.clone(), options.gpu)),
        jobs,
        busy,
        connection,
        began,
    };
    let shutdown = shutdown.child_token();
    let mut roles = JoinSet::new();
    // One process shares once, whatever it does.
    let mut sharer = sharer;
    for role in options.roles.clone() {
        let (machine, options, shutdown) = (machine.clone(), options.clone(), shutdown.clone());
        let sharer = sharer.take();
        roles.spawn(async move { serve(role, machine, &options, sharer, shutdown).await });
    }
    let mut ended = Ok(());
    while let Some(role) = roles.join_next().await {
        let role = task_ended(role);
        if role.is_err() {
            shutdown.cancel();
        }
        ended = ended.and(role);
    }
    // The thread ends with its jobs.
    drop(machine);
    if tokio::time::timeout(LET_GO_WITHIN, thread_ended).await.is_err() {
        tracing::debug!("the work goes on until the process ends");
    }
    ended
}

/// What the roles of one process share.
#[derive(Clone)]
struct Machine {
    connection: Connection,
    blobs: Blobs,
    specs: Arc<Specs>,
    jobs: mpsc::Sender<Job>,
    busy: Busy,
    /// When it began to look for the coordinator.
    began: Instant,
}

/// The life of one role.
async fn serve(
    role: Role,
    machine: Machine,
    options: &WorkerOptions,
    sharer: Option<KeptSharer>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let session = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        session = Session::register(&machine.connection, role, options, sharer, machine.began) => session?,
    };
    let _telling = AbortOnDropHandle::new(tokio::spawn(session.clone().tell_what_is_kept()));
    let held = Held::default();
    let drain = shutdown.child_token();
    let left = CancellationToken::new();
    let device = watch::Sender::new(None);
    let heartbeat = tokio::spawn(heartbeat::beat(
        session.clone(),
        held.clone(),
        {
            let (device, memory, busy) = (device.subscribe(), options.memory, machine.busy.clone());
            move || {
                let device: Device = (*device.borrow())?;
                Some(DeviceUse {
                    device,
                    memory: memory(device),
                    busy_percent: Some(busy.percent(Instant::now())),
                })
            }
        },
        drain.clone(),
        left.clone(),
    ));
    let worker = Arc::new(Worker {
        blobs: machine.blobs,
        specs: machine.specs,
        jobs: machine.jobs,
        session: session.clone(),
        held: held.clone(),
        drain: drain.clone(),
        role,
        device,
    });

    let mut units = JoinSet::new();
    let mut ended = lease_and_work(&worker, options.prefetch + 1, &mut units).await;
    if ended.is_ok() {
        ended = finish(&worker, &mut units, options.drain).await;
    }
    units.shutdown().await;

    left.cancel();
    // The heartbeat ends by itself at once; its result is nothing.
    let _ = heartbeat.await;
    let open = held.keys();
    if !open.is_empty()
        && let Err(error) = session.release(&open, None).await
    {
        tracing::debug!(message = error.message(), "leases not given back: they will expire");
    }
    if let Err(error) = session.deregister().await {
        tracing::debug!(
            message = error.message(),
            "the coordinator did not hear that this worker left"
        );
    }
    tracing::info!(worker = %session.worker(), "left the fleet");
    ended
}

/// The worker as each unit's task needs it.
struct Worker {
    session: Session,
    held: Held,
    blobs: Blobs,
    specs: Arc<Specs>,
    jobs: mpsc::Sender<Job>,
    drain: CancellationToken,
    role: Role,
    /// That of the latest run, once there is one.
    device: watch::Sender<Option<Device>>,
}

/// Leases units and starts a task for each, until the drain begins or a unit ends the worker.
async fn lease_and_work(
    worker: &Arc<Worker>,
    open_max: usize,
    units: &mut JoinSet<Result<(), Error>>,
) -> Result<(), Error> {
    let slots = Arc::new(Semaphore::new(open_max));
    loop {
        let slot = tokio::select! {
            () = worker.drain.cancelled() => return Ok(()),
            Some(unit) = units.join_next() => {
                task_ended(unit)?;
                continue;
            }
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        // The semaphore is never closed.
        let Ok(slot) = slot else { return Ok(()) };
        let lease = tokio::select! {
            () = worker.drain.cancelled() => return Ok(()),
            lease = worker.next_lease() => lease?,
        };
        let Some(lease) = lease else { return Ok(()) };
        let cancelled = worker.held.add(&lease.key);
        // Whatever is done for the unit is done in its span and in its trace.
        let trace = lease.trace.child();
        let span = span::unit(&lease.key, worker.session.worker(), Some(&trace));
        let worker = Arc::clone(worker);
        let unit = async move { worker.unit(lease, cancelled, slot).await };
        units.spawn(trace.scope(unit).instrument(span));
    }
}

/// Lets the units at work end, within bounds.
async fn finish(worker: &Worker, units: &mut JoinSet<Result<(), Error>>, within: Duration) -> Result<(), Error> {
    let all = async {
        while let Some(unit) = units.join_next().await {
            task_ended(unit)?;
        }
        Ok(())
    };
    match tokio::time::timeout(within, all).await {
        Ok(ended) => ended,
        Err(_) => {
            worker.held.cancel_all();
            Ok(())
        }
    }
}

fn task_ended(task: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    task.unwrap_or_else(|error| {
        Err(Error::Panicked {
            message: error.to_string(),
        })
    })
}

impl Worker {
    /// Asks for work until there is some; `None` when the fleet drains.
    async fn next_lease(&self) -> Result<Option<Lease>, Error> {
        loop {
            let answer = persist("lease", || self.ask())
                .await
                .map_err(|error| self.refused(&error))?;
            match answer {
                LeaseAnswer::Leased(lease) => return Ok(Some(*lease)),
                LeaseAnswer::Nothing => {}
                LeaseAnswer::Drain => {
                    self.drain.cancel();
                    return Ok(None);
                }
            }
        }
    }

    /// The coordinator does not want this worker, for good.
    fn refused(&self, error: &CallError) -> Error {
        let addresses = self.session.addresses().to_owned();
        let reason = error.message().to_owned();
        let remedy = error.hint();
        match error.code() {
            Code::PermissionDenied | Code::InvalidArgument => Error::Quarantined { addresses, reason },
            _ => Error::Refused {
                addresses,
                reason,
                remedy,
            },
        }
    }

    /// Asks for work once, registering again where the coordinator has forgotten this worker.
    async fn ask(&self) -> Result<LeaseAnswer, CallError> {
        match self.session.lease().await {
            Err(error) if error.code() == Code::NotFound => {
                self.session.register_again().await?;
                Ok(LeaseAnswer::Nothing)
            }
            // A unit that does not fit into a message: its lease runs out, and the coordinator gives it up when that happens
            // to it again and again. Other units fit.
            Err(error) if error.code() == Code::OutOfRange => {
                tracing::warn!(message = error.message(), "a lease cannot be read");
                tokio::time::sleep(UNREADABLE_PAUSE).await;
                Ok(LeaseAnswer::Nothing)
            }
            answer => answer,
        }
    }

    /// One unit, from its lease to the coordinator's answer. An error ends the worker.
    async fn unit(&self, lease: Lease, cancelled: CancellationToken, slot: OwnedSemaphorePermit) -> Result<(), Error> {
        let began = Instant::now();
        let context = Arc::new(WorkContext::new(
            self.blobs.clone(),
            cancelled,
            self.session.clone(),
            lease.key.clone(),
        ));
        let mut panicked = None;
        let mut result = match self.work(&lease, &context).await {
            Done::Returned(result) => result,
            Done::Panicked(message) => {
                panicked = Some(message.clone());
                Err(WorkError::Retry(format!("the worker panicked: {message}")))
            }
        };
        // The next unit is leased while this one is handed in. Not after a call: the next one may come under the same lease.
        let slot = lease.group.is_some().then_some(slot);
        if result.is_ok()
            && let Err(error) = context.stored().await
        {
            result = Err(error);
        }
        let told = match &lease.group {
            None => self.hand_in(&lease, result, began).await,
            Some(_) => {
                self.assisted(&lease, result, began).await;
                Ok(())
            }
        };
        self.held.remove(&lease.key);
        drop(slot);
        match panicked {
            Some(message) => Err(Error::Panicked { message }),
            None => told,
        }
    }

    /// Has the thread do the unit.
    async fn work(&self, lease: &Lease, context: &Arc<WorkContext>) -> Done {
        let specified = match self.specs.get(&lease.key.run, lease.spec).await {
            Ok(specified) => specified,
            Err(error) => return Done::Returned(Err(error)),
        };
        if let Some(device) = specified.spec.device(self.role) {
            self.device.send_replace(Some(device));
        }
        let (done, answer) = oneshot::channel();
        let job = Job {
            specified,
            unit: lease.key.unit,
            assignment: lease.assignment.clone(),
            group: lease.group.clone(),
            context: Arc::clone(context),
            span: Span::current(),
            done,
        };
        if self.jobs.send(job).await.is_err() {
            return Done::Returned(Err(WorkError::Cancelled));
        }
        // The thread drops a job unanswered only when it ended after another unit's panic.
        answer.await.unwrap_or(Done::Returned(Err(WorkError::Cancelled)))
    }

    /// How this worker's part in somebody else's commit ended. Who could not begin says so, or the others would wait; who
    /// has joined need not: the exchange fails for everybody.
    async fn assisted(&self, lease: &Lease, result: Result<Option<Outcome>, WorkError>, began: Instant) {
        let key = &lease.key;
        match result {
            Ok(_) => {
                let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(elapsed_ms, "gradient sums exchanged");
            }
            // Nobody waits: the call is over, or it goes out again under the same lease.
            Err(WorkError::Cancelled) => tracing::info!("the call for gradient sums is over"),
            Err(error) => {
                tracing::warn!(reason = error.to_string(), "no part in an exchange of gradient sums");
                let presence = Presence::WithoutSums(lease.assignment.held_by(self.session.worker()));
                if self.held.holds(key)
                    && let Err(error) = self.session.join(key, &presence).await
                {
                    tracing::debug!(
                        message = error.message(),
                        "nobody waits for this worker's gradient sums"
                    );
                }
            }
        }
    }

    async fn hand_in(
        &self,
        lease: &Lease,
        result: Result<Option<Outcome>, WorkError>,
        began: Instant,
    ) -> Result<(), Error> {
        let key = &lease.key;
        if !self.held.holds(key) {
            tracing::info!("the result is not handed in: the lease was lost");
            return Ok(());
        }
        let told = match result {
            Ok(None) => Ok(()),
            Ok(Some(outcome)) => {
                match self.session.complete(key, &outcome).await {
                    Ok(()) => {
                        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                        tracing::info!(elapsed_ms, "unit done");
                        Ok(())
                    }
                    // What this worker makes contradicts what it was asked for.
                    Err(error) if error.code() == Code::InvalidArgument => return Err(self.refused(&error)),
                    Err(error) if error.code() == Code::OutOfRange => {
                        let failure = Failure {
                            reason: format!("the result does not fit into a message: {}", error.message()),
                            fatal: false,
                            unusable: Vec::new(),
                        };
                        self.session.fail(key, &failure).await
                    }
                    Err(error) => Err(error),
                }
            }
            Err(WorkError::Cancelled) => self.session.release(std::slice::from_ref(key), None).await,
            Err(WorkError::Retry(reason)) => {
                tracing::warn!(reason, "unit failed");
                let failure = Failure {
                    reason,
                    fatal: false,
                    unusable: Vec::new(),
                };
                self.session.fail(key, &failure).await
            }
            Err(WorkError::Unavailable(reason)) => {
                tracing::warn!(reason, "unit given back: it waits for what is unavailable");
                self.session.release(std::slice::from_ref(key), Some(&reason)).await
            }
            Err(WorkError::Unusable { inputs, reason }) => {
                tracing::warn!(reason, "inputs must be made again");
                let failure = Failure {
                    reason,
                    fatal: false,
                    unusable: inputs,
                };
                self.session.fail(key, &failure).await
            }
            Err(WorkError::Fatal(reason)) => {
                tracing::error!(reason, "unit failed for good");
                let failure = Failure {
                    reason,
                    fatal: true,
                    unusable: Vec::new(),
                };
                self.session.fail(key, &failure).await
            }
        };
        if let Err(error) = told {
            // A stale fence (the lease expired, somebody else has the unit), or a run that has ended.
            tracing::info!(message = error.message(), "the coordinator did not take the result");
        }
        Ok(())
    }
}
