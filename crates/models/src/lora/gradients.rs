//! Gradients of an adapter.

use std::sync::Arc;

use super::adapter::Slots;
use super::{LoraAdapter, LoraError, files};

/// One number per parameter of an adapter, in the adapter's flat order.
#[derive(Debug, Clone)]
pub struct LoraGradients {
    slots: Arc<Slots>,
    values: Vec<f32>,
}

impl LoraGradients {
    /// Zeros for each parameter of `adapter`.
    pub fn zeros(adapter: &LoraAdapter) -> Self {
        Self {
            slots: Arc::clone(&adapter.slots),
            values: vec![0.0; adapter.parameter_count()],
        }
    }

    /// All values in the flat order.
    ///
    /// # Errors
    /// As [`Self::as_slice`].
    pub fn flatten(&self) -> Result<Vec<f32>, LoraError> {
        Ok(self.as_slice()?.to_vec())
    }

    /// The same without a copy.
    ///
    /// # Errors
    /// [`LoraError::Device`] when the sums cannot be read from the device that computed them.
    pub fn as_slice(&self) -> Result<&[f32], LoraError> {
        Ok(&self.values)
    }

    /// How many values there are.
    pub(crate) fn parameter_count(&self) -> usize {
        self.slots.parameters
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Multiplies each value.
    ///
    /// # Errors
    /// As [`Self::as_slice`].
    pub fn scale(&mut self, factor: f32) -> Result<(), LoraError> {
        self.values.iter_mut().for_each(|value| *value *= factor);
        Ok(())
    }

    /// Adds another gradient of the same adapter.
    ///
    /// # Errors
    /// [`LoraError::Count`] when it has another number of values, and as [`Self::as_slice`].
    pub fn add(&mut self, other: &Self) -> Result<(), LoraError> {
        if self.values.len() != other.values.len() {
            return Err(LoraError::Count {
                expected: self.values.len(),
                found: other.values.len(),
            });
        }
        self.values
            .iter_mut()
            .zip(&other.values)
            .for_each(|(sum, value)| *sum += value);
        Ok(())
    }

    /// Whether no value is infinite or not a number.
    ///
    /// # Errors
    /// As [`Self::as_slice`].
    pub fn is_finite(&self) -> Result<bool, LoraError> {
        Ok(self.as_slice()?.iter().all(|value| value.is_finite()))
    }

    /// A safetensors file with one tensor `<module>.lora_A.weight` or `.lora_B.weight` per factor, for inspection.
    ///
    /// # Errors
    /// [`LoraError::Safetensors`] when the file cannot be laid out.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, LoraError> {
        files::serialize(&self.slots, &self.values, "")
    }
}
