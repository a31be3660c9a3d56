//! The worker's life: register, lease, work, hand in, leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use gavel_core::work::Outcome;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::blobs::Blobs;
use crate::connection::{Connection, persist};
use crate::context::WorkContext;
use crate::error::Error;
use crate::heartbeat;
use crate::lease::{Held, Lease};
use crate::options::WorkerOptions;
use crate::session::{Answer, Session};
use crate::specs::Specs;
use crate::thread::{self, Done, Job};
use crate::work::{Work, WorkError};

/// The longest pause after failures in a row, so that a broken worker leaves a unit's other attempts to the others.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Works for the coordinator until `shutdown` or until it wants the fleet to leave. Then the unit at work is finished
/// within [`WorkerOptions::drain`] or given back, and the worker leaves.
///
/// A unit that does not look at [`WorkContext::cancelled`] keeps its thread after this returns; it ends with the process.
///
/// # Errors
/// [`Error::Unreachable`] and [`Error::Refused`] at the start; [`Error::Panicked`] at any time.
pub async fn run(options: WorkerOptions, work: impl Work + 'static, shutdown: CancellationToken) -> Result<(), Error> {
    let connection = Connection::new(&options.coordinator)?;
    let session = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        session = Session::register(connection.clone(), &options) => session?,
    };
    let held = Held::default();
    let drain = shutdown.child_token();
    let left = CancellationToken::new();
    let heartbeat = tokio::spawn(heartbeat::beat(
        session.clone(),
        held.clone(),
        drain.clone(),
        left.clone(),
    ));
    let desk = Arc::new(Desk {
        blobs: Blobs::remote(connection.clone(), options.cache_bytes),
        specs: Specs::new(connection, options.relocated.clone()),
        jobs: thread::start(work, options.prefetch + 1)?,
        failures: AtomicU32::new(0),
        session: session.clone(),
        held: held.clone(),
        drain: drain.clone(),
    });

    let mut units = JoinSet::new();
    let mut ended = lease_and_work(&desk, options.prefetch + 1, &mut units).await;
    if ended.is_ok() {
        ended = finish(&desk, &mut units, options.drain).await;
    }
    units.shutdown().await;

    left.cancel();
    // The heartbeat ends by itself at once; its result is nothing.
    let _ = heartbeat.await;
    let open = held.keys();
    if !open.is_empty()
        && let Err(status) = session.release(&open).await
    {
        tracing::debug!(message = status.message(), "leases not given back: they will expire");
    }
    if let Err(status) = session.deregister().await {
        tracing::debug!(
            message = status.message(),
            "the coordinator did not hear that this worker left"
        );
    }
    tracing::info!(worker = %session.worker, "left the fleet");
    ended
}

/// What every unit's task needs.
struct Desk {
    session: Session,
    held: Held,
    blobs: Blobs,
    specs: Specs,
    jobs: mpsc::Sender<Job>,
    /// Failures in a row.
    failures: AtomicU32,
    drain: CancellationToken,
}

