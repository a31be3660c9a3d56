//! `gavel load`: what a lease costs a coordinator, in fleets of several sizes, what a start does after runs of several lengths, and how long
//! blobs take.

mod blobs;
mod measured;
mod process;
mod restart;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use gavel_client::Credentials;
use gavel_loadtest::{Fleet, FleetOptions, SyntheticRun, Tally, submit, synthetic_run};
use gavel_review::{Machine, Usage, usage};

use crate::client;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
use crate::runtime::block_on;
use measured::{Idle, Loaded, Measured, Report};
use process::CoordinatorProcess;

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Sizes of the simulated fleet, measured one after the other, each with a coordinator of its own.
    #[arg(
        long,
        value_name = "N,N,..",
        value_delimiter = ',',
        default_value = "10,100,1000,10000",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub(crate) workers: Vec<u32>,
    /// Connections that the workers share; never more than there are workers.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Leases that the whole fleet asks for in a second: each worker takes workers/rate seconds for a unit [default: as
    /// many as the coordinator gives].
    #[arg(long, value_name = "LEASES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Prompts of a step; a step has three units for each, and a commit [default: 10,000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) prompts: Option<u32>,
    /// How long the fleet is watched while there is no work.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) idle: humantime::Duration,
    /// How long it is watched at work, after it has warmed up.
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) duration: humantime::Duration,
    /// Program whose coordinator is measured, to compare two builds [default: this one].
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Measure something else: a start. A run takes so many steps, its coordinator is killed, and the next one is watched until it
    /// serves; one line for each number of steps. A step has 8 prompts, unless --prompts says otherwise.
    #[arg(
        long,
        value_name = "STEPS,STEPS,..",
        value_delimiter = ',',
        conflicts_with_all = ["workers", "rate", "idle", "duration"],
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(crate) restart_after: Vec<u32>,
    /// Measure something else: blobs. So many simulated samplers fetch an adapter at once, through the coordinator, straight from the store's
    /// folder and from each other; and the blobs of a step go each of these ways.
    #[arg(
        long,
        value_name = "SAMPLERS",
        conflicts_with_all = ["workers", "rate", "idle", "duration", "restart_after", "prompts"],
        value_parser = clap::value_parser!(u32).range(1..=1_024)
    )]
    pub(crate) blobs: Option<u32>,
    /// The adapter's size in MB.
    #[arg(long, value_name = "MB", default_value_t = 179, requires = "blobs", value_parser = clap::value_parser!(u32).range(1..=16_000))]
    pub(crate) adapter: u32,
    /// Print the measurements as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prompts of a step, unless somebody says otherwise: so many that no fleet runs out of work.
const PROMPTS: u32 = 10_000;
/// More steps than any measurement takes: the run must not end before the measurement does.
const STEPS: u32 = 10_000;
/// A fleet settles for this long after it was registered, and after it got work.
const SETTLE: Duration = Duration::from_secs(2);
/// A unit of each stage must have passed before all workers have work.
const STAGES: u32 = 3;

pub(super) fn load(arguments: &LoadArguments) -> Result<()> {
    if !arguments.restart_after.is_empty() {
        return restart::measure_restarts(arguments);
    }
    if let Some(samplers) = arguments.blobs {
        return blobs::measure_blobs(samplers, arguments);
    }
    let prompts = arguments.prompts.unwrap_or(PROMPTS);
    let report = block_on(async {
        let mut fleets = Vec::with_capacity(arguments.workers.len());
        for workers in &arguments.workers {
            output::note(format_args!("{workers} workers"));
            fleets.push(measure(*workers, prompts, arguments).await?);
        }
        Ok(Report {
            machine: Machine::this(),
            prompts_per_step: prompts,
            rate: arguments.rate,
            fleets,
        })
    })?;
    if arguments.json {
        output::print_line(serde_json::to_string(&report)?)?;
    } else {
        output::print(report.describe())?;
    }
    Ok(())
}

/// A coordinator, and this process as the load generator, at one moment.
struct Moment {
    at: Instant,
    coordinator: Usage,
    generator: Usage,
}

impl Moment {
    fn now(coordinator: &CoordinatorProcess) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            coordinator: coordinator.usage()?,
            generator: usage(std::process::id()).context("cannot read this process's own use of the machine")?,
        })
    }
}

