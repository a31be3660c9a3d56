//! Copies of a ledger with its blobs: `gavel backup` and `gavel restore`, which are one thing in two directions.
//!
//! A backup is a folder with a SQLite ledger, kept verdicts included, and the blobs that its runs need, whatever the coordinator
//! itself keeps them in; so it is a data folder of its own, and moves runs from one kind of store to another. It is taken while
//! the coordinator works: each run is copied as far as it has come, then its blobs, which stay readable for the trash period
//! should they be released meanwhile. What is copied is checked: the chain of checksums, every event by applying it, every blob by its hash.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use gavel_core::hint::Hint;
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::Run;
use gavel_core::work::KeptAnswer;

use crate::binding::{self, Owner};
use crate::blobs::BlobError;
use crate::error::Error;
use crate::ledger::{EventRecord, RunRecord};
use crate::replay::{ReplayError, read_rows, replay};
use crate::server::Stores;

/// Events in one transaction.
const EVENTS_AT_ONCE: usize = 4096;
/// Bytes of a blob in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What was copied, and what could not be.
#[derive(Debug, Default)]
pub struct Copied {
    /// The runs.
    pub runs: u64,
    /// Their events.
    pub events: u64,
    /// Their blobs.
    pub blobs: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Verdicts and rubrics of prompts that are kept for whoever asks again, as far as they can be read.
    pub verdicts: u64,
    /// Runs that the ledger does not give back, and why. They are not in the copy.
    pub unreadable: Vec<(RunId, String)>,
    /// Blobs that runs need and the store does not have. A run that reads one makes it again.
    pub missing: BTreeSet<Digest>,
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there already.
    #[error("{location} is not empty")]
    Taken {
        /// Where the copy was to go.
        location: String,
    },
}

impl Hint for BackupError {
    fn hint(&self) -> Option<String> {
        Some(
            "name a new folder, or an empty database and an empty prefix: a copy is never mixed with what is there"
                .to_owned(),
        )
    }
}

/// Copies every run with its blobs. The target must be empty, and becomes a ledger and a store that belong together.
///
/// # Errors
/// The source's parts do not belong together, the target is not empty, or one of them does not answer.
pub async fn copy(from: &Stores, to: &Stores) -> Result<Copied, Error> {
    binding::check(from).await?;
    let is_new = binding::check(to).await.is_ok_and(|owner| owner.is_none());
    if !is_new || !to.ledger.runs().await?.is_empty() || !to.blobs.is_empty().await? {
        let location = to.blobs.location().to_owned();
        return Err(BackupError::Taken { location }.into());
    }
    let mut copied = Copied::default();
    let mut positions = BTreeMap::new();
    let mut needed = BTreeSet::new();
    for id in from.ledger.runs().await? {
        let (record, events, run) = match read(from, &id).await {
            Ok(read) => read,
            Err(error) if error.is_of_this_run() => {
                copied.unreadable.push((id, error.to_string()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        to.ledger.create_run(&record).await?;
        for some in events.chunks(EVENTS_AT_ONCE) {
            to.ledger.append(some).await?;
        }
        positions.insert(id, record.position(&events));
        needed.extend(run.retained());
        copied.runs += 1;
        copied.events += events.len() as u64;
    }
    copied.verdicts = copy_verdicts(from, to).await?;
    for digest in needed {
        match copy_blob(from, to, digest).await {
            Ok(bytes) => {
                copied.blobs += 1;
                copied.bytes += bytes;
            }
            Err(BlobError::Missing { .. } | BlobError::Corrupt { .. }) => drop(copied.missing.insert(digest)),
            Err(error) => return Err(error.into()),
        }
    }
    // Last: what has this mark is whole.
    let owner = Owner {
        ledger: to.ledger.identity().await?,
        sole: true,
    };
    binding::mark(&to.blobs, owner, &positions).await?;
    Ok(copied)
}

async fn read(from: &Stores, id: &RunId) -> Result<(RunRecord, Vec<EventRecord>, Run), ReplayError> {
    let (record, events) = read_rows(from.ledger.as_ref(), id).await?;
    let run = replay(&record, &events)?;
    Ok((record, events, run))
}

/// Copies the kept verdicts and rubrics, and returns how many. A row that cannot be read is as good as none: it is asked for again.
async fn copy_verdicts(from: &Stores, to: &Stores) -> Result<u64, Error> {
    let (mut after, mut copied) = (String::new(), 0);
    loop {
        let rows = from.ledger.verdicts_after(&after).await?;
        let Some((last, _)) = rows.last() else {
            return Ok(copied);
        };
        after.clone_from(last);
        let readable = rows.into_iter().filter_map(|(key, verdict)| {
            serde_json::from_str::<KeptAnswer>(&verdict).ok()?;
            Some((key.parse::<Digest>().ok()?, verdict))
        });
        let readable: Vec<(Digest, String)> = readable.collect();
        to.ledger.keep_verdicts(&readable).await?;
        copied += readable.len() as u64;
    }
}

async fn copy_blob(from: &Stores, to: &Stores, digest: Digest) -> Result<u64, BlobError> {
    let mut pieces = from.blobs.stream(&digest, PIECE_BYTES).await?;
    let mut writer = to.blobs.writer(digest);
    while let Some(piece) = pieces.next().await {
        writer.write(piece?).await?;
    }
    writer.finish().await
}
