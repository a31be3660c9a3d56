//! From the words of a run specification to candle's device and number format.

use candle_core::DType;
use gavel_core::spec;
use gavel_core::work::Memory;

/// Opens a device.
///
/// # Errors
/// A GPU that does not exist, or a build without GPU support.
pub fn device(device: spec::Device) -> candle_core::Result<candle_core::Device> {
    match device {
        spec::Device::Cpu => Ok(candle_core::Device::Cpu),
        spec::Device::Cuda(ordinal) => candle_core::Device::new_cuda(ordinal),
    }
}

/// The number format of that name.
pub fn dtype(dtype: spec::Dtype) -> DType {
    match dtype {
        spec::Dtype::F32 => DType::F32,
        spec::Dtype::Bf16 => DType::BF16,
        spec::Dtype::F16 => DType::F16,
    }
}

/// The memory of a GPU, whoever uses it; `None` without it, and in a build without GPU support.
#[cfg(feature = "cuda")]
pub fn gpu_memory(ordinal: usize) -> Option<Memory> {
    // The device's primary context, which its models use too.
    let context = candle_core::cuda_backend::cudarc::driver::CudaContext::new(ordinal).ok()?;
    let (free, total) = context.mem_get_info().ok()?;
    Some(Memory {
        used_bytes: total.saturating_sub(free) as u64,
        total_bytes: total as u64,
    })
}

/// The memory of a GPU, whoever uses it; `None` without it, and in a build without GPU support.
#[cfg(not(feature = "cuda"))]
pub fn gpu_memory(_ordinal: usize) -> Option<Memory> {
    None
}
