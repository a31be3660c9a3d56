//! Weights as the kernels keep them.

use candle_core::{CpuStorage, DType, Storage, Tensor};

use super::super::FrozenWeight;
use super::matmul::{Order, Packed};

/// Packs the transpose of a weight as it is kept.
pub(crate) fn pack_frozen(weight: &FrozenWeight) -> candle_core::Result<Packed> {
    match weight {
        FrozenWeight::Whole(weight) => pack(weight),
        FrozenWeight::Fp8(weight) => Ok(Packed::fp8(weight)),
        FrozenWeight::Nf4(weight) => Ok(Packed::nf4(weight)),
    }
}

/// Packs the transpose of a weight (outputs, inputs) in its own dtype; what is no float32, bfloat16 or float16 becomes float32.
pub(crate) fn pack(weight: &Tensor) -> candle_core::Result<Packed> {
    let (outputs, inputs) = weight.dims2()?;
    let weight = match weight.dtype() {
        DType::F32 | DType::BF16 | DType::F16 => weight.contiguous()?,
        _ => weight.to_dtype(DType::F32)?.contiguous()?,
    };
    let (storage, layout) = weight.storage_and_layout();
    let (first, shape) = (layout.start_offset(), (inputs, outputs));
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(Packed::new(shape, &values[first..], inputs, Order::Transposed)),
        Storage::Cpu(CpuStorage::BF16(values)) => Ok(Packed::new(shape, &values[first..], inputs, Order::Transposed)),
        Storage::Cpu(CpuStorage::F16(values)) => Ok(Packed::new(shape, &values[first..], inputs, Order::Transposed)),
        _ => Err(candle_core::Error::Msg("a weight of the CPU kernels lies on another device".to_owned()).bt()),
    }
}
