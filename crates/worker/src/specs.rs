//! The specs of the runs that a worker works for.

use std::collections::VecDeque;
use std::sync::Arc;

use gavel_core::RunAssets;
use gavel_core::ids::{Digest, RunId};
use gavel_core::spec::RunSpec;
use gavel_proto::v1::GetSpecRequest;
use tokio::sync::Mutex;
use tonic::Code;

use crate::connection::{Connection, persist, prompt};
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
    connection: Connection,
    /// See [`crate::WorkerOptions::relocated`].
    relocated: Option<RunSpec>,
    known: Mutex<VecDeque<Arc<Specified>>>,
}

impl Specs {
    pub(crate) fn new(connection: Connection, relocated: Option<RunSpec>) -> Self {
        Self {
            connection,
            relocated,
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
        let response = persist("get a spec", || {
            let mut runs = self.connection.runs();
            let request = prompt(GetSpecRequest { run_id: run.0.clone() });
            async move { runs.get_spec(request).await }
        })
        .await
        .map_err(|status| match status.code() {
            Code::NotFound => WorkError::Cancelled,
            _ => WorkError::Retry(format!("cannot get the spec of run `{run}`: {}", status.message())),
        })?
        .into_inner();
        let parse = |what: &str, error: serde_json::Error| {
            WorkError::Retry(format!("this worker cannot read the {what} of run `{run}`: {error}"))
        };
        let mut spec: RunSpec = serde_json::from_str(&response.spec_json).map_err(|error| parse("spec", error))?;
        if let Some(relocated) = &self.relocated {
            spec.relocate(relocated);
        }
        Ok(Specified {
            run: run.clone(),
            digest,
            spec,
            assets: serde_json::from_str(&response.assets_json).map_err(|error| parse("assets", error))?,
        })
    }
}
