//! Gradients of an adapter.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;

use super::adapter::Slots;
use super::{LoraAdapter, LoraError, files};
use crate::ops::GradientSums;

/// One number per parameter of an adapter, in the adapter's flat order.
///
/// The sums stay where they are computed: a backward on a GPU adds to tensors on the GPU, which are read back once, when
/// somebody asks for the values.
#[derive(Debug, Clone)]
pub struct LoraGradients {
    slots: Arc<Slots>,
    sums: Sums,
}

#[derive(Debug, Clone)]
enum Sums {
    Host(Vec<f32>),
    Device {
        /// By offset in the flat order; a factor without a tensor has the gradient 0.
        factors: BTreeMap<usize, Tensor>,
        /// The values, if they have been read since they last changed.
        read: OnceLock<Vec<f32>>,
    },
}

impl LoraGradients {
    /// Zeros for each parameter of `adapter`.
    pub fn zeros(adapter: &LoraAdapter) -> Self {
        Self {
            slots: Arc::clone(&adapter.slots),
            sums: Sums::Device {
                factors: BTreeMap::new(),
                read: OnceLock::new(),
            },
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
        match &self.sums {
            Sums::Host(values) => Ok(values),
            Sums::Device { factors, read } => match read.get() {
                Some(values) => Ok(values),
                None => {
                    let values = read_back(factors, self.slots.parameters)?;
                    Ok(read.get_or_init(|| values))
                }
            },
        }
    }

    /// How many values there are.
    pub(crate) fn parameter_count(&self) -> usize {
        self.slots.parameters
    }

    /// Adds what a backward computed.
    pub(crate) fn accumulate(&mut self, sums: GradientSums) -> candle_core::Result<()> {
        match (sums, &mut self.sums) {
            (GradientSums::Flat(values), _) => add(self.host()?, &values),
            (GradientSums::Factors(added), Sums::Device { factors, read }) => {
                read.take();
                for (offset, gradient) in added {
                    let sum = match factors.remove(&offset) {
                        Some(sum) => (sum + gradient)?,
                        None => gradient,
                    };
                    factors.insert(offset, sum);
                }
            }
            (GradientSums::Factors(added), Sums::Host(values)) => {
                for (offset, gradient) in added {
                    let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
                    add(&mut values[offset..offset + gradient.len()], &gradient);
                }
            }
        }
        Ok(())
    }

    /// The values on the host, for changing them.
    fn host(&mut self) -> candle_core::Result<&mut Vec<f32>> {
        if let Sums::Device { factors, read } = &mut self.sums {
            let values = match read.take() {
                Some(values) => values,
                None => read_back(factors, self.slots.parameters)?,
            };
            self.sums = Sums::Host(values);
        }
        match &mut self.sums {
            Sums::Host(values) => Ok(values),
            Sums::Device { .. } => unreachable!("the sums were brought to the host above"),
        }
    }

    /// Multiplies each value.
    ///
    /// # Errors
    /// As [`Self::as_slice`].
    pub fn scale(&mut self, factor: f32) -> Result<(), LoraError> {
        self.host()?.iter_mut().for_each(|value| *value *= factor);
        Ok(())
    }

    /// Adds another gradient of the same adapter.
    ///
    /// # Errors
    /// [`LoraError::Count`] when it has another number of values, and as [`Self::as_slice`].
    pub fn add(&mut self, other: &Self) -> Result<(), LoraError> {
        if self.slots.parameters != other.slots.parameters {
            return Err(LoraError::Count {
                expected: self.slots.parameters,
                found: other.slots.parameters,
            });
        }
        match &other.sums {
            Sums::Device { factors, .. } => {
                let factors = factors.iter().map(|(offset, sum)| (*offset, sum.clone()));
                Ok(self.accumulate(GradientSums::Factors(factors.collect()))?)
            }
            Sums::Host(values) => {
                add(self.host()?, values);
                Ok(())
            }
        }
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
    /// [`LoraError::Safetensors`] when the file cannot be laid out, and as [`Self::as_slice`].
    pub fn to_safetensors(&self) -> Result<Vec<u8>, LoraError> {
        files::serialize(&self.slots, self.as_slice()?, "")
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// The flat values of sums on a device, in one transfer.
fn read_back(factors: &BTreeMap<usize, Tensor>, parameters: usize) -> candle_core::Result<Vec<f32>> {
    let mut flat = vec![0.0; parameters];
    if factors.is_empty() {
        return Ok(flat);
    }
    let pieces: Vec<Tensor> = factors.values().map(Tensor::flatten_all).collect::<Result<_, _>>()?;
    let values: Vec<f32> = Tensor::cat(&pieces, 0)?.to_vec1()?;
    let mut first = 0;
    for (offset, piece) in factors.keys().zip(&pieces) {
        let count = piece.elem_count();
        flat[*offset..offset + count].copy_from_slice(&values[first..first + count]);
        first += count;
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::lora::{AdaptableLayers, LoraConfig};

    /// One layer of 2 inputs and 1 output with rank 1: A at 0..2, B at 2..3.
    fn zeros() -> LoraGradients {
        let mut layers = AdaptableLayers::default();
        layers.add(2, [("layer".to_owned(), 1)]);
        let config = LoraConfig {
            rank: 1,
            alpha: 1.0,
            dropout: 0.0,
            target_modules: vec!["layer".to_owned()],
        };
        LoraGradients::zeros(&LoraAdapter::init(&layers, &config, [0; 32]).unwrap())
    }

    fn on_device(offset: usize, values: &[f32]) -> GradientSums {
        let tensor = Tensor::from_slice(values, (1, values.len()), &Device::Cpu).unwrap();
        GradientSums::Factors(vec![(offset, tensor)])
    }

    #[test]
    fn sums_on_a_device_are_read_at_their_offsets_and_again_after_a_change() {
        let mut gradients = zeros();
        assert_eq!(gradients.as_slice().unwrap(), [0.0; 3]);
        gradients.accumulate(on_device(2, &[5.0])).unwrap();
        assert_eq!(gradients.as_slice().unwrap(), [0.0, 0.0, 5.0]);
        gradients.accumulate(on_device(0, &[1.0, 2.0])).unwrap();
        gradients.accumulate(on_device(2, &[1.0])).unwrap();
        assert_eq!(gradients.as_slice().unwrap(), [1.0, 2.0, 6.0]);
    }

    #[test]
    fn sums_of_host_and_device_add_up_in_either_order() {
        let flat = || GradientSums::Flat(vec![1.0, 2.0, 3.0]);
        let (mut host, mut device) = (zeros(), zeros());
        host.accumulate(flat()).unwrap();
        device.accumulate(on_device(0, &[10.0, 20.0])).unwrap();
        let mut sum = host.clone();
        sum.add(&device).unwrap();
        assert_eq!(sum.as_slice().unwrap(), [11.0, 22.0, 3.0]);
        device.add(&host).unwrap();
        assert_eq!(device.as_slice().unwrap(), sum.as_slice().unwrap());
    }
}
