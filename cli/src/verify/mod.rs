//! `gavel verify`: does the work of a recorded step again, in this process, and compares every byte with the ledger.
//!
//! The ledger's events are replayed to learn what each worker was given; the workers' own code does it again from the run's
//! blobs. A blob that is gone or damaged is replaced by the one that was made again, where its hash is the recorded one.

mod compare;
mod named;
mod recorded;
mod redo;
mod report;
mod store;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::ValueEnum as _;
use gavel_core::ids::Step;
use gavel_core::run::Run;
use gavel_core::work::rules;

use crate::args::{VerifyArguments, VerifyPart};
use crate::run::RunFolder;
pub(crate) use compare::compare;
use recorded::Recorded;
use redo::{Redo, Redone};
use report::{PartReport, Report, Unchecked};
use store::Store;

/// Verifies a step and prints what was found.
///
/// # Errors
/// The run cannot be read. A step that does not come out the same is no error but the exit status 1.
pub(crate) fn verify(arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let (folder, spec) = RunFolder::open(&arguments.run)?;
    let (history, blobs) =
        runtime.block_on(async { anyhow::Ok((folder.history(&spec).await?, folder.blobs().await?)) })?;
    let (run, step, recorded) = recorded::read(&history, arguments.step)?;
    let mut report = Report::new(&run, step);
    if !arguments.json {
        println!("{}", report.head());
    }
    let mut redo = Redo::new(&run, Store::new(runtime, blobs));
    redo.use_models(arguments.model.as_deref(), arguments.judge.as_deref());
    for part in VerifyPart::value_variants() {
        if !arguments.part.is_empty() && !arguments.part.contains(part) {
            continue;
        }
        let units: Vec<&Recorded> = recorded
            .iter()
            .filter(|recorded| recorded::part(&recorded.unit) == Some(*part))
            .collect();
        let goes_on = verify_part(*part, &units, &mut redo, &mut report)?;
        if let Some(done) = report.parts.last().filter(|done| done.part == *part && !arguments.json) {
            println!("{}", done.line());
        }
        if !goes_on {
            break;
        }
    }
    if !report.unchecked.is_empty() {
        report.retained = retained(&run, redo.store())?;
    }
    report.conclude(redo.into_damages());
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).context("cannot write JSON")?
        );
    } else {
        print!("{}", report.conclusion());
    }
    Ok(if report.confirmed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Does one part's units again. Returns whether to go on: after a difference there is nothing more to confirm.
fn verify_part(
    part: VerifyPart,
    units: &[&Recorded],
    redo: &mut Redo<'_>,
    report: &mut Report,
) -> anyhow::Result<bool> {
    if units.is_empty() {
        return Ok(true);
    }
    let started = Instant::now();
    let mut done = PartReport::new(part, units.len());
    for recorded in units {
        match redo.redo(recorded)? {
            Redone::Equal(equal) => done.add(&equal),
            Redone::Lacks(blobs) => report.unchecked.push(Unchecked {
                unit: recorded.unit.to_string(),
                blobs,
            }),
            Redone::Differs(difference) => {
                report.difference = Some(difference);
                break;
            }
        }
    }
    done.seconds = started.elapsed().as_secs_f64();
    report.parts.push(done);
    Ok(report.difference.is_none())
}

/// The steps that can be done again: the policies that they are sampled from and train are still among the blobs. The first
/// needs none.
fn retained(run: &Run, store: &Store) -> anyhow::Result<Vec<Step>> {
    let policies = &run.results().policies;
    let mut steps = vec![Step(1)];
    for step in (2..=run.committed().0).map(Step) {
        let policy = &policies[rules::trained_version(step) as usize];
        let sampling = &policies[rules::sampling_version(run.spec(), step) as usize];
        if store.has(&policy.adapter)? && store.has(&policy.optimizer)? && store.has(&sampling.adapter)? {
            steps.push(step);
        }
    }
    Ok(steps)
}
