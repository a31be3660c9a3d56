//! Does the work of a recorded step again, in this process, and compares every byte with the ledger: `gavel verify`.
//!
//! The ledger's events are replayed to learn what each worker was given; the workers' own code does it again from the run's
//! blobs. A blob that is gone or damaged is replaced by the one that was made again, where its hash is the recorded one.

mod blobs;
mod compare;
mod findings;
mod recorded;
mod redo;
mod store;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use gavel_core::ids::Step;
use gavel_core::run::Run;
use gavel_core::work::{Unit, rules};
use serde::Serialize;

use crate::{Error, RunSource};
pub(crate) use compare::compare;
use findings::Unchecked;
pub use findings::{PartReport, VerifyReport};
use recorded::Recorded;
use redo::{UnitComparison, UnitVerifier};
use store::Store;

/// A part of a step, in the order in which they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The initial policy; part of step 1.
    Initialise,
    /// Trajectories and images.
    Sample,
    /// Verdicts.
    Judge,
    /// Verdicts of the held-out judge.
    #[serde(rename = "held_out")]
    HeldOut,
    /// Gradient sums.
    Gradient,
    /// The new policy.
    Commit,
}

impl Part {
    /// All parts, in their order.
    pub const ALL: [Self; 6] = [
        Self::Initialise,
        Self::Sample,
        Self::Judge,
        Self::HeldOut,
        Self::Gradient,
        Self::Commit,
    ];

    /// The part in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initialise => "initialise",
            Self::Sample => "sample",
            Self::Judge => "judge",
            Self::HeldOut => "held_out",
            Self::Gradient => "gradient",
            Self::Commit => "commit",
        }
    }
}

/// What is to be done again, and with which models.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// The step; `None` for the latest committed one.
    pub step: Option<Step>,
    /// Its parts; empty for all of them.
    pub parts: Vec<Part>,
    /// Where the base model is now, if not where the run found it.
    pub model: Option<PathBuf>,
    /// Where the judge's model is now, if not where the run found it. A held-out judge of the same folder is there too.
    pub judge: Option<PathBuf>,
}

/// How far a verification is; a part may take as long as the run took for it.
pub enum Progress<'a> {
    /// The step is read, nothing is done yet.
    Begun(&'a VerifyReport),
    /// A part is done.
    Done(&'a PartReport),
}

/// Verifies a step. Blocks until it is done, and must not be called from async code: the workers' code has runtimes of its own.
/// Where `progress` breaks off, the report confirms nothing.
///
/// # Errors
/// The run cannot be read. A step that does not come out the same is no error but a report that is not confirmed.
pub fn verify(
    source: &dyn RunSource,
    options: &VerifyOptions,
    mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<VerifyReport, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let history = runtime.block_on(source.history())?;
    let (run, step, recorded) = recorded::read(&history, options.step)?;
    let mut report = VerifyReport::new(&run, step);
    if progress(Progress::Begun(&report)).is_break() {
        return Ok(report);
    }
    let mut verifier = UnitVerifier::new(&run, Store::new(runtime, source));
    if let Some(commit) = recorded.iter().find(|recorded| recorded.unit == Unit::Commit { step }) {
        verifier.use_steps(commit.steps);
    }
    verifier.use_models(options.model.as_deref(), options.judge.as_deref());
    for part in Part::ALL {
        if !options.parts.is_empty() && !options.parts.contains(&part) {
            continue;
        }
        let of_part = |recorded: &&Recorded| recorded::part(&recorded.unit) == Some(part);
        let units: Vec<&Recorded> = recorded.iter().filter(of_part).collect();
        let goes_on = verify_part(part, &units, &mut verifier, &mut report)?;
        if let Some(done) = report.parts.last().filter(|done| done.part == part)
            && progress(Progress::Done(done)).is_break()
        {
            return Ok(report);
        }
        if !goes_on {
            break;
        }
    }
    if !report.unchecked.is_empty() {
        report.retained = retained(&run, verifier.store())?;
    }
    report.conclude(verifier.into_damages());
    Ok(report)
}

/// Does one part's units again. Returns whether to go on: after a difference there is nothing more to confirm.
fn verify_part(
    part: Part,
    units: &[&Recorded],
    verifier: &mut UnitVerifier<'_>,
    report: &mut VerifyReport,
) -> Result<bool, Error> {
    if units.is_empty() {
        return Ok(true);
    }
    let started = Instant::now();
    let mut done = PartReport::new(part, units.len());
    for recorded in units {
        match verifier.verify(recorded)? {
            UnitComparison::Equal(equal) => done.add(&equal),
            UnitComparison::Lacks(blobs) => report.unchecked.push(Unchecked {
                unit: recorded.unit.to_string(),
                blobs,
            }),
            UnitComparison::Differs(difference) => {
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
fn retained(run: &Run, store: &Store<'_>) -> Result<Vec<Step>, Error> {
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
