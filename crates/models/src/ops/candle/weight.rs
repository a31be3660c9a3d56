//! The weight of a frozen linear layer where candle computes.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::super::FrozenWeight;
use super::super::nf4::BLOCK;
use super::Calls;
use super::kernels::Operation;

/// A weight (outputs, inputs).
#[derive(Debug)]
pub(crate) enum Weight<T> {
    /// In the format in which it is multiplied.
    Whole(T),
    /// In fewer bits.
    Quantized {
        /// (outputs, inputs) of 8 bits, (outputs, inputs / 2) of 4.
        bytes: T,
        /// (outputs,) of 8 bits, (outputs, blocks) of 4.
        scales: T,
        /// What gives the values.
        widens: Operation,
    },
}

impl<T: Calls> Weight<T> {
    /// Brings a weight to a place. A quantized one is multiplied in `dtype`, another in its own.
    pub(crate) fn new(weight: &FrozenWeight, dtype: DType, place: &T::Place) -> CandleResult<Self> {
        match weight {
            FrozenWeight::Whole(weight) => T::take(weight, place)?.contiguous().map(Self::Whole),
            FrozenWeight::Fp8(weight) => {
                let (outputs, inputs) = weight.shape();
                Ok(Self::Quantized {
                    bytes: bytes(weight.bytes(), (outputs, inputs), place)?,
                    scales: T::upload(weight.scales(), outputs, place)?,
                    widens: Operation::Dequantized { dtype },
                })
            }
            FrozenWeight::Nf4(weight) => {
                let (outputs, inputs) = weight.shape();
                Ok(Self::Quantized {
                    bytes: bytes(weight.bytes(), (outputs, inputs / 2), place)?,
                    scales: T::upload(weight.scales(), (outputs, inputs.div_ceil(BLOCK)), place)?,
                    widens: Operation::DequantizedNf4 { dtype },
                })
            }
        }
    }

    /// (outputs, inputs).
    pub(crate) fn shape(&self) -> (usize, usize) {
        let (outputs, inputs) = match self {
            Self::Whole(weight) | Self::Quantized { bytes: weight, .. } => (weight.dims()[0], weight.width()),
        };
        match self {
            Self::Quantized {
                widens: Operation::DequantizedNf4 { .. },
                ..
            } => (outputs, 2 * inputs),
            _ => (outputs, inputs),
        }
    }

    /// The format in which it is multiplied.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Whole(weight) => weight.dtype(),
            Self::Quantized { widens, .. } => widens.dtype(DType::U8),
        }
    }

    /// Its values, for one product: quantized ones are widened anew each time, so that no more than one such weight is in memory.
    pub(crate) fn values(&self) -> CandleResult<T> {
        match self {
            Self::Whole(weight) => Ok(weight.clone()),
            Self::Quantized { bytes, scales, widens } => bytes.fused(*widens, &[scales]),
        }
    }
}

fn bytes<T: Calls>(bytes: &[u8], shape: (usize, usize), place: &T::Place) -> CandleResult<T> {
    T::take(&Tensor::from_slice(bytes, shape, &Device::Cpu)?, place)
}
