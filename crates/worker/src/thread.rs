//! The thread that does the work.

use std::sync::Arc;
use std::time::Instant;

use gavel_core::panics::catch;
use gavel_core::work::rally::Group;
use gavel_core::work::{Assignment, Outcome, Unit};
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::busy::Busy;
use crate::context::WorkContext;
use crate::error::Error;
use crate::specs::Specified;
use crate::work::{Work, WorkError};

/// One unit on its way to the thread.
pub(crate) struct Job {
    pub(crate) specified: Arc<Specified>,
    pub(crate) unit: Unit,
    pub(crate) assignment: Assignment,
    /// For somebody else's unit.
    pub(crate) group: Option<Group>,
    pub(crate) context: Arc<WorkContext>,
    /// The unit's, so that the work's log lines carry its fields.
    pub(crate) span: Span,
    pub(crate) done: oneshot::Sender<Done>,
}

/// How the work on a unit ended.
pub(crate) enum Done {
    /// With nothing to hand in where the unit is somebody else's.
    Returned(Result<Option<Outcome>, WorkError>),
    Panicked(String),
}

/// Starts the thread. It ends when the sender is dropped, or after a panic, since nobody knows what state that left. The
/// receiver hears of its end, when the work has let go of what it had.
pub(crate) fn start(
    work: impl Work + 'static,
    busy: Busy,
    waiting_max: usize,
) -> Result<(mpsc::Sender<Job>, oneshot::Receiver<()>), Error> {
    let (sender, receiver) = mpsc::channel(waiting_max.max(1));
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("gavel-work".to_owned())
        .spawn(move || {
            serve(work, &busy, receiver);
            // Nobody listens any more where that took too long.
            let _ = tell.send(());
        })
        .map_err(Error::Thread)?;
    Ok((sender, ended))
}

fn serve(mut work: impl Work, busy: &Busy, mut jobs: mpsc::Receiver<Job>) {
    let mut prepared: Option<Arc<Specified>> = None;
    while let Some(job) = jobs.blocking_recv() {
        busy.begin(Instant::now());
        let result = catch(|| job.span.in_scope(|| perform(&mut work, &mut prepared, &job)));
        busy.end(Instant::now());
        let (done, goes_on) = match result {
            Ok(returned) => (Done::Returned(returned), true),
            Err(panicked) => (Done::Panicked(panicked.message), false),
        };
        // Nobody listens any more after a shutdown; the unit was given back.
        let _ = job.done.send(done);
        if !goes_on {
            return;
        }
    }
}

fn perform(
    work: &mut impl Work,
    prepared: &mut Option<Arc<Specified>>,
    job: &Job,
) -> Result<Option<Outcome>, WorkError> {
    if job.context.cancelled() {
        return Err(WorkError::Cancelled);
    }
    let specified = &job.specified;
    let is_prepared = prepared
        .as_ref()
        .is_some_and(|known| known.run == specified.run && known.digest == specified.digest);
    if !is_prepared {
        *prepared = None;
        work.prepare(&specified.run, &specified.spec, &specified.assets)?;
        *prepared = Some(Arc::clone(specified));
    }
    match &job.group {
        None => work.perform(&job.unit, &job.assignment, &job.context).map(Some),
        Some(group) => work.assist(&job.assignment, group, &job.context).map(|()| None),
    }
}
