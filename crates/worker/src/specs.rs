//! The specs of the runs that a worker works for.

use std::collections::VecDeque;
use std::sync::Arc;

use gavel_client::{Code, Connection, Runs, persist};
use gavel_core::RunAssets;
use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::RunSpec;
use tokio::sync::Mutex;

use crate::work::WorkError;

/// Runs whose specs are kept. A worker rarely serves more at a time.
const KEPT: usize = 4;

/// A run's spec and the files that it names.
#[derive(Debug)]
pub(crate) struct Specified {
    pub(crate) run: RunId,
    pub(crate) digest: Digest,
    pub(crate) spec: RunSpec,
    pub(crate) assets: RunAssets,
}

/// Fetches each run's spec once.
#[derive(Debug)]
pub(crate) struct Specs {
    runs: Runs,
    /// See [`crate::WorkerOptions::relocated`].
    relocated: Option<RunSpec>,
    /// See [`crate::WorkerOptions::gpu`].
    gpu: Option<usize>,
    known: Mutex<VecDeque<Arc<Specified>>>,
}

impl Specs {
    pub(crate) fn new(connection: &Connection, relocated: Option<RunSpec>, gpu: Option<usize>) -> Self {
        Self {
            runs: connection.runs(),
            relocated,
            gpu,
            known: Mutex::default(),
        }
    }

    pub(crate) async fn get(&self, run: &RunId, digest: Digest) -> Result<Arc<Specified>, WorkError> {
        let mut known = self.known.lock().await;
        if let Some(found) = known.iter().find(|known| known.run == *run && known.digest == digest) {
            return Ok(Arc::clone(found));
        }
        let fetched = Arc::new(self.fetch(run, digest).await?);
        known.truncate(KEPT - 1);
        known.push_front(Arc::clone(&fetched));
        Ok(fetched)
    }

    async fn fetch(&self, run: &RunId, digest: Digest) -> Result<Specified, WorkError> {
        let found = persist("get a spec", || self.runs.spec(run)).await;
        let found = found.map_err(|error| match error.code() {
            Code::NotFound => WorkError::Cancelled,
            _ => WorkError::Retry(format!("cannot get the spec of run `{run}`: {}", error.message())),
        })?;
        let mut spec = found.spec;
        if let Some(relocated) = &self.relocated {
            spec.relocate(relocated);
        }
        if let Some(gpu) = self.gpu {
            spec.place_on_gpu(gpu);
        }
        Ok(Specified {
            run: run.clone(),
            digest,
            spec,
            assets: found.assets,
        })
    }
}
