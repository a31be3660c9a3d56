//! Ledger and blob store know each other.
//!
//! A store holds a mark: the name of its ledger, and how far each run's rows reached when the mark was written. It is written when a
//! coordinator starts, with every run that is submitted, committed or ended, and before anything is discarded, always with what
//! the ledger holds by then. So a ledger that does not hold what the mark says is another one or an older one (a wrong mount, a
//! restore that is not complete, a replica that lagged), and for it most of the blobs would be nobody's. A coordinator that finds
//! this does not start until it is told what to do.

use std::collections::BTreeMap;

use gavel_core::hint::Hint;
use gavel_core::ids::RunId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::blobs::{BlobError, Blobs};
use crate::error::Error;
use crate::ledger::Position;
use crate::server::Stores;

/// What a store knows of its ledger.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    #[serde(flatten)]
    owner: Owner,
    runs: BTreeMap<RunId, Position>,
}

/// Whose a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) ledger: Uuid,
    /// Every blob was stored under this ledger. A store that was in use before there were marks may hold another ledger's too:
    /// there a blob without an owner is left alone.
    pub(crate) sole: bool,
}

/// Why this ledger and this blob store do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// Blobs, and a ledger without a run.
    #[error("{blobs} holds blobs, and the ledger holds no run: it is new, or not the one that these blobs belong to")]
    NoLedger {
        /// The store.
        blobs: String,
    },
    /// The store's mark names another ledger.
    #[error("{blobs} belongs to ledger {expected}, and this is ledger {found}{}", if *is_empty { ", which holds no run" } else { "" })]
    OtherLedger {
        /// The store.
        blobs: String,
        /// The ledger of the mark.
        expected: Uuid,
        /// This ledger.
        found: Uuid,
        /// This ledger holds no run.
        is_empty: bool,
    },
    /// The ledger lacks rows that the mark names, or has others.
    #[error("{blobs} was used with a newer state of this ledger: run `{run}` had {events} events, {found}")]
    OlderLedger {
        /// The store.
        blobs: String,
        /// A run of the mark.
        run: RunId,
        /// Its events by the mark.
        events: u64,
        /// What the ledger has instead.
        found: &'static str,
    },
    /// The mark cannot be read.
    #[error("{blobs}: `identity.json` cannot be read")]
    Unreadable {
        /// The store.
        blobs: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl Hint for BindingError {
    fn hint(&self) -> Option<String> {
        let adopt = "`gavel coordinator ... --adopt-blobs` starts with this ledger all the same and discards, after the trash period, the blobs that it does not name";
        Some(match self {
            Self::NoLedger { .. } | Self::OtherLedger { .. } => format!(
                "nothing was deleted: look whether --data, --ledger and --blobs name the right places and are mounted; {adopt}"
            ),
            Self::OlderLedger { .. } => format!(
                "nothing was deleted: bring back the newest ledger, with its `-wal` file if it is SQLite's; {adopt}, and the work \
                 since then is done again"
            ),
            Self::Unreadable { .. } => format!("nothing was deleted: bring the file back; {adopt}"),
        })
    }
}

/// Whether a store that belongs to another ledger is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adoption {
    /// No: the coordinator does not start.
    #[default]
    Refused,
    /// Yes.
    Allowed,
}

/// Makes sure that the store belongs to the ledger, and marks one that belongs to none yet.
///
/// # Errors
/// [`BindingError`], unless the store may be adopted; either of them does not answer.
pub(crate) async fn bind(stores: &Stores, adoption: Adoption) -> Result<Owner, Error> {
    let Stores { ledger, blobs } = stores;
    let sole = match check(stores).await {
        Ok(Some(owner)) => return Ok(owner),
        Ok(None) => blobs.is_exclusive() || blobs.is_empty().await?,
        Err(Error::Binding(problem)) if adoption == Adoption::Allowed => {
            tracing::warn!(%problem, "the blobs are adopted as told");
            true
        }
        Err(error) => return Err(error),
    };
    let ledger = ledger.identity().await?;
    let owner = Owner { ledger, sole };
    mark(blobs, owner, &BTreeMap::new()).await?;
    Ok(owner)
}

/// Whether the ledger holds all that the store's mark says; `None` where there is no mark. A store without one may belong to
/// any ledger that has a run.
pub(crate) async fn check(stores: &Stores) -> Result<Option<Owner>, Error> {
    let Stores { ledger, blobs } = stores;
    let location = || blobs.location().to_owned();
    let Some(mark) = blobs.identity().await? else {
        if ledger.runs().await?.is_empty() && !blobs.is_empty().await? {
            return Err(BindingError::NoLedger { blobs: location() }.into());
        }
        return Ok(None);
    };
    let mark: Mark = serde_json::from_slice(&mark).map_err(|source| BindingError::Unreadable {
        blobs: location(),
        source,
    })?;
    let found = ledger.identity().await?;
    if found != mark.owner.ledger {
        return Err(BindingError::OtherLedger {
            blobs: location(),
            expected: mark.owner.ledger,
            found,
            is_empty: ledger.runs().await?.is_empty(),
        }
        .into());
    }
    for (run, position) in mark.runs {
        let found = match ledger.chain(&run, position.events).await? {
            Some(chain) if chain == position.chain => continue,
            Some(_) => "the last of which was another",
            None => "which are not all there",
        };
        return Err(BindingError::OlderLedger {
            blobs: location(),
            run,
            events: position.events,
            found,
        }
        .into());
    }
    Ok(Some(mark.owner))
}

/// Writes down whose the store is, and how far the ledger's runs reach.
pub(crate) async fn mark(blobs: &Blobs, owner: Owner, runs: &BTreeMap<RunId, Position>) -> Result<(), BlobError> {
    let mark = Mark {
        owner,
        runs: runs.clone(),
    };
    // Names and numbers: nothing in it can fail to become JSON.
    let text = serde_json::to_vec(&mark).unwrap_or_default();
    blobs.set_identity(text.into()).await
}
