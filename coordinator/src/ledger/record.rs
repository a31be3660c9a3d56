//! What the ledger holds of a run, and the chain of checksums that holds its rows together.
//!
//! Each row carries a SHA-256 over itself and over the checksum of the row before it: configuration, contents of the files,
//! event 1, event 2, and so on. A byte that changes no longer fits its own row, and a row that is left out, exchanged or moved no
//! longer fits the next. The chain finds accidents. It is no signature: whoever may write to the database can compute it anew.

use std::fmt;

use gavel_core::ids::{Digest, Millis, RunId, Step};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::LedgerError;

/// A run as it was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// The run's name.
    pub run: RunId,
    /// `RunSpec` as JSON.
    pub spec: String,
    /// `RunAssets` as JSON.
    pub assets: String,
    /// `RunSpec::digest`, in hexadecimal.
    pub spec_sha256: String,
    /// When it was submitted.
    pub created: Millis,
    /// Checksum of all above but the assets.
    pub spec_chain: Digest,
    /// Checksum of the assets and of `spec_chain`: what the first event follows.
    pub chain: Digest,
}

impl RunRecord {
    /// A run's row with its checksums.
    pub fn new(run: RunId, spec: String, assets: String, spec_sha256: String, created: Millis) -> Self {
        let unsealed = Digest([0; 32]);
        let mut record = Self {
            run,
            spec,
            assets,
            spec_sha256,
            created,
            spec_chain: unsealed,
            chain: unsealed,
        };
        record.spec_chain = record.spec_checksum();
        record.chain = record.assets_checksum();
        record
    }

    /// Whether the row is as it was written.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] names the part that is not.
    pub fn check(&self) -> Result<(), LedgerError> {
        for (part, expected, found) in [
            (Row::Spec, self.spec_checksum(), self.spec_chain),
            (Row::Assets, self.assets_checksum(), self.chain),
        ] {
            if expected != found {
                return Err(changed(&self.run, part));
            }
        }
        Ok(())
    }

    fn spec_checksum(&self) -> Digest {
        link(
            &Digest([0; 32]),
            &[
                self.run.0.as_bytes(),
                self.spec.as_bytes(),
                self.spec_sha256.as_bytes(),
                &self.created.0.to_le_bytes(),
            ],
        )
    }

    fn assets_checksum(&self) -> Digest {
        link(&self.spec_chain, &[self.assets.as_bytes()])
    }

    /// Where the run's rows end, with these events.
    pub fn position(&self, events: &[EventRecord]) -> Position {
        Position {
            events: events.len() as u64,
            chain: events.last().map_or(self.chain, |event| event.chain),
        }
    }
}

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// The run that it belongs to.
    pub run: RunId,
    /// Its place among the run's events, from 1.
    pub sequence: u64,
    /// When it was accepted; the `now` that the state machine saw.
    pub at: Millis,
    /// Its kind in one word, for people who query the table.
    pub kind: String,
    /// `Event` as JSON.
    pub event: String,
    /// Checksum of the row and of the one before it.
    pub chain: Digest,
}

impl EventRecord {
    /// The row that follows the one with the checksum `previous`.
    pub fn new(previous: &Digest, run: RunId, sequence: u64, at: Millis, kind: String, event: String) -> Self {
        let mut record = Self {
            run,
            sequence,
            at,
            kind,
            event,
            chain: *previous,
        };
        record.chain = record.checksum(previous);
        record
    }

    /// Whether the row is as it was written, after the one with the checksum `previous`.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`].
    pub fn check(&self, previous: &Digest) -> Result<(), LedgerError> {
        match self.checksum(previous) == self.chain {
            true => Ok(()),
            false => Err(changed(&self.run, Row::Event(self.sequence))),
        }
    }

    fn checksum(&self, previous: &Digest) -> Digest {
        link(
            previous,
            &[
                &self.sequence.to_le_bytes(),
                &self.at.0.to_le_bytes(),
                self.kind.as_bytes(),
                self.event.as_bytes(),
            ],
        )
    }
}

/// How far a run's rows reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The number of its events.
    pub events: u64,
    /// The checksum of the last row.
    pub chain: Digest,
}

/// A part of what the ledger holds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// The run's own row as a whole.
    Run,
    /// The configuration in the run's row.
    Spec,
    /// The contents of the files, in the run's row.
    Assets,
    /// The event of this number.
    Event(u64),
    /// The snapshot of the run's state.
    Snapshot,
    /// The details of this step.
    Details(Step),
    /// What a step came to.
    Commit(Step),
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run => f.write_str("its row"),
            Self::Spec => f.write_str("its configuration"),
            Self::Assets => f.write_str("the contents of its files"),
            Self::Event(sequence) => write!(f, "event {sequence}"),
            Self::Snapshot => f.write_str("its snapshot"),
            Self::Details(step) => write!(f, "the details of step {step}"),
            Self::Commit(step) => write!(f, "the commit of step {step}"),
        }
    }
}

