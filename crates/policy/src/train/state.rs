//! What a step starts from and leaves behind: adapter and optimizer state, and their files.

use gavel_core::{ids::Digest, rpo::adamw::AdamW, work::Policy};
use gavel_models::lora::LoraAdapter;

use super::Error;
use crate::{TensorFile, TensorFileError};

/// AdamW's moments and the adapter's average, in the adapter's flat order.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState {
    /// Moments and number of updates.
    pub adamw: AdamW,
    /// Exponential moving average of the adapter's weights, where the run keeps one.
    pub average: Option<Vec<f32>>,
}

impl OptimizerState {
    /// Value of the metadata key `format`.
    pub const FORMAT: &'static str = "gavel.optimizer.v1";

    /// The state before the first update; an average starts at the adapter.
    pub fn fresh(adapter: &LoraAdapter, averages: bool) -> Self {
        Self {
            adamw: AdamW::new(adapter.parameter_count()),
            average: averages.then(|| adapter.flatten()),
        }
    }

    /// The file's bytes (docs/formats.md): equal states give equal bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let mut file = TensorFile::default();
        file.metadata.insert("format".into(), Self::FORMAT.into());
        file.metadata.insert("step".into(), self.adamw.step.to_string());
        let count = self.adamw.first.len();
        file.insert("first", &[count], self.adamw.first.clone());
        file.insert("second", &[count], self.adamw.second.clone());
        if let Some(average) = &self.average {
            file.insert("average", &[count], average.clone());
        }
        file.to_bytes()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`TensorFileError`] naming the tensor or metadata key.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, TensorFileError> {
        let mut file = TensorFile::from_bytes(bytes)?;
        file.expect_format(Self::FORMAT)?;
        let step = file.parse("step", "a whole number")?;
        let first = file.take("first")?;
        first.expect_shape("first", &[None])?;
        let count = first.values.len();
        let second = file.take("second")?;
        second.expect_shape("second", &[Some(count)])?;
        let average = file
            .tensors
            .contains_key("average")
            .then(|| file.take("average"))
            .transpose()?;
        if let Some(average) = &average {
            average.expect_shape("average", &[Some(count)])?;
        }
        file.expect_empty()?;
        let adamw = AdamW {
            step,
            first: first.values,
            second: second.values,
        };
        Ok(Self {
            adamw,
            average: average.map(|tensor| tensor.values),
        })
    }

    /// Refuses a state of another adapter, or one whose average does not match the settings.
    ///
    /// # Errors
    /// [`Error::OptimizerSize`] and [`Error::Average`].
    pub fn check(&self, adapter: &LoraAdapter, ema_decay: f64) -> Result<(), Error> {
        let (expected, found) = (adapter.parameter_count(), self.adamw.first.len());
        if expected != found {
            return Err(Error::OptimizerSize { expected, found });
        }
        if self.average.is_some() != (ema_decay > 0.0) {
            return Err(Error::Average {
                found: self.average.is_some(),
                ema_decay,
            });
        }
        Ok(())
    }
}

/// A policy in memory.
#[derive(Debug, Clone)]
pub struct PolicyState {
    /// The trained adapter.
    pub adapter: LoraAdapter,
    /// What the next update continues from.
    pub optimizer: OptimizerState,
}

/// A policy as blobs, with the record that names them.
#[derive(Debug, Clone)]
pub struct EncodedPolicy {
    /// The record.
    pub policy: Policy,
    /// The PEFT file.
    pub adapter: Vec<u8>,
    /// The optimizer file.
    pub optimizer: Vec<u8>,
    /// The averaged adapter's PEFT file, where the run keeps one.
    pub averaged: Option<Vec<u8>>,
}

impl PolicyState {
    /// The averaged adapter, where the run keeps one.
    ///
    /// # Errors
    /// [`Error::Lora`] when the average is of another adapter.
    pub fn averaged(&self) -> Result<Option<LoraAdapter>, Error> {
        let Some(average) = &self.optimizer.average else {
            return Ok(None);
        };
        let mut averaged = self.adapter.clone();
        averaged.unflatten(average)?;
        Ok(Some(averaged))
    }

    /// Writes and hashes all parts, at the same time; equal states give equal bytes and so equal records.
    ///
    /// # Errors
    /// [`Error::Lora`] when the adapter cannot be laid out.
    pub fn encode(&self) -> Result<EncodedPolicy, Error> {
        let ((adapter, averaged), optimizer) = rayon::join(
            || {
                rayon::join(
                    || self.adapter.to_safetensors().map(named),
                    || -> Result<_, Error> {
                        let averaged = self.averaged()?.map(|averaged| averaged.to_safetensors()).transpose()?;
                        Ok(averaged.map(named))
                    },
                )
            },
            || named(self.optimizer.to_safetensors()),
        );
        let ((adapter_name, adapter), (optimizer_name, optimizer)) = (adapter?, optimizer);
        let (averaged_name, averaged) = averaged?.unzip();
        let manifest = self.adapter.manifest();
        let policy = Policy {
            adapter: adapter_name,
            optimizer: optimizer_name,
            averaged: averaged_name,
            manifest: Digest(manifest.names_sha256),
            tensors: manifest.tensors as u32,
        };
        Ok(EncodedPolicy {
            policy,
            adapter,
            optimizer,
            averaged,
        })
    }
}

fn named(file: Vec<u8>) -> (Digest, Vec<u8>) {
    (Digest::of(&file), file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optimizer_state_survives_its_file() {
        let adamw = AdamW {
            step: 7,
            first: vec![1.0, -2.0],
            second: vec![0.5, 1e-12],
        };
        for average in [None, Some(vec![3.0, 4.0])] {
            let state = OptimizerState {
                adamw: adamw.clone(),
                average,
            };
            assert_eq!(
                OptimizerState::from_safetensors(&state.to_safetensors()).unwrap(),
                state
            );
        }
    }

    #[test]
    fn an_optimizer_state_with_moments_of_two_sizes_is_refused() {
        let state = OptimizerState {
            adamw: AdamW {
                step: 1,
                first: vec![0.0; 3],
                second: vec![0.0; 3],
            },
            average: None,
        };
        let mut file = TensorFile::from_bytes(&state.to_safetensors()).unwrap();
        file.insert("second", &[2], vec![0.0; 2]);
        let error = OptimizerState::from_safetensors(&file.to_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "tensor `second` has shape [2], expected [3]");
    }
}
