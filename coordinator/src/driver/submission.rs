//! How a run comes to the driver.

use std::sync::Arc;

use gavel_core::RunAssets;
use gavel_core::ids::{Digest, Millis, RunId};
use gavel_core::panics::catch;
use gavel_core::run::Run;
use gavel_core::spec::RunSpec;

use super::{Driver, DriverError};
use crate::ledger::{LedgerError, NotReadable, RunRecord, write};
use crate::recovery::take;
use crate::replay::ReplayError;
use crate::snapshots::Kept;

/// A run as it arrives.
pub(super) struct Submission {
    pub(super) id: RunId,
    pub(super) spec: RunSpec,
    pub(super) assets: RunAssets,
}

/// The answer to a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// `RunSpec::digest`.
    pub spec_sha256: Digest,
    /// The run was there already, with this spec.
    pub existed: bool,
}

impl Driver {
    pub(super) async fn submit(&mut self, submission: Submission, now: Millis) -> Result<Submitted, DriverError> {
        let Submission { id, spec, assets } = submission;
        let submitted = spec.digest();
        self.awaken(&id, now).await?;
        match self.state.run(&id) {
            Ok(_) => return self.existing(id, &spec, &assets),
            Err(DriverError::UnknownRun(_)) => {}
            Err(set_aside) => return Err(set_aside),
        }
        self.find_room(&spec, &assets)?;
        let unreadable = |error: NotReadable| DriverError::NotReadable(error.to_string());
        let spec = write(&spec).map_err(unreadable)?;
        let assets = write(&assets).map_err(unreadable)?;
        // Made from what the ledger will give back, and before the ledger has it: what cannot be made is never written.
        let run = catch(|| Run::new(id.clone(), spec.value, assets.value).created(now).lean())?;
        let record = RunRecord::new(id.clone(), spec.text, assets.text, submitted.to_string(), now);
        match self.ledger.create_run(&record).await {
            Ok(()) => {}
            Err(LedgerError::RunExists { .. }) => {
                // A database may report a write as failed that came through.
                match take(self.ledger.as_ref(), &id, &mut self.state).await {
                    Ok(_) => {
                        tracing::warn!(run = %id, "the run was in the ledger although storing it was reported as failed")
                    }
                    Err(ReplayError::Ledger(error)) if !error.is_damage() => {
                        return Err(DriverError::Ledger(Arc::new(error)));
                    }
                    Err(damaged) => self.state.set_aside(id.clone(), &damaged),
                }
                return self.existing(id, run.spec(), run.assets());
            }
            Err(error) => return Err(DriverError::Ledger(Arc::new(error))),
        }
        tracing::info!(run = %id, spec = submitted.short(), "run submitted");
        self.state.insert(run, now, record.position(&[]), now, Kept::default());
        Ok(Submitted {
            spec_sha256: submitted,
            existed: false,
        })
    }

    /// Refuses a run for which there is no place and no memory beside the runs that are there.
    fn find_room(&self, spec: &RunSpec, assets: &RunAssets) -> Result<(), DriverError> {
        let open = self.state.runs().filter(|(run, _)| !run.phase().is_ended()).count();
        let most = self.options.runs_max;
        if open >= most {
            return Err(DriverError::TooManyRuns { open, most });
        }
        // Runs that are asleep take next to nothing, and few of them are awake at a time.
        let taken = self.state.runs().map(|(run, _)| run.assets().footprint(run.spec()));
        let (taken, needed, most) = (taken.sum(), assets.footprint(spec), self.options.run_bytes_max);
        match needed.saturating_add(taken) <= most {
            true => Ok(()),
            false => Err(DriverError::NoRoom { needed, taken, most }),
        }
    }

    /// The answer where a run of this name is there: it is the same if its keys and the contents of its files are.
    fn existing(&self, run: RunId, spec: &RunSpec, assets: &RunAssets) -> Result<Submitted, DriverError> {
        let there = self.state.run(&run)?;
        let submitted = spec.digest();
        if there.spec_sha256() != submitted {
            let keys = there.spec().differences(spec);
            return Err(DriverError::RunDiffers { run, keys });
        }
        let differences = there.assets().differences(assets);
        if !differences.is_empty() {
            let differences = there.spec().with_files(&differences);
            return Err(DriverError::FilesDiffer { run, differences });
        }
        Ok(Submitted {
            spec_sha256: submitted,
            existed: true,
        })
    }
}
