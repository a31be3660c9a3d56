//! One adapter of a run as a folder of its own.

use std::path::Path;

use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::{Digest, Step};
use gavel_models::lora::{LoraConfig, write_folder};

use crate::{Error, RunSource};

/// Which of a step's adapters, where the run keeps an average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The moving average, which evaluation and the final folder use.
    Averaged,
    /// What the next step starts from.
    Trained,
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub struct ExportedAdapter {
    /// The step that committed the adapter.
    pub step: Step,
    /// The adapter's blob.
    pub digest: Digest,
}

/// Writes the adapter of a step, or of the latest, to `out`; step 0 has the initial one.
///
/// # Errors
/// The run has no such step, the blob was collected, or the folder cannot be written.
pub async fn export(
    source: &dyn RunSource,
    step: Option<Step>,
    weights: Weights,
    out: &Path,
) -> Result<ExportedAdapter, Error> {
    let run = source.run().await?;
    let committed = run.committed();
    let step = step.unwrap_or(committed);
    let policies = &run.results().policies;
    let policy = policies.get(step.0 as usize).ok_or_else(|| Error::NoPolicy {
        run: run.id().clone(),
        step,
        committed,
    })?;
    let digest = match weights {
        Weights::Averaged => policy.averaged.unwrap_or(policy.adapter),
        Weights::Trained => policy.adapter,
    };
    let bytes = source.blob(&digest).await.map_err(|error| match error {
        BlobError::Missing { .. } => Error::NotKept { step, source: error },
        error => Error::Blobs(error),
    })?;
    write_folder(&bytes, &LoraConfig::from(&source.spec().lora), out)?;
    Ok(ExportedAdapter { step, digest })
}