/// SHA-256 over the previous checksum and over these parts, each after its length.
pub(super) fn link(previous: &Digest, parts: &[&[u8]]) -> Digest {
    let mut hash = sha2::Sha256::new();
    hash.update(previous.0);
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Digest(hash.finalize().into())
}

pub(super) fn changed(run: &RunId, row: Row) -> LedgerError {
    LedgerError::Corrupt {
        run: run.clone(),
        row,
        problem: "the checksum does not fit: bytes have changed since they were written, or the row before is another"
            .into(),
    }
}

/// The text of a record, and the record as it is read back from that text.
#[derive(Debug)]
pub(crate) struct Written<T> {
    pub(crate) text: String,
    pub(crate) value: T,
}

/// A record whose text does not give the same record back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReadable {
    /// It has no text, or its text cannot be read.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Its text is that of another record.
    #[error("its text reads back as another record")]
    Other,
}

/// Writes a record as text and reads it back, before anybody relies on it.
///
/// Every record goes to the ledger through here. JSON has no form for some values (a number that is not finite becomes `null`),
/// and what cannot be read back must be refused while its sender still listens, not found at the next start.
pub(crate) fn write<T>(value: &T) -> Result<Written<T>, NotReadable>
where
    T: Serialize + DeserializeOwned + PartialEq + fmt::Debug,
{
    let text = serde_json::to_string(value)?;
    let read: T = serde_json::from_str(&text)?;
    // A number that is none is not equal to itself. The norm of a gradient that has diverged is one, and is written as text.
    let is_same = match value.eq(value) {
        true => read == *value,
        false => format!("{read:?}") == format!("{value:?}"),
    };
    match is_same {
        true => Ok(Written { text, value: read }),
        false => Err(NotReadable::Other),
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::work::{Outcome, Policy};

    use super::*;

    fn run() -> RunRecord {
        RunRecord::new(
            RunId("one".into()),
            "{}".into(),
            "{\"prompts\":[\"a gray cat\"]}".into(),
            "00".into(),
            Millis(7),
        )
    }

    fn events() -> Vec<EventRecord> {
        let mut chain = run().chain;
        let event = |sequence: u64| {
            let text = format!("{{\"n\":{sequence}}}");
            let event = EventRecord::new(&chain, run().run, sequence, Millis(8), "granted".into(), text);
            chain = event.chain;
            event
        };
        (1..=3).map(event).collect()
    }

    fn row_of(error: LedgerError) -> Row {
        match error {
            LedgerError::Corrupt { row, .. } => row,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_changed_byte_is_found_in_its_row() {
        run().check().unwrap();
        let spec = RunRecord {
            spec: "[]".into(),
            ..run()
        };
        assert_eq!(row_of(spec.check().unwrap_err()), Row::Spec);
        let created = RunRecord {
            created: Millis(8),
            ..run()
        };
        assert_eq!(row_of(created.check().unwrap_err()), Row::Spec);
        let assets = run().assets.replace("gray", "gpay");
        assert_eq!(row_of(RunRecord { assets, ..run() }.check().unwrap_err()), Row::Assets);

        let [first, second, third] = &events()[..] else {
            panic!()
        };
        first.check(&run().chain).unwrap();
        second.check(&first.chain).unwrap();
        let at = EventRecord {
            at: Millis(9),
            ..second.clone()
        };
        assert_eq!(row_of(at.check(&first.chain).unwrap_err()), Row::Event(2));
        // One that is left out is missed by the next.
        assert_eq!(row_of(third.check(&first.chain).unwrap_err()), Row::Event(3));
    }

    #[test]
    fn what_does_not_read_back_is_not_written() {
        assert_eq!(write(&vec![1.5, -0.0]).unwrap().text, "[1.5,-0.0]");
        assert!(write(&vec![f64::NAN]).is_err());
        for number in [f64::INFINITY, f64::NAN] {
            assert!(write(&Some(number)).is_err(), "it would read back as nothing");
        }
    }

    #[test]
    fn a_gradient_that_has_diverged_is_written_as_it_is() {
        let diverged = Outcome::Committed {
            policy: Policy {
                adapter: Digest::of(b"adapter"),
                optimizer: Digest::of(b"optimizer"),
                averaged: None,
                manifest: Digest::of(b"manifest"),
                tensors: 1,
            },
            grad_norm: f64::NAN,
            learning_rate: 1e-4,
            seconds: 1.0,
        };
        assert!(write(&diverged).unwrap().text.contains("NaN"));
    }
}
