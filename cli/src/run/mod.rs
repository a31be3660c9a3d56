//! A whole fleet on one machine, until the report is written.

mod access;
mod children;
mod follow;
mod lock;
mod progress;

use gavel_client::Runs;
use gavel_core::ids::Step;
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::work::Role;
use gavel_core::work::rules::is_checkpoint;
use gavel_review::RunFolder;
use gavel_review::metrics::Metrics;
use gavel_review::report;

use crate::assets::{Files, evaluator};
use crate::client;
use crate::diagnostic::{Context as _, Result};
use crate::output;
use crate::runtime::block_on;
use crate::shell;
use crate::signals::{EndSignal, Signals};
use access::RunAccess;
pub(crate) use access::{ExposureArguments, credentials_of};
use children::{CoordinatorProcess, Fleet};
pub(crate) use follow::follow;
pub(crate) use lock::lock;
pub(crate) use progress::{Lines, Progress, asked, figures};

/// How a run of the program ended.
pub(crate) enum Ended {
    /// The report is written.
    Finished,
    /// The run is paused, stopped or failed.
    Halted { phase: Phase, step: Step },
    /// A signal asked for the end.
    Interrupted { signal: EndSignal, step: u32 },
}

/// Runs a fleet in processes of its own until the run has ended or somebody interrupts it. `exposure` is for a coordinator that others
/// reach.
///
/// # Errors
/// Whatever keeps the run from its report. What is committed stays in the folder.
pub(crate) fn run(
    spec: &RunSpec,
    files: &Files,
    folder: &RunFolder,
    metrics: Metrics,
    threads: usize,
    exposure: &ExposureArguments,
) -> Result<Ended> {
    block_on(async {
        let mut signals = Signals::listen()?;
        drive(spec, files, folder, metrics, threads, exposure, &mut signals).await
    })
}

/// How far a run was followed.
enum Followed {
    ToItsEnd(Box<RunStatus>),
    Until(EndSignal),
}

async fn drive(
    spec: &RunSpec,
    files: &Files,
    folder: &RunFolder,
    metrics: Metrics,
    threads: usize,
    exposure: &ExposureArguments,
    signals: &mut Signals,
) -> Result<Ended> {
    let mut progress = Progress::start(spec.run.steps, Lines::Told);
    lock::outlive_predecessor(&folder.state()).await?;
    let mut access = RunAccess::make(folder, exposure)?;
    let mut coordinator = CoordinatorProcess::start(spec, folder, &access).await?;
    access.announce(&coordinator.addresses.grpc);
    let connection = client::connect_to_own(&coordinator.addresses.grpc, access.credentials()?).await?;
    client::extend(&connection, spec).await?;
    client::submit(&connection, spec, files).await?;
    client::resume(&connection, &spec.id()).await?;
    progress.say(&format!("dashboard    {}", coordinator.addresses.http))?;
    progress.say(&format!("results      {}", folder.path().display()))?;
    let fleet = &spec.fleet;
    for (role, count) in [
        (Role::Judge, fleet.judges),
        (Role::Trainer, fleet.trainers),
        (Role::Sampler, fleet.samplers),
    ] {
        if count == 0 {
            progress.say(&nobody_here(role, &coordinator.addresses.grpc))?;
        }
    }
    let runs = connection.runs();
    let mut fleet = Fleet::start(spec, &coordinator.addresses.grpc, folder, &access, threads);

    let followed = tokio::select! {
        ended = show(spec, &runs, folder, metrics, &mut progress) => ended,
        failure = fleet.failure() => Err(failure),
        failure = coordinator.failure() => Err(failure),
        signal = signals.next() => Ok(Followed::Until(signal)),
    };
    progress.end();
    if let Ok(Followed::Until(signal)) = &followed {
        output::tell(format_args!("{signal}: finishing what is at work; Ctrl-C ends at once"));
    }
    tokio::select! {
        () = async { fleet.stop().await; coordinator.stop().await } => {}
        () = signals.impatient() => {}
    }
    match followed? {
        Followed::Until(signal) => Ok(Ended::Interrupted {
            signal,
            step: progress.step(),
        }),
        Followed::ToItsEnd(status) if status.phase == Phase::Finished => {
            let evaluator = evaluator(spec);
            report::finish(folder, evaluator.as_deref())
                .await
                .context("cannot write the report")?;
            Ok(Ended::Finished)
        }
        Followed::ToItsEnd(status) => Ok(Ended::Halted {
            phase: status.phase,
            step: status.step,
        }),
    }
}

/// What to do about a role that this run starts nobody for.
fn nobody_here(role: Role, coordinator: &str) -> String {
    let command = shell::command(["gavel", role.name(), "--connect", coordinator]);
    format!("warning: `fleet.{role}s` is 0: the run waits until a {role} comes from elsewhere, with `{command}`")
}

/// Shows the run's states until it has ended, and writes figures and checkpoints as they come. A coordinator that is away is waited for:
/// it is being started again.
async fn show(
    spec: &RunSpec,
    runs: &Runs,
    folder: &RunFolder,
    mut metrics: Metrics,
    progress: &mut Progress,
) -> Result<Followed> {
    let each = async |status: &RunStatus| {
        progress.update(status)?;
        metrics.note(status)?;
        match status.policy.as_ref().filter(|_| is_checkpoint(spec, status.step)) {
            Some(policy) => Ok(folder.write_checkpoint(status.step, policy).await?),
            None => Ok(()),
        }
    };
    let ended = follow(runs, &spec.id(), None, each).await?;
    Ok(Followed::ToItsEnd(Box::new(ended)))
}
