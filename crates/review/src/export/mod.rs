//! One adapter of a run in a folder of its own, in the layout that another program reads, with a model card.

mod card;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::{Digest, Millis, Step};
use gavel_core::run::{Event, Run};
use gavel_core::spec::Dtype;
use gavel_core::work::{Policy, Unit};
use gavel_models::Family;
use gavel_models::load::fingerprint;
use gavel_models::lora::{Layout, LoraAdapter, LoraConfig, export_files, write_files};

use crate::{Error, History, RunSource};

/// Which of a step's adapters, where the run keeps an average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The moving average, which evaluation and the final folder use.
    Averaged,
    /// What the next step starts from.
    Trained,
}

/// What is to be exported, and how.
#[derive(Debug, Clone)]
pub struct Export {
    /// The step that committed the adapter; `None` for the latest. Step 0 has the initial one.
    pub step: Option<Step>,
    /// Which of the step's adapters.
    pub weights: Weights,
    /// For whom.
    pub format: Format,
    /// The base model's folder; `None` for where the run's configuration says. Read for kohya's names and to merge.
    pub model: Option<PathBuf>,
    /// What the model card calls the base, such as `owner/name` on a hub; `None` for what the folder's path says.
    pub base_model: Option<String>,
}

/// Who is to read the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// peft's folder, with diffusers' file beside it.
    Peft(Dtype),
    /// diffusers' file alone.
    Diffusers(Dtype),
    /// One file for ComfyUI and kohya's scripts.
    Kohya(Dtype),
    /// The denoiser's folder with the adapter in its weights, in the number format of the base.
    Merged,
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub struct ExportedAdapter {
    /// The step that committed the adapter.
    pub step: Step,
    /// The adapter's blob.
    pub digest: Digest,
}

/// Writes an adapter of a run to `out`, a new folder.
///
/// # Errors
/// The run has no such step, the blob was collected, the base is missing where it is needed or is not the run's, or the folder cannot be written.
pub async fn export(source: &dyn RunSource, what: &Export, out: &Path) -> Result<ExportedAdapter, Error> {
    let history = source.history().await?;
    let run = history.replay(|_, _| {}, |_, _| {})?;
    let step = what.step.unwrap_or(run.committed());
    let policy = run
        .results()
        .policies
        .get(step.0 as usize)
        .ok_or_else(|| Error::NoPolicy {
            run: run.id().clone(),
            step,
            committed: run.committed(),
        })?;
    let digest = adapter_of(policy, what.weights);
    let bytes = source.blob(&digest).await.map_err(|error| match error {
        BlobError::Missing { .. } => Error::NotKept { step, source: error },
        error => Error::Blobs(error),
    })?;
    write(&run, &bytes, what, out)?;
    let card = card::Card {
        run: &run,
        step,
        committed: committed_at(&history, step),
        evaluated: step == run.committed() && digest == policy.evaluated(),
        adapter: digest,
        export: what,
    };
    write_files([(card::FILE, card.render()?.into_bytes())], out)?;
    Ok(ExportedAdapter { step, digest })
}

fn adapter_of(policy: &Policy, weights: Weights) -> Digest {
    match weights {
        Weights::Averaged => policy.averaged.unwrap_or(policy.adapter),
        Weights::Trained => policy.adapter,
    }
}

/// Writes the weights and whatever settings belong to them.
fn write(run: &Run, bytes: &Bytes, what: &Export, out: &Path) -> Result<(), Error> {
    let config = LoraConfig::from(&run.spec().lora);
    let model = what.model.as_ref().unwrap_or(&run.spec().model.path);
    let files = match what.format {
        Format::Peft(dtype) => export_files(bytes, &config, Layout::Peft, dtype)?,
        Format::Diffusers(dtype) => export_files(bytes, &config, Layout::Diffusers, dtype)?,
        Format::Kohya(dtype) => {
            let inspection = family(run)?.inspect(model)?;
            let (layers, name) = (inspection.layers(), &run.id().0);
            export_files(bytes, &config, Layout::Kohya { layers, name }, dtype)?
        }
        Format::Merged => {
            let family = family(run)?;
            let denoiser = family.denoiser_dir(model);
            let inspection = family.inspect(model)?;
            check_base(run, &denoiser)?;
            let adapter = LoraAdapter::from_safetensors(bytes, &config, inspection.layers())?;
            return Ok(adapter.merge(&denoiser, out)?);
        }
    };
    Ok(write_files(files, out)?)
}

fn family(run: &Run) -> Result<Family, Error> {
    Ok(Family::from_name(run.spec().model.family.as_str())?)
}

/// Weights are merged into the base that the adapter was trained on, and into no other.
fn check_base(run: &Run, denoiser: &Path) -> Result<(), Error> {
    let Some(expected) = run.denoiser() else { return Ok(()) };
    let found = fingerprint(denoiser)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::OtherBase {
        folder: denoiser.to_owned(),
        found: found.short(),
        expected: expected.short(),
    })
}

/// When a step was committed.
fn committed_at(history: &History, step: Step) -> Option<Millis> {
    let unit = match step {
        Step(0) => Unit::Initialise,
        step => Unit::Commit { step },
    };
    // The last one counts: a step may have been taken back and done again.
    history.events.iter().rev().find_map(|stored| {
        let event: Event = serde_json::from_str(&stored.event).ok()?;
        matches!(event, Event::Completed { unit: done, .. } if done == unit).then_some(stored.at)
    })
}
