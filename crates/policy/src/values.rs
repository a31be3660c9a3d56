//! The numbers of a tensor on the host.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use gavel_models::{ModelError, denoiser::Conditioning};

use crate::{HostConditioning, HostTensor};

/// Reads a tensor as a row-major float32 slice: in place where it lies on the CPU, copied once from any other device.
///
/// # Errors
/// [`ModelError::Candle`] when it cannot be read.
pub(crate) fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T, ModelError> {
    let tensor = tensor.to_dtype(DType::F32)?.contiguous()?.to_device(&Device::Cpu)?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(read(&values[start..end])),
        _ => unreachable!("made contiguous, float32, and moved to the CPU above"),
    }
}

/// A copy of a tensor on the host, with its shape.
///
/// # Errors
/// As [`with_values`].
pub(crate) fn to_host(tensor: &Tensor) -> Result<HostTensor, ModelError> {
    Ok(HostTensor {
        shape: tensor.dims().to_vec(),
        values: with_values(tensor, <[f32]>::to_vec)?,
    })
}

/// A copy of a conditioning where a denoiser reads it.
///
/// # Errors
/// [`ModelError::Candle`] when the copy fails.
pub(crate) fn on_device(conditioning: &HostConditioning, device: &Device) -> Result<Conditioning, ModelError> {
    let tensors = conditioning.iter();
    tensors
        .map(|(name, tensor)| {
            let copy = Tensor::from_slice(&tensor.values, tensor.shape.as_slice(), device)?;
            Ok((name.clone(), copy))
        })
        .collect()
}