/// One fleet on a coordinator of its own: first without work, then at work.
async fn measure(workers: u32, prompts: u32, arguments: &LoadArguments) -> Result<Measured> {
    let run = synthetic_run(STEPS, prompts)?;
    let coordinator = CoordinatorProcess::start(arguments.program.as_deref(), &[]).await?;
    let options = FleetOptions {
        coordinator: coordinator.address().to_owned(),
        workers,
        connections: arguments.connections.min(workers),
        work: arguments
            .rate
            .map_or(Duration::ZERO, |rate| Duration::from_secs(workers.into()) / rate),
    };
    let empty = Moment::now(&coordinator)?;
    let fleet = Fleet::start(&options, &run).await?;
    let registered = Moment::now(&coordinator)?;
    tokio::time::sleep(SETTLE).await;

    let (idle_tally, idle) = watch(&fleet, &coordinator, arguments.idle.into()).await?;
    let resident = |moment: &Moment| moment.coordinator.resident_bytes;
    let idle = Idle {
        registrations_per_second: f64::from(workers) / (registered.at - empty.at).as_secs_f64(),
        bytes_per_worker: resident(&idle.1).saturating_sub(resident(&empty)) / u64::from(workers),
        coordinator_cores: cores(&idle, |moment| moment.coordinator),
        heartbeats_per_second: per_second(&idle, idle_tally.heartbeats.count()),
        heartbeat: idle_tally.heartbeats.percentiles(),
    };

    submit(coordinator.address(), &run).await?;
    tokio::time::sleep(SETTLE + STAGES * options.work).await;
    let mut troubles = fleet.take_tally();
    let before = troubles.grants.count() + idle_tally.grants.count();
    let (tally, window) = watch(&fleet, &coordinator, arguments.duration.into()).await?;
    let steps_committed = committed(&coordinator, &run).await?;
    let after = fleet.stop().await;
    let leases_in_all = before + tally.grants.count() + after.grants.count();
    let ledger_bytes = coordinator.end().await?;
    troubles.add_troubles(&idle_tally);
    troubles.add_troubles(&tally);
    for (kind, failures) in &troubles.failures {
        output::note(format_args!(
            "  {} times {kind}, first: {}",
            failures.count, failures.first
        ));
    }
    Ok(Measured {
        workers,
        connections: options.connections,
        idle,
        loaded: loaded(&tally, &window),
        troubles: troubles.troubles(),
        steps_committed,
        ledger_bytes_per_lease: ledger_bytes / (leases_in_all as u64).max(1),
        ledger_bytes_per_step: ledger_bytes * run.units_per_step() / (leases_in_all as u64).max(1),
    })
}

/// The figures of a fleet at work.
fn loaded(tally: &Tally, window: &(Moment, Moment)) -> Loaded {
    let leases = tally.grants.count();
    let per_lease = |used: f64| used * 1e6 * (window.1.at - window.0.at).as_secs_f64() / leases.max(1) as f64;
    let coordinator_cores = cores(window, |moment| moment.coordinator);
    let generator_cores = cores(window, |moment| moment.generator);
    Loaded {
        leases_per_second: per_second(window, leases),
        heartbeats_per_second: per_second(window, tally.heartbeats.count()),
        grant: tally.grants.percentiles(),
        completion: tally.completions.percentiles(),
        heartbeat: tally.heartbeats.percentiles(),
        coordinator_cores,
        generator_cores,
        coordinator_cpu_us_per_lease: per_lease(coordinator_cores),
        generator_cpu_us_per_lease: per_lease(generator_cores),
        resident_bytes: window.1.coordinator.resident_bytes,
    }
}

/// Lets the fleet be for a while.
async fn watch(fleet: &Fleet, coordinator: &CoordinatorProcess, time: Duration) -> Result<(Tally, (Moment, Moment))> {
    fleet.take_tally();
    let first = Moment::now(coordinator)?;
    tokio::time::sleep(time).await;
    let last = Moment::now(coordinator)?;
    Ok((fleet.take_tally(), (first, last)))
}

/// Processors that were busy on average.
fn cores(window: &(Moment, Moment), of: impl Fn(&Moment) -> Usage) -> f64 {
    let busy = of(&window.1).cpu.saturating_sub(of(&window.0).cpu);
    busy.as_secs_f64() / (window.1.at - window.0.at).as_secs_f64()
}

fn per_second(window: &(Moment, Moment), count: usize) -> f64 {
    count as f64 / (window.1.at - window.0.at).as_secs_f64()
}

/// Steps that the run has committed; it must not have ended.
async fn committed(coordinator: &CoordinatorProcess, run: &SyntheticRun) -> Result<u32> {
    let runs = client::connect_to_own(coordinator.address(), Credentials::default())
        .await?
        .runs();
    // In short: the figures of all steps would be measured too.
    let listed = runs.list().await?;
    let status = listed.into_iter().find(|status| status.run == run.id());
    let status = status.context("the coordinator has lost the synthetic run")?;
    if status.phase.is_ended() {
        let fault = Diagnostic::new(format!(
            "the synthetic run ended before the measurement did: {}",
            status.waiting.text
        ));
        return Err(fault.with_hint("raise --prompts, or shorten --duration"));
    }
    Ok(status.step.0)
}
