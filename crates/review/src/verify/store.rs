//! The run's blobs for work outside of tokio; what is gone or damaged is noted, and replaced where it was made again.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::Digest;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::blobs::Named;
use crate::{Error, RunSource};

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
pub(super) struct Store<'a> {
    runtime: Runtime,
    source: &'a dyn RunSource,
    again: HashMap<Digest, Bytes>,
    damages: BTreeMap<Digest, Damage>,
}

impl<'a> Store<'a> {
    pub(super) fn new(runtime: Runtime, source: &'a dyn RunSource) -> Self {
        Self {
            runtime,
            source,
            again: HashMap::new(),
            damages: BTreeMap::new(),
        }
    }

    /// The blob's bytes; `None` when it is gone or damaged and was not made again.
    ///
    /// # Errors
    /// The blobs cannot be read.
    pub(super) fn get(&mut self, named: &Named) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.again.get(&named.digest) {
            return Ok(Some(bytes.clone()));
        }
        let found = match self.runtime.block_on(self.source.blob(&named.digest)) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(BlobError::Missing { .. }) => None,
            Err(BlobError::Corrupt { found, .. }) => Some(found),
            Err(error) => return Err(error.into()),
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

    /// Whether the source has the blob, without reading it.
    ///
    /// # Errors
    /// The blobs cannot be read.
    pub(super) fn has(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.runtime.block_on(self.source.blob_size(digest))?.is_some())
    }

    /// Everything that was found to be wrong.
    pub(super) fn damages(self) -> Vec<Damage> {
        self.damages.into_values().collect()
    }
}
