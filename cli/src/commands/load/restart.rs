//! What a start costs a coordinator after runs of several lengths.

use std::time::Duration;

use gavel_loadtest::{Fleet, FleetOptions, submit, synthetic_run};
use gavel_review::Machine;
use serde::Serialize;

use super::process::CoordinatorProcess;
use super::{LoadArguments, committed};
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

/// Prompts of a step, unless somebody says otherwise: 25 units.
const PROMPTS: u32 = 8;
/// Workers that take the steps.
const WORKERS: u32 = 32;
/// Ten thousand steps in a few minutes would have the trash of a day's worth of them, of which a start reads the lists.
const NO_TRASH: &[&str] = &["--trash", "0s"];
/// How often the run is looked at while it takes its steps.
const LOOK: Duration = Duration::from_millis(100);
/// Starts on the same ledger, of which the median counts.
const STARTS: usize = 7;

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// Where it was measured.
    machine: Machine,
    /// Prompts of a step.
    prompts_per_step: u32,
    /// One entry for each length.
    runs: Vec<Restarted>,
}

/// A coordinator that started on the ledger of a run.
#[derive(Debug, Serialize)]
struct Restarted {
    /// Committed steps.
    steps: u32,
    /// From the start of the process until it serves: the median of several starts.
    ready_ms: f64,
    /// Its resident memory then, in bytes: of the same start.
    resident_bytes: u64,
    /// The resident memory of the coordinator that saw the run through, in bytes.
    resident_bytes_before: u64,
    /// The ledger's file, in bytes.
    ledger_bytes: u64,
}

pub(super) fn measure_restarts(arguments: &LoadArguments) -> Result<()> {
    let prompts = arguments.prompts.unwrap_or(PROMPTS);
    let report = block_on(async {
        let mut runs = Vec::with_capacity(arguments.restart_after.len());
        for steps in &arguments.restart_after {
            output::note(format_args!("{steps} steps"));
            runs.push(measure(*steps, prompts, arguments).await?);
        }
        Ok(Report {
            machine: Machine::this(),
            prompts_per_step: prompts,
            runs,
        })
    })?;
    match arguments.json {
        true => output::print_line(serde_json::to_string(&report)?)?,
        false => output::print(report.describe())?,
    }
    Ok(())
}

/// Takes the steps, and starts the coordinator again: the run goes on, so that everything in it is needed.
async fn measure(steps: u32, prompts: u32, arguments: &LoadArguments) -> Result<Restarted> {
    let run = synthetic_run(steps + 1_000, prompts)?;
    let mut coordinator = CoordinatorProcess::start(arguments.program.as_deref(), NO_TRASH).await?;
    let options = FleetOptions {
        coordinator: coordinator.address().to_owned(),
        workers: WORKERS,
        connections: WORKERS,
        work: Duration::ZERO,
    };
    let fleet = Fleet::start(&options, &run).await?;
    submit(coordinator.address(), &run).await?;
    while committed(&coordinator, &run).await? < steps {
        tokio::time::sleep(LOOK).await;
    }
    drop(fleet.stop().await);
    let resident_bytes_before = coordinator.usage()?.resident_bytes;
    let steps = committed(&coordinator, &run).await?;
    let mut starts = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let (started, ready) = coordinator.start_again().await?;
        coordinator = started;
        starts.push((ready, coordinator.usage()?.resident_bytes));
    }
    starts.sort_unstable();
    let (ready, resident_bytes) = starts[STARTS / 2];
    Ok(Restarted {
        steps,
        ready_ms: ready.as_secs_f64() * 1e3,
        resident_bytes,
        resident_bytes_before,
        ledger_bytes: coordinator.ledger_bytes()?,
    })
}

impl Report {
    fn describe(&self) -> String {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let processor = self.machine.processor.as_deref().unwrap_or("unknown processor");
        let mut text = format!(
            "{} cores, {processor}; {} prompts per step\n\n  steps  ready ms  MiB when ready  MiB before the kill  ledger MiB\n",
            self.machine.cores, self.prompts_per_step
        );
        for run in &self.runs {
            text += &format!(
                "{:>7} {:>9.0} {:>15.1} {:>20.1} {:>11.1}\n",
                run.steps,
                run.ready_ms,
                mebibytes(run.resident_bytes),
                mebibytes(run.resident_bytes_before),
                mebibytes(run.ledger_bytes)
            );
        }
        text
    }
}
