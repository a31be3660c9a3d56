//! The run's blobs for work outside of tokio; what is gone or damaged is noted, and replaced where it was made again.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use bytes::Bytes;
use gavel_coordinator::blobs::{BlobError, Blobs};
use gavel_core::ids::Digest;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::named::Named;

/// What is wrong with a stored blob.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Damage {
    /// What the blob is.
    pub(super) what: String,
    /// Its name.
    pub(super) sha256: Digest,
    /// The hash of the bytes that are there; `None` when there are none.
    pub(super) found: Option<Digest>,
    /// Whether the work was done again with this result.
    pub(super) made_again: bool,
}

/// The blobs of a run.
pub(super) struct Store {
    runtime: Runtime,
    blobs: Blobs,
    again: HashMap<Digest, Bytes>,
    damages: BTreeMap<Digest, Damage>,
}

impl Store {
    pub(super) fn new(runtime: Runtime, blobs: Blobs) -> Self {
        Self {
            runtime,
            blobs,
            again: HashMap::new(),
            damages: BTreeMap::new(),
        }
    }

    /// The blob's bytes; `None` when it is gone or damaged and was not made again.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn get(&mut self, named: &Named) -> anyhow::Result<Option<Bytes>> {
        if let Some(bytes) = self.again.get(&named.digest) {
            return Ok(Some(bytes.clone()));
        }
        let found = match self.runtime.block_on(self.blobs.peek(&named.digest)) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(BlobError::Missing { .. }) => None,
            Err(BlobError::Corrupt { found, .. }) => Some(found),
            Err(error) => return Err(error).context("cannot read the run's blobs"),
        };
        self.damages.entry(named.digest).or_insert_with(|| Damage {
            what: named.what.clone(),
            sha256: named.digest,
            found,
            made_again: false,
        });
        Ok(None)
    }

    /// Keeps bytes that were made again in place of a blob that is gone or damaged.
    pub(super) fn replace(&mut self, digest: Digest, bytes: Bytes) {
        if let Some(damage) = self.damages.get_mut(&digest) {
            damage.made_again = true;
            self.again.insert(digest, bytes);
        }
    }

    /// Whether the folder has the blob, without reading it.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn has(&self, digest: &Digest) -> anyhow::Result<bool> {
        let size = self.runtime.block_on(self.blobs.size(digest));
        Ok(size.context("cannot read the run's blobs")?.is_some())
    }

    /// Everything that was found to be wrong.
    pub(super) fn damages(self) -> Vec<Damage> {
        self.damages.into_values().collect()
    }
}
