//! The weight of a frozen linear layer where candle computes.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::super::FrozenWeight;
use super::Calls;
use super::kernels::Operation;

/// A weight (outputs, inputs).
#[derive(Debug)]
pub(crate) enum Weight<T> {
    /// In the format in which it is multiplied.
    Whole(T),
    /// In 8 bits.
    Fp8 {
        /// (outputs, inputs).
        bytes: T,
        /// (outputs,).
        scales: T,
        /// In which it is multiplied.
        dtype: DType,
    },
}

impl<T: Calls> Weight<T> {
    /// Brings a weight to a place. One of 8 bits is multiplied in `dtype`, another in its own.
    pub(crate) fn new(weight: &FrozenWeight, dtype: DType, place: &T::Place) -> CandleResult<Self> {
        match weight {
            FrozenWeight::Whole(weight) => T::take(weight, place)?.contiguous().map(Self::Whole),
            FrozenWeight::Fp8(weight) => {
                let (outputs, inputs) = weight.shape();
                let bytes = Tensor::from_slice(weight.bytes(), (outputs, inputs), &Device::Cpu)?;
                Ok(Self::Fp8 {
                    bytes: T::take(&bytes, place)?,
                    scales: T::upload(weight.scales(), outputs, place)?,
                    dtype,
                })
            }
        }
    }

    /// (outputs, inputs).
    pub(crate) fn shape(&self) -> (usize, usize) {
        let (Self::Whole(weight) | Self::Fp8 { bytes: weight, .. }) = self;
        (weight.dims()[0], weight.width())
    }

    /// The format in which it is multiplied.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Whole(weight) => weight.dtype(),
            Self::Fp8 { dtype, .. } => *dtype,
        }
    }

    /// Its values, for one product: those of 8 bits are widened anew each time, so that no more than one such weight is in memory.
    pub(crate) fn values(&self) -> CandleResult<T> {
        match self {
            Self::Whole(weight) => Ok(weight.clone()),
            Self::Fp8 { bytes, scales, dtype } => bytes.fused(Operation::Dequantized { dtype: *dtype }, &[scales]),
        }
    }
}
