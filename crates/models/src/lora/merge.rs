//! An adapter merged into its base: weights that every program reads, whether it knows of adapters or not.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::LoraAdapter;
use super::adapter::Slot;
use crate::load::Placement;
use crate::{LoadError, Weights};

impl LoraAdapter {
    /// Writes the denoiser's folder `base` again as `out`, with W + (alpha / rank) B A in place of each adapted layer's W. Files, names, order and
    /// number formats stay, and so does every byte of what is not adapted; the sum is formed in float32 and rounded to the nearest. One tensor is
    /// in memory at a time.
    ///
    /// # Errors
    /// Any [`LoadError`] for a folder that cannot be read or has other layers; [`LoadError::Write`] when `out` cannot be written.
    pub fn merge(&self, base: &Path, out: &Path) -> Result<(), LoadError> {
        let weights = Weights::open(base, &Placement::cpu())?;
        let mut slots: BTreeMap<String, &Slot> = self
            .slots
            .slots
            .iter()
            .map(|slot| (format!("{}.weight", slot.module), slot))
            .collect();
        // Before hours of writing.
        for (name, slot) in &slots {
            weights.check(name, &[slot.outputs, slot.inputs])?;
        }
        weights.rewrite(out, |name, stored| match slots.remove(name) {
            Some(slot) => self
                .merged(slot, &stored)
                .map(Some)
                .map_err(|source| weights.candle(source)),
            None => Ok(None),
        })
    }

    /// W + (alpha / rank) B A, in W's own format.
    fn merged(&self, slot: &Slot, base: &Tensor) -> candle_core::Result<Tensor> {
        let rank = self.slots.rank;
        let factor = |range: &std::ops::Range<usize>, rows, columns| {
            Tensor::from_slice(&self.values[range.clone()], (rows, columns), &Device::Cpu)
        };
        let (a, b) = (
            factor(&slot.a, rank, slot.inputs)?,
            factor(&slot.b, slot.outputs, rank)?,
        );
        let change = (b.matmul(&a)? * f64::from(self.config().scale()))?;
        (base.to_dtype(DType::F32)? + change)?.to_dtype(base.dtype())
    }
}
