//! Policy version 0.

use gavel_core::noise::{NoiseKey, Use};
use gavel_models::lora::{LoraAdapter, LoraConfig};

use super::{Error, OptimizerState, PolicyState, Trainer};

impl Trainer {
    /// Makes the initial adapter (A Kaiming-uniform by the seed's key, B zero: the base policy exactly) and a fresh optimizer
    /// state. With `averages`, the average starts at the initial adapter.
    ///
    /// # Errors
    /// [`Error::Lora`] for an unknown target or a setting out of range.
    pub fn initialise(&self, lora: &LoraConfig, seed: u64, averages: bool) -> Result<PolicyState, Error> {
        let key = NoiseKey::new(seed, Use::AdapterInit);
        let adapter = LoraAdapter::init(self.denoiser.layers(), lora, key.bytes())?;
        let optimizer = OptimizerState::fresh(&adapter, averages);
        Ok(PolicyState { adapter, optimizer })
    }

    /// Makes policy 0 of an adapter that was trained before, given as the bytes of [`LoraAdapter::to_safetensors`], with a fresh optimizer state.
    /// With `averages`, the average starts at this adapter. The KL term still measures from the base, which has none.
    ///
    /// # Errors
    /// [`Error::Lora`] when it does not fit the settings or the denoiser; [`Error::InitialForm`] for other bytes of the same adapter, from which
    /// policy 0 would have another name.
    pub fn start_from(&self, adapter: &[u8], lora: &LoraConfig, averages: bool) -> Result<PolicyState, Error> {
        let bytes = adapter;
        let adapter = self.adapter(bytes, lora)?;
        if adapter.to_safetensors()? != bytes {
            return Err(Error::InitialForm);
        }
        let optimizer = OptimizerState::fresh(&adapter, averages);
        Ok(PolicyState { adapter, optimizer })
    }
}
