//! A file of verdicts that were given before.

use std::path::Path;

use gavel_coordinator::ledger::{Ledger as _, LedgerError, SqliteLedger};
use gavel_core::ids::Digest;
use gavel_core::work::VerdictRecord;
use gavel_judge::VerdictCache;
use tokio::runtime::Runtime;

use crate::Error;

/// The verdicts in a SQLite file with a ledger's tables; a run's own ledger will do.
pub struct VerdictFile {
    ledger: SqliteLedger,
    runtime: Runtime,
}

impl VerdictFile {
    /// Opens the file, creating it where it is missing.
    ///
    /// # Errors
    /// As [`SqliteLedger::open`]; and [`Error::Runtime`].
    pub fn open(file: &Path) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
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
                warn_unused(&error);
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
            warn_unused(&error);
        }
    }
}

impl Drop for VerdictFile {
    fn drop(&mut self) {
        self.runtime.block_on(self.ledger.close());
    }
}

fn warn_unused(error: &LedgerError) {
    tracing::warn!(%error, "the file of verdicts is not used");
}