/// Leases units and starts a task for each, until the drain begins or a unit ends the worker.
async fn lease_and_work(
    desk: &Arc<Desk>,
    open_max: usize,
    units: &mut JoinSet<Result<(), Error>>,
) -> Result<(), Error> {
    let places = Arc::new(Semaphore::new(open_max));
    loop {
        let place = tokio::select! {
            () = desk.drain.cancelled() => return Ok(()),
            Some(unit) = units.join_next() => {
                unit_ended(unit)?;
                continue;
            }
            place = Arc::clone(&places).acquire_owned() => place,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { return Ok(()) };
        let lease = tokio::select! {
            () = desk.drain.cancelled() => return Ok(()),
            lease = desk.next_lease() => lease?,
        };
        let Some(lease) = lease else { return Ok(()) };
        let cancelled = desk.held.add(&lease.key);
        let span = tracing::info_span!("unit", run = %lease.key.run, unit = ?lease.key.unit, fence = lease.key.fence.0);
        let desk = Arc::clone(desk);
        units.spawn(async move { desk.unit(lease, cancelled, place).await }.instrument(span));
    }
}

/// Lets the units at work end, within bounds.
async fn finish(desk: &Desk, units: &mut JoinSet<Result<(), Error>>, within: Duration) -> Result<(), Error> {
    let all = async {
        while let Some(unit) = units.join_next().await {
            unit_ended(unit)?;
        }
        Ok(())
    };
    match tokio::time::timeout(within, all).await {
        Ok(ended) => ended,
        Err(_) => {
            desk.held.cancel_all();
            Ok(())
        }
    }
}

fn unit_ended(unit: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    unit.unwrap_or_else(|error| {
        Err(Error::Panicked {
            message: error.to_string(),
        })
    })
}

impl Desk {
    /// Asks for work until there is some; `None` when the fleet drains.
    async fn next_lease(&self) -> Result<Option<Lease>, Error> {
        if let Some(pause) = pause_after(self.failures.load(Ordering::Relaxed)) {
            tokio::time::sleep(pause).await;
        }
        loop {
            let answer = persist("lease", || self.ask())
                .await
                .map_err(|status| self.refused(&status))?;
            match answer {
                Answer::Leased(lease) => return Ok(Some(*lease)),
                Answer::Nothing => {}
                Answer::Drain => {
                    self.drain.cancel();
                    return Ok(None);
                }
            }
        }
    }

    /// The coordinator does not want this worker, for good.
    fn refused(&self, status: &Status) -> Error {
        let address = self.session.connection.address.clone();
        let reason = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied | Code::InvalidArgument => Error::Quarantined { address, reason },
            _ => Error::Refused { address, reason },
        }
    }

    /// Asks for work once, registering again where the coordinator has forgotten this worker.
    async fn ask(&self) -> Result<Answer, Status> {
        match self.session.lease().await {
            Err(status) if status.code() == Code::NotFound => {
                self.session.register_again().await?;
                Ok(Answer::Nothing)
            }
            answer => answer,
        }
    }

    /// One unit, from its lease to the coordinator's answer. An error ends the worker.
    async fn unit(&self, lease: Lease, cancelled: CancellationToken, place: OwnedSemaphorePermit) -> Result<(), Error> {
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
        // The next unit is leased while this one is handed in.
        drop(place);
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
        let (done, answer) = oneshot::channel();
        let job = Job {
            specified,
            unit: lease.key.unit,
            assignment: lease.assignment.clone(),
            group: lease.group.clone(),
            context: Arc::clone(context),
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
            Err(error) => {
                tracing::warn!(reason = error.to_string(), "no part in an exchange of gradient sums");
                let sums = lease.assignment.held_by(&self.session.worker);
                if self.held.holds(key)
                    && let Err(status) = self.session.join(key, &sums).await
                {
                    tracing::debug!(
                        message = status.message(),
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
                self.failures.store(0, Ordering::Relaxed);
                match self.session.complete(key, outcome).await {
                    Ok(()) => {
                        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                        tracing::info!(elapsed_ms, "unit done");
                        Ok(())
                    }
                    // What this worker makes contradicts what it was asked for.
                    Err(status) if status.code() == Code::InvalidArgument => return Err(self.refused(&status)),
                    Err(status) => Err(status),
                }
            }
            Err(WorkError::Cancelled) => self.session.release(std::slice::from_ref(key)).await,
            Err(WorkError::Retry(reason)) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(reason, "unit failed");
                self.session.fail(key, reason, false, Vec::new()).await
            }
            Err(WorkError::Unavailable(reason)) => {
                // Growing pauses, as after failures: asking on and on would not bring the answer.
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(reason, "unit given back: it waits for what is unavailable");
                self.session.release(std::slice::from_ref(key)).await
            }
            Err(WorkError::Unusable { inputs, reason }) => {
                tracing::warn!(reason, "inputs must be made again");
                self.session.fail(key, reason, false, inputs).await
            }
            Err(WorkError::Fatal(reason)) => {
                tracing::error!(reason, "unit failed for good");
                self.session.fail(key, reason, true, Vec::new()).await
            }
        };
        if let Err(status) = told {
            // A stale fence (the lease expired, somebody else has the unit), or a run that has ended.
            tracing::info!(message = status.message(), "the coordinator did not take the result");
        }
        Ok(())
    }
}

/// How long to leave work to others after this many failures in a row: from a second to half a minute, with jitter.
fn pause_after(failures: u32) -> Option<Duration> {
    let last = failures.checked_sub(1)?;
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
        .nth(last.min(10) as usize)
}
