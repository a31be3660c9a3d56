//! What the ledger keeps besides a run's rows: where a replay of them stands, and what the committed steps came to.
//!
//! All of it follows from the rows, so that they may be missing, and may be deleted while no coordinator serves. What is not as it was
//! written is not used: the rows are replayed instead.

use gavel_core::ids::{Digest, Millis, RunId, Step};

use super::LedgerError;
use super::record::{Position, Row, changed, link};

/// The state of a run after some of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The run.
    pub run: RunId,
    /// The last of these events.
    pub position: Position,
    /// That event's time.
    pub at: Millis,
    /// What the state is written as: `gavel_core::run::SNAPSHOT_VERSION`.
    pub version: u32,
    /// `gavel_core::run::Snapshot` as JSON.
    pub state: String,
    /// Checksum of all above.
    pub checksum: Digest,
}

impl SnapshotRecord {
    /// A snapshot with its checksum.
    pub fn new(run: RunId, position: Position, at: Millis, version: u32, state: String) -> Self {
        let mut record = Self {
            run,
            position,
            at,
            version,
            state,
            checksum: Digest([0; 32]),
        };
        record.checksum = record.sum();
        record
    }

    /// Whether the snapshot is as it was written.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`].
    pub fn check(&self) -> Result<(), LedgerError> {
        match self.sum() == self.checksum {
            true => Ok(()),
            false => Err(changed(&self.run, Row::Snapshot)),
        }
    }

    fn sum(&self) -> Digest {
        link(
            &self.position.chain,
            &[
                self.run.0.as_bytes(),
                &self.position.events.to_le_bytes(),
                &self.at.0.to_le_bytes(),
                &self.version.to_le_bytes(),
                self.state.as_bytes(),
            ],
        )
    }
}

/// What a committed step came to: figures, policy, and whose result that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRecord {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: Step,
    /// `gavel_core::run::Commit` as JSON.
    pub commit: String,
    /// Checksum of all above.
    pub checksum: Digest,
}

impl CommitRecord {
    /// A commit with its checksum.
    pub fn new(run: RunId, step: Step, commit: String) -> Self {
        let checksum = step_sum(&run, step, &commit);
        Self {
            run,
            step,
            commit,
            checksum,
        }
    }

    /// Whether the commit is as it was written.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`].
    pub fn check(&self) -> Result<(), LedgerError> {
        match step_sum(&self.run, self.step, &self.commit) == self.checksum {
            true => Ok(()),
            false => Err(changed(&self.run, Row::Commit(self.step))),
        }
    }
}

/// The candidates, verdicts and gradients of a committed step, with its figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetailsRecord {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: Step,
    /// `gavel_core::run::StepResult` as JSON.
    pub result: String,
    /// Checksum of all above.
    pub checksum: Digest,
}

impl DetailsRecord {
    /// Details with their checksum.
    pub fn new(run: RunId, step: Step, result: String) -> Self {
        let checksum = step_sum(&run, step, &result);
        Self {
            run,
            step,
            result,
            checksum,
        }
    }

    /// Whether the details are as they were written.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`].
    pub fn check(&self) -> Result<(), LedgerError> {
        match step_sum(&self.run, self.step, &self.result) == self.checksum {
            true => Ok(()),
            false => Err(changed(&self.run, Row::Details(self.step))),
        }
    }
}

fn step_sum(run: &RunId, step: Step, text: &str) -> Digest {
    let step = step.0.to_le_bytes();
    link(&Digest([0; 32]), &[run.0.as_bytes(), &step, text.as_bytes()])
}

/// What is kept of some committed steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepRecords {
    /// What they came to.
    pub commits: Vec<CommitRecord>,
    /// Their details.
    pub details: Vec<DetailsRecord>,
}

impl StepRecords {
    /// How many rows these are.
    pub fn len(&self) -> usize {
        self.commits.len() + self.details.len()
    }

    /// Adds rows that come after these.
    pub fn append(&mut self, mut other: Self) {
        self.commits.append(&mut other.commits);
        self.details.append(&mut other.details);
    }

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found() {
        let position = Position {
            events: 7,
            chain: Digest::of(b"event 7"),
        };
        let snapshot = SnapshotRecord::new(RunId("one".into()), position, Millis(9), 1, "{\"grants\":3}".into());
        snapshot.check().unwrap();
        for changed in [
            SnapshotRecord {
                state: "{\"grants\":4}".into(),
                ..snapshot.clone()
            },
            SnapshotRecord {
                version: 2,
                ..snapshot.clone()
            },
            SnapshotRecord {
                at: Millis(8),
                ..snapshot.clone()
            },
            SnapshotRecord {
                run: RunId("other".into()),
                ..snapshot.clone()
            },
        ] {
            assert!(changed.check().is_err(), "{changed:?}");
        }
        let details = DetailsRecord::new(RunId("one".into()), Step(3), "{}".into());
        details.check().unwrap();
        let other = DetailsRecord {
            step: Step(4),
            ..details
        };
        assert!(other.check().is_err());
        let commit = CommitRecord::new(RunId("one".into()), Step(3), "[]".into());
        commit.check().unwrap();
        for changed in [
            CommitRecord {
                step: Step(4),
                ..commit.clone()
            },
            CommitRecord {
                commit: "[ ]".into(),
                ..commit.clone()
            },
        ] {
            assert!(changed.check().is_err(), "{changed:?}");
        }
    }
}
