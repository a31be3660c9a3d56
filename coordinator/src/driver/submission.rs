//! How a run comes to the driver.

use std::sync::Arc;

use gavel_core::RunAssets;
use gavel_core::ids::{Digest, Millis, RunId};
use gavel_core::run::Run;
use gavel_core::spec::RunSpec;

use super::{Driver, DriverError};
use crate::ledger::{LedgerError, RunRecord};
use crate::replay::{ReplayError, replay};

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
        if self.state.run(&id).is_ok() {
            return self.existing(id, submitted, &assets);
        }
        self.find_room(&spec, &assets)?;
        let json = |value: Result<String, serde_json::Error>| {
            value.map_err(|error| DriverError::Unserializable(error.to_string()))
        };
        let record = RunRecord {
            run: id.clone(),
            spec: json(serde_json::to_string(&spec))?,
            assets: json(serde_json::to_string(&assets))?,
            spec_sha256: submitted.to_string(),
            created: now,
        };
        match self.ledger.create_run(&record).await {
            Ok(()) => {}
            Err(LedgerError::RunExists { .. }) => {
                self.adopt(&id)
                    .await
                    .map_err(|error| DriverError::Ledger(Arc::new(error)))?;
                return self.existing(id, submitted, &assets);
            }
            Err(error) => return Err(DriverError::Ledger(Arc::new(error))),
        }
        tracing::info!(run = %id, spec = submitted.short(), "run submitted");
        self.state.insert(Run::new(id, spec, assets).created(now), now, 0);
        Ok(Submitted {
            spec_sha256: submitted,
            existed: false,
        })
    }

    /// Refuses a run for which there is no memory beside the runs that are there.
    fn find_room(&self, spec: &RunSpec, assets: &RunAssets) -> Result<(), DriverError> {
        let taken = self.state.runs().map(|(run, _)| run.assets().footprint(run.spec()));
        let (taken, needed, most) = (taken.sum(), assets.footprint(spec), self.options.run_bytes_max);
        match needed.saturating_add(taken) <= most {
            true => Ok(()),
            false => Err(DriverError::NoRoom { needed, taken, most }),
        }
    }

    /// The answer where a run of this name is there: it is the same if its keys and the contents of its files are.
    fn existing(&self, run: RunId, submitted: Digest, assets: &RunAssets) -> Result<Submitted, DriverError> {
        let there = self.state.run(&run)?;
        let existing = there.spec_sha256();
        if existing != submitted {
            return Err(DriverError::RunDiffers {
                run,
                existing,
                submitted,
            });
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

    /// Takes over a run that is in the ledger and was not known: a database may report a write as failed that came through.
    async fn adopt(&mut self, id: &RunId) -> Result<(), LedgerError> {
        let records = self.ledger.runs().await?;
        let Some(record) = records.iter().find(|record| record.run == *id) else {
            return Err(LedgerError::RunExists { run: id.clone() });
        };
        let events = self.ledger.events(id).await?;
        let run = replay(record, &events).map_err(|error| match error {
            ReplayError::Ledger(error) => error,
            other => LedgerError::Corrupt {
                run: id.clone(),
                sequence: 0,
                problem: other.to_string(),
            },
        })?;
        tracing::warn!(run = %id, "the run was in the ledger although storing it was reported as failed");
        self.state.insert(run, record.created, events.len() as u64);
        Ok(())
    }
}
