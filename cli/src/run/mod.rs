//! A whole fleet on one machine, until the report is written.

mod children;
mod follow;
mod progress;

use gavel_client::Runs;
use gavel_core::ids::Step;
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::work::rules::is_checkpoint;
use gavel_review::RunFolder;
use gavel_review::report;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::assets::{Files, evaluator};
use crate::client;
use crate::diagnostic::{Context as _, Result};
use crate::runtime::block_on;
use children::{CoordinatorProcess, Fleet};
pub(crate) use follow::follow;
pub(crate) use progress::Progress;

/// How a run of the program ended.
pub(crate) enum Ended {
    /// The report is written.
    Finished,
    /// The run stopped or failed.
    Halted { phase: Phase, step: Step },
    /// Somebody pressed Ctrl-C, or sent SIGTERM.
    Interrupted { step: u32 },
}

/// Runs a fleet in processes of its own until the run has ended or somebody interrupts it.
///
/// # Errors
/// Whatever keeps the run from its report. What is committed stays in the folder.
pub(crate) fn run(spec: &RunSpec, files: &Files, folder: &RunFolder, threads: usize) -> Result<Ended> {
    block_on(async {
        let mut signals = Signals::new()?;
        drive(spec, files, folder, threads, &mut signals).await
    })
}

async fn drive(
    spec: &RunSpec,
    files: &Files,
    folder: &RunFolder,
    threads: usize,
    signals: &mut Signals,
) -> Result<Ended> {
    let mut progress = Progress::start(spec.run.steps);
    let mut coordinator = CoordinatorProcess::start(spec, folder).await?;
    let connection = client::connect(&coordinator.addresses.grpc).await?;
    client::submit(&connection, spec, files).await?;
    client::resume(&connection, &spec.id()).await?;
    progress.say(&format!("dashboard    {}", coordinator.addresses.http));
    progress.say(&format!("results      {}", folder.path().display()));
    let runs = connection.runs();
    let mut fleet = Fleet::start(spec, &coordinator.addresses.grpc, folder, threads);

    let followed = tokio::select! {
        ended = show(spec, &runs, folder, &mut progress) => ended,
        failure = fleet.failure() => Err(failure),
        failure = coordinator.failure() => Err(failure),
        () = signals.next() => Ok(None),
    };
    progress.end();
    if matches!(followed, Ok(None)) {
        println!("finishing what is at work; Ctrl-C again ends at once");
    }
    tokio::select! {
        () = async { fleet.stop().await; coordinator.stop().await } => {}
        () = signals.next() => {}
    }
    match followed? {
        None => Ok(Ended::Interrupted { step: progress.step() }),
        Some(status) if status.phase == Phase::Finished => {
            let evaluator = evaluator(spec);
            report::write(folder, evaluator.as_deref())
                .await
                .context("cannot write the report")?;
            Ok(Ended::Finished)
        }
        Some(status) => Ok(Ended::Halted {
            phase: status.phase,
            step: status.step,
        }),
    }
}

/// Shows the run's states until it has ended, and writes checkpoints as they come. A coordinator that is away is waited for:
/// it is being started again.
async fn show(spec: &RunSpec, runs: &Runs, folder: &RunFolder, progress: &mut Progress) -> Result<Option<RunStatus>> {
    let each = async |status: &RunStatus| {
        progress.update(status);
        match status.policy.as_ref().filter(|_| is_checkpoint(spec, status.step)) {
            Some(policy) => Ok(folder.write_checkpoint(status.step, policy).await?),
            None => Ok(()),
        }
    };
    follow(runs, &spec.id(), None, each).await.map(Some)
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
