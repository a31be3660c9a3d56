//! The adapter that `lora.init` names.

use gavel_core::spec::RunSpec;
use gavel_models::Family;
use gavel_models::lora::{AdaptableLayers, LoraAdapter, LoraConfig};

use crate::diagnostic::{Context as _, Result};

/// Reads the adapter that the run begins with, of whatever trainer, and gives it as a policy's adapter is stored. Which layers it adapts, and whether
/// they are those of the run, is told by the base model's folder, its headers alone.
///
/// # Errors
/// The folder of `model.path` cannot be read; the adapter cannot, or does not fit the model; its rank, its alpha or its layers are not those of `[lora]`.
pub(super) fn read(spec: &RunSpec) -> Result<Option<Vec<u8>>> {
    let Some(init) = &spec.lora.init else {
        return Ok(None);
    };
    let family = Family::from_name(spec.model.family.as_str())?;
    let model = family
        .inspect(&spec.model.path)
        .context("an adapter is read for the model of `model.path`")?;
    let adapter = LoraAdapter::open(init, model.layers())?;
    let bytes = stored(&adapter, spec, model.layers()).with_context(|| init.display().to_string())?;
    Ok(Some(bytes))
}

/// An adapter as the run's first policy, as [`read`] gives it.
///
/// # Errors
/// As of [`read`].
pub(super) fn of(adapter: &LoraAdapter, spec: &RunSpec) -> Result<Vec<u8>> {
    let family = Family::from_name(spec.model.family.as_str())?;
    stored(adapter, spec, family.inspect(&spec.model.path)?.layers())
}

fn stored(adapter: &LoraAdapter, spec: &RunSpec, layers: &AdaptableLayers) -> Result<Vec<u8>> {
    let adapter = adapter.with_settings(&LoraConfig::from(&spec.lora), layers)?;
    Ok(adapter.to_safetensors()?)
}
