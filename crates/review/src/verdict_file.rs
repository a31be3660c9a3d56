//! A file of verdicts that were given before.

use std::path::Path;

use anyhow::Context as _;
use gavel_coordinator::ledger::{Ledger as _, LedgerError, SqliteLedger};
use gavel_core::ids::Digest;
use gavel_core::work::VerdictRecord;
use gavel_judge::VerdictCache;
use tokio::runtime::Runtime;

/// The verdicts in a SQLite file with a ledger's tables; a run's own ledger will do.
pub(crate) struct VerdictFile {
    ledger: SqliteLedger,
    runtime: Runtime,
}

impl VerdictFile {
    /// Opens the file, creating it where it is missing.
    ///
    /// # Errors
    /// As [`SqliteLedger::open`].
    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the async runtime")?;
        let ledger = runtime.block_on(SqliteLedger::open(file))?;
        Ok(Self { ledger, runtime })
    }
}

impl VerdictCache for VerdictFile {
    fn recall(&self, keys: &[Digest]) -> Vec<Option<VerdictRecord>> {
        match self.runtime.block_on(self.ledger.verdicts(keys)) {
            Ok(found) => found
                .iter()
                .map(|text| serde_json::from_str(text.as_deref()?).ok())
                .collect(),
            Err(error) => {
                told(&error);
                Vec::new()
            }
        }
    }

    fn keep(&self, verdicts: &[(Digest, VerdictRecord)]) {
        let texts = verdicts
            .iter()
            .filter_map(|(key, record)| Some((*key, serde_json::to_string(record).ok()?)));
        let texts: Vec<(Digest, String)> = texts.collect();
        if let Err(error) = self.runtime.block_on(self.ledger.keep_verdicts(&texts)) {
            told(&error);
        }
    }
}

impl Drop for VerdictFile {
    fn drop(&mut self) {
        self.runtime.block_on(self.ledger.close());
    }
}

fn told(error: &LedgerError) {
    tracing::warn!(%error, "the file of verdicts is not used");
}
